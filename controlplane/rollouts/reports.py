"""What agents report, against what was wished: the fence, and the steps of deployments.

A report that names an older generation is history and never becomes state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, FINAL_DEPLOYMENT, DeploymentState
from controlplane.fleet.identity import Caller, accept_report
from controlplane.fleet.inventory import (
    MachineFacts,
    TritonFacts,
    record_machine,
    record_triton,
)
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.models import Deployment, DeploymentKind, SiteModel

PHASES = (
    "pending",
    "downloading",
    "staged",
    "proving",
    "activating",
    "verifying",
    "succeeded",
    "failed",
)
_FORWARD = {
    "pending": DeploymentState.OFFERED,
    "downloading": DeploymentState.STAGING,
    "staged": DeploymentState.STAGED,
    "proving": DeploymentState.PROVING,
    "activating": DeploymentState.ACTIVATING,
    "verifying": DeploymentState.VERIFYING,
    "succeeded": DeploymentState.SUCCEEDED,
    "failed": DeploymentState.FAILED,
}
_ROLLBACK = _FORWARD | {
    "succeeded": DeploymentState.ROLLED_BACK,
    "failed": DeploymentState.ROLLBACK_FAILED,
}


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What an agent says of one model (docs/agent-protocol.md, section 5)."""

    model: str
    generation: int
    phase: str
    target: int | None
    serving: int | None
    healthy: bool | None
    reason_code: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report of one agent."""

    seq: int
    epoch: int
    observed_generation: int
    agent_version: str
    sent_at: datetime | None
    triton: TritonFacts
    models: tuple[ModelReport, ...]
    machine: MachineFacts | None = None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of a report."""

    duplicate: bool
    superseded: Sequence[str] = field(default_factory=list)


@transaction.atomic
def record_report(*, caller: Caller, report: Report, now: datetime) -> Receipt:
    """Takes a report in, whole or not at all.

    Raises `Conflict` (`generation-unknown`) for a wish this centre never made: it was restored from
    an older backup, or the report is another site's.
    """
    accepted = accept_report(
        caller=caller,
        seq=report.seq,
        agent_version=report.agent_version,
        observed_generation=report.observed_generation,
        sent_at=report.sent_at,
        now=now,
    )
    if not accepted:
        return Receipt(duplicate=True)
    if report.machine:
        record_machine(caller=caller, machine=report.machine, now=now)
    record_triton(caller=caller, triton=report.triton, now=now)
    wishes = {
        row.model.name: row
        for row in SiteModel.objects.select_for_update(of=("self",))
        .select_related("model")
        .filter(site_id=caller.site_id)
        .order_by("pk")
    }
    superseded = [
        said.model
        for said in report.models
        if said.model in wishes
        and not _record_model(caller, wishes[said.model], said, report.epoch, now)
    ]
    return Receipt(duplicate=False, superseded=superseded)


def _record_model(
    caller: Caller, wish: SiteModel, said: ModelReport, epoch: int, now: datetime
) -> bool:
    """Whether the report speaks of the present wish."""
    if (epoch, said.generation) > (caller.epoch, wish.generation):
        raise Conflict(
            "generation-unknown",
            f"The report names generation {epoch}.{said.generation} of {said.model}; the newest "
            f"here is {caller.epoch}.{wish.generation}. Was the centre restored from a backup?",
        )
    if (epoch, said.generation) < (caller.epoch, wish.generation):
        record_event(
            now=now,
            actor=f"agent:{caller.site_name}",
            action="report.superseded",
            object_type="site",
            object_id=caller.site_name,
            reason=f"{said.model}: {said.phase} for generation {epoch}.{said.generation}",
            data={"model": said.model, "now": f"{caller.epoch}.{wish.generation}"},
        )
        return False
    wish.reported_phase = said.phase
    wish.reported_serving = said.serving
    wish.reported_healthy = said.healthy
    wish.reported_reason_code = said.reason_code
    wish.reported_reason = said.reason
    wish.reported_at = now
    wish.save(
        update_fields=[
            "reported_phase",
            "reported_serving",
            "reported_healthy",
            "reported_reason_code",
            "reported_reason",
            "reported_at",
        ]
    )
    _move_deployment(caller, wish, said, now)
    return True


def _move_deployment(caller: Caller, wish: SiteModel, said: ModelReport, now: datetime) -> None:
    deployment = (
        Deployment.objects.select_for_update(of=("self",))
        .select_related("to_version", "rollout")
        .filter(
            site_id=caller.site_id,
            model_id=wish.model_id,
            generation=wish.generation,
            state__in=ACTIVE_DEPLOYMENT,
        )
        .first()
    )
    if deployment is None:
        return
    state, code, reason = _state_after(deployment, said)
    if (deployment.state, deployment.reason_code, deployment.reason) == (state, code, reason):
        return
    moved = deployment.state != state
    deployment.state, deployment.reason_code, deployment.reason = state, code, reason
    if state in FINAL_DEPLOYMENT:
        deployment.finished_at = now
    deployment.save(update_fields=["state", "reason_code", "reason", "finished_at"])
    if moved:
        record_event(
            now=now,
            actor=f"agent:{caller.site_name}",
            action=f"deployment.{state.value}",
            object_type="rollout",
            object_id=str(deployment.rollout_id),
            reason=reason,
            data={
                "site": caller.site_name,
                "kind": deployment.kind,
                "phase": said.phase,
                "serving": said.serving,
            },
        )
        ring_after_commit(deployment.rollout_id)


def _state_after(deployment: Deployment, said: ModelReport) -> tuple[DeploymentState, str, str]:
    """The state a report puts a deployment in. "Succeeded" is believed only when what the agent
    saw Triton serve is what was asked for, and well."""
    target = deployment.to_version.number if deployment.to_version else None
    if said.phase == "succeeded" and (
        said.serving != target or (target is not None and said.healthy is not True)
    ):
        seen = f"version {said.serving}" if said.serving else "nothing"
        reason = f"the agent reports success, but serves {seen} (healthy: {said.healthy})"
        return DeploymentState.VERIFYING, "success-unproven", reason
    states = _ROLLBACK if deployment.kind == DeploymentKind.ROLLBACK else _FORWARD
    return states[said.phase], said.reason_code[:60], said.reason[:500]
