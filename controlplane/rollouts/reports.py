"""What agents report, against what was wished: the fence, and the steps of deployments.

A report that names an older generation is history and never becomes state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.db.models import Max

from controlplane.audit.services import record_event
from controlplane.catalog.footprints import Learned, learn
from controlplane.domain.admission import Instant, slot_is_free
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEGUN,
    FINAL_DEPLOYMENT,
    INFRASTRUCTURE_CODES,
    DeploymentState,
)
from controlplane.fleet.identity import Caller, accept_report
from controlplane.fleet.inventory import (
    MachineFacts,
    TritonFacts,
    record_machine,
    record_rules,
    record_triton,
    renew_triton,
)
from controlplane.fleet.models import Agent
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.models import BadVersion, Deployment, DeploymentKind, SiteModel

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
_SETTLED = ("succeeded", "failed")
# What an agent says after `waypost-agent rollback` (docs/agent-protocol.md, section 5).
ROLLED_BACK_LOCALLY = "rolled-back-locally"
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
    lease: int | None = None
    learned: Learned | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report of one agent. `made` is when, by the agent's own clock."""

    seq: int
    epoch: int
    observed_generation: int
    agent_version: str
    sent_at: datetime | None
    triton: TritonFacts
    models: tuple[ModelReport, ...]
    machine: MachineFacts | None = None
    made: Instant | None = None


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
        record_rules(caller=caller, machine=report.machine)
    record_triton(caller=caller, triton=report.triton, now=now)
    wishes = {
        row.model.name: row
        for row in SiteModel.objects.select_for_update(of=("self",))
        .select_related("model", "desired_variant")
        .defer("desired_variant__manifest")
        .filter(site_id=caller.site_id)
        .order_by("pk")
    }
    superseded = [
        said.model
        for said in report.models
        if said.model in wishes and not _record_model(caller, wishes[said.model], said, report, now)
    ]
    spoken = [
        said for said in report.models if said.model in wishes and said.model not in superseded
    ]
    _learn(caller, [(wishes[said.model], said) for said in spoken], now)
    return Receipt(duplicate=False, superseded=superseded)


def _learn(caller: Caller, spoken: Sequence[tuple[SiteModel, ModelReport]], now: datetime) -> None:
    """What loading the wished builds took here, where the site has come to serve them: it measured
    them on this hardware."""
    seen = {
        wish.desired_variant.manifest_digest: said.learned
        for wish, said in spoken
        if wish.desired_variant and said.learned and said.phase == "succeeded"
    }
    if seen:
        traits = traits_by_site([caller.site_id]).get(caller.site_id)
        hardware = traits.hardware if traits else ""
        learn(seen=seen, hardware=hardware, site_id=caller.site_id, now=now)


@transaction.atomic
def hold_report(*, caller: Caller, seq: int, now: datetime) -> bool:
    """Takes the last report as said again now, where `seq` is its number and the wishes are still
    those that `caller` was read with. Nothing else follows from it: nothing is new."""
    last = Agent.objects.filter(
        pk=caller.agent_id, session_counter=caller.session_counter, report_seq=seq
    )
    if not last.exists():
        return False
    models = SiteModel.objects.filter(
        site_id=caller.site_id,
        site__generation__epoch=caller.epoch,
        site__generation__generation=caller.generation,
    )
    # The models that it spoke of, and no others, were reported at that moment.
    newest = models.aggregate(at=Max("reported_at"))["at"]
    models.filter(reported_at=newest).update(reported_at=now)
    renew_triton(caller=caller, now=now)
    return True


def _record_model(
    caller: Caller, wish: SiteModel, said: ModelReport, report: Report, now: datetime
) -> bool:
    """Whether the report speaks of the present wish."""
    epoch = report.epoch
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
    # It speaks of this wish: whatever an older lease allowed it will not begin any more. Nor does
    # it switch any more for this one, when it has settled.
    settled = said.phase in _SETTLED and said.lease is None
    Deployment.objects.filter(
        may_still_begin=True,
        site_id=caller.site_id,
        model_id=wish.model_id,
        generation__lt=wish.generation + settled,
    ).update(may_still_begin=False)
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
    if not settled:
        _free_ended(wish, said, report)
    _move_deployment(caller, wish, said, report, now)
    return True


