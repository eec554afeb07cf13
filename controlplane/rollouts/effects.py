"""Decisions to rows. Applies what `decide` chose, under its service's lock, and writes down why.

It must not choose anything itself."""

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from django.db.models import F, Q, QuerySet

from controlplane.audit.services import record_event
from controlplane.catalog.models import Version
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
    Begin,
    BeginSoak,
    CountSoak,
    Decision,
    DeploymentState,
    Finish,
    PassStage,
    RollBack,
    RolloutState,
    SkipStage,
    StageState,
    StartStage,
    Wait,
)
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage
from controlplane.rollouts.wishes import change_wishes

ENGINE = "engine"


class LostRace(Exception):
    """Somebody else changed the rollout since it was read; the transaction must be rolled back."""


def compare_and_set(rollout: Rollout, **changes: object) -> None:
    """Writes the rollout only if it is still as it was read. Raises `LostRace`, and `RuntimeError`
    for a step the table of states does not know: a bug, which must not reach the rows."""
    before, after = rollout.state, changes.get("state", rollout.state)
    if after != before and after not in ROLLOUT_TRANSITIONS[RolloutState(before)]:
        raise RuntimeError(f"rollout {rollout.pk} cannot go from {before} to {after}")
    updated = Rollout.objects.filter(pk=rollout.pk, revision=rollout.revision).update(
        revision=F("revision") + 1, **changes
    )
    if not updated:
        raise LostRace(f"rollout {rollout.pk} is past revision {rollout.revision}")
    rollout.revision += 1
    for name, value in changes.items():
        setattr(rollout, name, value)


def apply(rollout: Rollout, decision: Decision, now: datetime) -> None:
    """Makes the rows say what the decision says. Raises `LostRace`."""
    match decision:
        case Begin():
            _turn(rollout, decision, now, "started", state=RolloutState.RUNNING, started_at=now)
        case StartStage():
            _start_stage(rollout, decision, now)
        case SkipStage():
            _turn(rollout, decision, now, "stage_skipped")
            _set_stage(rollout, decision, now, state=StageState.SKIPPED, finished_at=now)
        case BeginSoak():
            _turn(rollout, decision, now, "soak_started")
            _set_stage(rollout, decision, now, state=StageState.SOAKING, soak_counted_until=now)
        case CountSoak():
            # Also when the sentence is the same: the seconds must be counted once.
            since = rollout.waiting_since if rollout.reason_code == "soaking" else now
            compare_and_set(
                rollout, reason_code="soaking", reason=decision.reason[:500], waiting_since=since
            )
            _set_stage(
                rollout,
                decision,
                now,
                soaked_seconds=F("soaked_seconds") + decision.seconds,
                soak_counted_until=now,
            )
        case PassStage():
            _turn(rollout, decision, now, "stage_passed")
            _set_stage(
                rollout,
                decision,
                now,
                state=StageState.PASSED,
                finished_at=now,
                soaked_seconds=F("soaked_seconds") + decision.seconds,
                soak_counted_until=now,
            )
        case RollBack():
            roll_back(rollout, decision, actor=ENGINE, now=now)
        case Finish():
            _finish(rollout, decision, now)
        case Wait():
            _note_reason(rollout, decision.reason_code, decision.reason, now)
        case _:
            assert_never(decision)


def _turn(
    rollout: Rollout,
    decision: Begin | StartStage | SkipStage | BeginSoak | PassStage | Finish,
    now: datetime,
    action: str,
    **changes: object,
) -> None:
    compare_and_set(
        rollout,
        reason_code=action.replace("_", "-"),
        reason=decision.reason[:500],
        waiting_since=now,
        **changes,
    )
    _record(rollout, action, actor=ENGINE, reason=decision.reason, now=now)


def _note_reason(rollout: Rollout, code: str, reason: str, now: datetime) -> None:
    """Keeps "why not yet" current; `waiting_since` stays while the cause is the same."""
    if rollout.reason_code == code and rollout.reason == reason[:500]:
        return
    since = rollout.waiting_since if rollout.reason_code == code else now
    compare_and_set(rollout, reason_code=code, reason=reason[:500], waiting_since=since)


def _set_stage(
    rollout: Rollout,
    decision: StartStage | SkipStage | BeginSoak | CountSoak | PassStage,
    now: datetime,
    **changes: object,
) -> None:
    rows = Stage.objects.filter(rollout=rollout, index=decision.stage)
    if state := changes.get("state"):
        rows = rows.filter(
            state__in=[s for s, after in STAGE_TRANSITIONS.items() if state in after]
        )
    if not rows.update(reason=decision.reason[:500], **changes):
        raise RuntimeError(f"stage {decision.stage} of rollout {rollout.pk} cannot go to {state}")


def _start_stage(rollout: Rollout, decision: StartStage, now: datetime) -> None:
    _turn(rollout, decision, now, "stage_started")
    _set_stage(rollout, decision, now, state=StageState.RUNNING, started_at=now)
    rows = list(
        Deployment.objects.filter(
            rollout=rollout,
            stage__index=decision.stage,
            kind=DeploymentKind.FORWARD,
            state=DeploymentState.PENDING,
        )
    )
    changes = change_wishes(
        model_id=rollout.model_id,
        wishes={row.site_id: rollout.version for row in rows},
        keep_previous=True,
    )
    for row in rows:
        row.from_version = changes[row.site_id].before
        row.generation = changes[row.site_id].generation
        row.state = DeploymentState.OFFERED
        row.offered_at = now
    Deployment.objects.bulk_update(
        rows, ["from_version", "generation", "state", "offered_at"], batch_size=500
    )


def roll_back(rollout: Rollout, decision: RollBack, *, actor: str, now: datetime) -> None:
    """Turns the rollout round: every site it reached gets a new deployment back to the version
    that was recorded for it when it was offered this one."""
    compare_and_set(
        rollout,
        state=RolloutState.ROLLING_BACK,
        cause=decision.reason[:500],
        reason_code=decision.reason_code,
        reason=decision.reason[:500],
        waiting_since=now,
    )
    _record(rollout, "rolling_back", actor=actor, reason=decision.reason, now=now)
    _stop_stages(rollout, decision, now)
    forward = Deployment.objects.filter(rollout=rollout, kind=DeploymentKind.FORWARD)
    reached = list(
        forward.filter(
            state__in=[*ACTIVE_DEPLOYMENT, DeploymentState.SUCCEEDED, DeploymentState.FAILED]
        ).select_related("from_version")
    )
    changes = change_wishes(
        model_id=rollout.model_id,
        wishes={row.site_id: row.from_version for row in reached},
        keep_previous=False,
    )
    never = RollBack(reason_code=decision.reason_code, reason="never offered: it turned back first")
    _cancel(forward.filter(state=DeploymentState.PENDING), never, now)
    _cancel(forward.filter(state__in=ACTIVE_DEPLOYMENT), decision, now)
    Deployment.objects.bulk_create(
        Deployment(
            rollout=rollout,
            stage_id=row.stage_id,
            site_id=row.site_id,
            model_id=rollout.model_id,
            kind=DeploymentKind.ROLLBACK,
            from_version_id=row.to_version_id,
            to_version_id=row.from_version_id,
            state=DeploymentState.OFFERED,
            generation=changes[row.site_id].generation,
            offered_at=now,
        )
        for row in reached
    )


def _stop_stages(rollout: Rollout, decision: RollBack, now: datetime) -> None:
    stages = Stage.objects.filter(rollout=rollout)
    ended = {"reason": decision.reason[:500], "finished_at": now}
    stages.filter(index__in=decision.failed_stages).update(state=StageState.FAILED, **ended)
    open_states = [StageState.PENDING, StageState.RUNNING, StageState.SOAKING]
    called_off = {"reason": "called off when the rollout turned back", "finished_at": now}
    stages.filter(state__in=open_states).update(state=StageState.CANCELLED, **called_off)


def cancel(rollout: Rollout, *, reason: str, actor: str, now: datetime) -> None:
    """Stops a rollout where it stands: nothing more is offered, a site that has not begun to switch
    is called back, one that has may finish."""
    compare_and_set(
        rollout,
        state=RolloutState.CANCELLING,
        cause=reason[:500],
        reason_code="aborted",
        reason=reason[:500],
        waiting_since=now,
    )
    _record(rollout, "aborted", actor=actor, reason=reason, now=now)
    Stage.objects.filter(
        rollout=rollout, state__in=[StageState.PENDING, StageState.RUNNING, StageState.SOAKING]
    ).update(state=StageState.CANCELLED, reason=reason[:500], finished_at=now)
    called_back = _call_back(rollout, BEFORE_SWITCH)
    decision = RollBack(reason_code="aborted", reason=reason)
    forward = Deployment.objects.filter(rollout=rollout, kind=DeploymentKind.FORWARD)
    # By site, not by state: a report may have moved one while this waited for its wish, and with
    # the wish gone that deployment could never end.
    gone = Q(site__in=called_back) & ~Q(state=DeploymentState.FAILED)
    _cancel(forward.filter(gone | Q(state=DeploymentState.PENDING)), decision, now)


def _call_back(rollout: Rollout, states: Iterable[DeploymentState]) -> list[int]:
    """Returns sites in these states to the version they had; the ids of those sites."""
    rows = Deployment.objects.filter(
        rollout=rollout, kind=DeploymentKind.FORWARD, state__in=list(states)
    ).select_related("from_version")
    wishes: dict[int, Version | None] = {row.site_id: row.from_version for row in rows}
    if wishes:
        change_wishes(model_id=rollout.model_id, wishes=wishes, keep_previous=False)
    return list(wishes)


def _finish(rollout: Rollout, decision: Finish, now: datetime) -> None:
    if decision.state is RolloutState.CANCELLED:
        # A site whose switch failed serves its old version again; its wish must say so too. One
        # that fell silent while switching is called back for when it is heard of again.
        _call_back(rollout, [DeploymentState.FAILED, *ACTIVE_DEPLOYMENT])
    _end_silent(rollout, now)
    _turn(rollout, decision, now, decision.state.value, state=decision.state, finished_at=now)


def _end_silent(rollout: Rollout, now: datetime) -> None:
    """Ends what is still open: its sites were silent for too long to be waited for."""
    left = Deployment.objects.filter(rollout=rollout, state__in=ACTIVE_DEPLOYMENT)
    ended = {"reason_code": "site-silent", "reason": "the site was silent", "finished_at": now}
    for kind, state in (
        (DeploymentKind.FORWARD, DeploymentState.CANCELLED),
        (DeploymentKind.ROLLBACK, DeploymentState.ROLLBACK_FAILED),
    ):
        left.filter(kind=kind).update(state=state, **ended)


def _cancel(rows: QuerySet[Deployment], decision: RollBack, now: datetime) -> None:
    rows.update(
        state=DeploymentState.CANCELLED,
        reason_code=decision.reason_code,
        reason=decision.reason[:500],
        finished_at=now,
    )


def _record(rollout: Rollout, action: str, *, actor: str, reason: str, now: datetime) -> None:
    record_event(
        now=now,
        actor=actor,
        action=f"rollout.{action}",
        object_type="rollout",
        object_id=str(rollout.pk),
        reason=reason,
        data={"state": str(rollout.state), "revision": rollout.revision},
    )