def _free_ended(wish: SiteModel, said: ModelReport, report: Report) -> None:
    """The deployment may be over and its wish stand, where the site has nothing to return to. It
    never settles then: that its lease was not used shows as with one that is under way."""
    state = _FORWARD[said.phase]
    ended = Deployment.objects.select_related("to_version").filter(
        may_still_begin=True,
        site_id=wish.site_id,
        model_id=wish.model_id,
        generation=wish.generation,
        state__in=FINAL_DEPLOYMENT,
    )
    free = [row.pk for row in ended if _lease_is_void(row, state, said, report)]
    if free:
        Deployment.objects.filter(pk__in=free).update(may_still_begin=False)


def _move_deployment(
    caller: Caller, wish: SiteModel, said: ModelReport, report: Report, now: datetime
) -> None:
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
        if said.phase == "failed" and said.reason_code == ROLLED_BACK_LOCALLY:
            _note_local_rollback(caller, wish, said, now)
        return
    state, code, reason = _state_after(deployment, said)
    holds = deployment.holds_lease and not _frees_slot(deployment, state, said, report)
    before = deployment.state
    if (before, deployment.reason_code, deployment.reason, deployment.holds_lease) == (
        state,
        code,
        reason,
        holds,
    ):
        return
    freed = deployment.holds_lease and not holds
    deployment.state, deployment.reason_code, deployment.reason = state, code, reason
    deployment.holds_lease = holds
    if state in FINAL_DEPLOYMENT:
        deployment.finished_at = now
    fields = ["state", "reason_code", "reason", "holds_lease", "finished_at"]
    deployment.save(update_fields=fields)
    failed = state in (DeploymentState.FAILED, DeploymentState.ROLLBACK_FAILED)
    if failed and code not in INFRASTRUCTURE_CODES and deployment.to_version is not None:
        _mark_bad(deployment, now)
    if state is DeploymentState.SUCCEEDED:
        BadVersion.objects.filter(
            site=deployment.site_id, version=deployment.to_version_id
        ).delete()
    if before != state or freed:
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
                "attempt": deployment.attempt,
                "before": before,
                "after": state.value,
                "phase": said.phase,
                "serving": said.serving,
            },
        )
    # Only an end lets the rollout go on; how far a site is shows with the next tick. A thousand
    # sites that rang at every step would keep the engine busy with nothing to decide.
    if state in FINAL_DEPLOYMENT:
        ring_after_commit(deployment.rollout_id)


def _note_local_rollback(caller: Caller, wish: SiteModel, said: ModelReport, now: datetime) -> None:
    """Somebody at the site took it back long after its rollout was over. What they left must not be
    brought back by whatever corrects drift; the next rollout is a person's decision."""
    if wish.desired_id is None:
        return
    _, is_new = BadVersion.objects.get_or_create(
        site_id=caller.site_id,
        version_id=wish.desired_id,
        defaults={"reason": said.reason[:500], "at": now},
    )
    if is_new:
        record_event(
            now=now,
            actor=f"agent:{caller.site_name}",
            action="site.rolled_back_locally",
            object_type="site",
            object_id=caller.site_name,
            reason=said.reason,
            data={"model": said.model, "target": said.target, "serving": said.serving},
        )


def _frees_slot(
    deployment: Deployment, state: DeploymentState, said: ModelReport, report: Report
) -> bool:
    """Whether the activation slot can be given to another site: the deployment is over, or this
    report proves that the lease was not used and never will be."""
    return state in FINAL_DEPLOYMENT or _lease_is_void(deployment, state, said, report)


def _lease_is_void(
    deployment: Deployment, state: DeploymentState, said: ModelReport, report: Report
) -> bool:
    """Whether this report, which speaks of `state`, proves that the lease was not used and never
    will be."""
    if report.made is None or deployment.lease_uptime is None or report.triton.live is not True:
        return False
    target = deployment.to_version.number if deployment.to_version else None
    return slot_is_free(
        asked=Instant(boot=deployment.lease_boot, uptime=deployment.lease_uptime),
        said=report.made,
        begun=state in BEGUN or said.serving == target,
        holds=said.lease == deployment.lease,
    )


def _mark_bad(deployment: Deployment, now: datetime) -> None:
    """Whatever corrects drift later must not bring this version here again."""
    BadVersion.objects.update_or_create(
        site_id=deployment.site_id,
        version=deployment.to_version,
        defaults={"reason": deployment.reason[:500], "at": now},
    )


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
