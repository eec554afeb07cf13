"""Decisions to rows. Applies what `decide` chose, under its service's lock, and writes down why.

It must not choose anything itself."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import assert_never

from django.db.models import DateTimeField, F, Value
from django.db.models.functions import Coalesce, Greatest

from controlplane.domain.decisions import (
    Begin,
    BeginSoak,
    CallBack,
    CountSoak,
    Decision,
    EndOverdue,
    Finish,
    OfferSites,
    PassStage,
    Pause,
    Release,
    RemoveRetired,
    RetryFailed,
    RollBack,
    SkipStage,
    StartStage,
    Wait,
)
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.rollouts import site_effects as sites
from controlplane.rollouts.history import ENGINE, record, stage_moves
from controlplane.rollouts.models import DeploymentKind, Rollout, Stage


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
        case Release():
            _turn(rollout, decision, now, "released", state=RolloutState.PLANNED)
        case Begin():
            _turn(rollout, decision, now, "started", state=RolloutState.RUNNING, started_at=now)
        case StartStage():
            changes = {"state": StageState.RUNNING, "started_at": now}
            _turn_stage(rollout, decision, now, "stage_started", changes)
        case OfferSites():
            moves = sites.offer(
                rollout, decision.stage, decision.count, now, retries_only=decision.retries_only
            )
            _turn(rollout, decision, now, "offered", deployments=moves)
        case RetryFailed():
            moves = sites.retry_failed(rollout, now, stage_index=decision.stage, forced=False)
            _turn(rollout, decision, now, "retried", deployments=moves)
        case EndOverdue():
            moves = sites.end_overdue(rollout, decision.stage, decision.defer, now)
            _turn(rollout, decision, now, "sites_timed_out", deployments=moves)
        case RemoveRetired():
            moves = sites.remove_retired(rollout, decision.stage, now)
            _turn(rollout, decision, now, "sites_removed", deployments=moves)
        case CallBack():
            moves = sites.cancel_open(rollout, now, decision.reason)
            _turn(rollout, decision, now, "called_back", deployments=moves)
        case SkipStage():
            changes = {"state": StageState.SKIPPED, "finished_at": now}
            _turn_stage(rollout, decision, now, "stage_skipped", changes)
        case BeginSoak():
            changes = {"state": StageState.SOAKING, "soak_counted_until": _counted_until(now)}
            _turn_stage(rollout, decision, now, "soak_started", changes)
        case CountSoak():
            _count_soak(rollout, decision, now)
        case PassStage():
            changes = {
                "state": StageState.PASSED,
                "finished_at": now,
                "soaked_seconds": F("soaked_seconds") + decision.seconds,
                "soak_counted_until": _counted_until(now),
            }
            _turn_stage(rollout, decision, now, "stage_passed", changes)
        case Pause():
            _turn(
                rollout,
                decision,
                now,
                "paused",
                state=RolloutState.PAUSED,
                cause=decision.reason[:500],
                pause_code=decision.code,
                reason_code=decision.code,
            )
        case RollBack():
            roll_back(rollout, decision, actor=ENGINE, now=now)
        case Finish():
            _finish(rollout, decision, now)
        case Wait():
            note_reason(rollout, decision.reason_code, decision.reason, now)
            if decision.soak_anew is not None:
                Stage.objects.filter(rollout=rollout, index=decision.soak_anew).update(
                    soaked_seconds=0, inconclusive_seconds=0, soak_counted_until=None
                )
        case _:
            assert_never(decision)


def _turn(
    rollout: Rollout,
    decision: Decision,
    now: datetime,
    action: str,
    *,
    stages: Sequence[dict[str, object]] = (),
    deployments: Sequence[dict[str, object]] = (),
    **changes: object,
) -> None:
    """Writes the rollout's own row, and the event that a replay makes the same of."""
    before = rollout.state
    changes.setdefault("reason_code", action.replace("_", "-"))
    compare_and_set(rollout, reason=decision.reason[:500], waiting_since=now, **changes)
    record(
        rollout,
        action,
        now=now,
        before=before,
        reason=decision.reason,
        stages=stages,
        deployments=deployments,
    )


def _turn_stage(
    rollout: Rollout,
    decision: StartStage | SkipStage | BeginSoak | PassStage,
    now: datetime,
    action: str,
    changes: Mapping[str, object],
) -> None:
    """Moves one stage, by a step the table of states knows; another is a bug."""
    stage = Stage.objects.get(rollout=rollout, index=decision.stage)
    after = StageState(str(changes["state"]))
    _turn(rollout, decision, now, action, stages=stage_moves([stage], after))
    # The condition stands in the update itself: it holds even where nobody holds the lock.
    may = [before for before, steps in STAGE_TRANSITIONS.items() if after in steps]
    rows = Stage.objects.filter(pk=stage.pk, state__in=may)
    if not rows.update(reason=decision.reason[:500], **changes):
        raise RuntimeError(f"{stage} cannot go to {after}")


def _count_soak(rollout: Rollout, decision: CountSoak, now: datetime) -> None:
    """Also when the sentence is the same: the seconds must be counted once."""
    code = "gate-inconclusive" if decision.inconclusive else "soaking"
    since = rollout.waiting_since if rollout.reason_code == code else now
    compare_and_set(rollout, reason_code=code, reason=decision.reason[:500], waiting_since=since)
    changes: dict[str, object] = {"soaked_seconds": F("soaked_seconds") + decision.seconds}
    if decision.inconclusive:
        changes["inconclusive_seconds"] = F("inconclusive_seconds") + decision.inconclusive
    elif decision.seconds:
        changes["inconclusive_seconds"] = 0
    Stage.objects.filter(rollout=rollout, index=decision.stage).update(
        reason=decision.reason[:500], soak_counted_until=_counted_until(now), **changes
    )


def _counted_until(now: datetime) -> Greatest:
    """Never earlier than it was: a turn that waited for the lock comes with the time at which it
    began to wait, and the seconds since were counted by whoever held the lock."""
    moment = Value(now, output_field=DateTimeField())
    return Greatest(Coalesce(F("soak_counted_until"), moment), moment)


def note_reason(rollout: Rollout, code: str, reason: str, now: datetime) -> None:
    """Keeps "why not yet" current; `waiting_since` stays while the cause is the same."""
    if rollout.reason_code == code and rollout.reason == reason[:500]:
        return
    since = rollout.waiting_since if rollout.reason_code == code else now
    compare_and_set(rollout, reason_code=code, reason=reason[:500], waiting_since=since)


def roll_back(rollout: Rollout, decision: RollBack, *, actor: str, now: datetime) -> None:
    """Turns the rollout round: every site it reached gets a new deployment back to the version
    that was recorded for it when it was offered this one."""
    before = rollout.state
    compare_and_set(
        rollout,
        state=RolloutState.ROLLING_BACK,
        pause_code="",
        cause=decision.reason[:500],
        reason_code=decision.reason_code,
        reason=decision.reason[:500],
        waiting_since=now,
    )
    stages = _stop_stages(rollout, decision.reason, now, failed=decision.failed_stages)
    reason = decision.reason
    # Sites that were retired meanwhile: should one come back, it must not find this wish.
    removed = sites.latest(rollout).filter(state=DeploymentState.REMOVED)
    removed = removed.exclude(offered_at=None, attempt=1)
    sites.hold(rollout, removed, sites.reached(rollout))
    sites.call_back(rollout, removed, now)
    pending = list(sites.latest(rollout).filter(state=DeploymentState.PENDING))
    never = "never offered: it turned back first"
    code = decision.reason_code
    moves = sites.end(pending, DeploymentState.CANCELLED, now, code=code, reason=never)
    moves += sites.return_sites(rollout, now, sites.reached(rollout), reason)
    record(
        rollout,
        "rolling_back",
        now=now,
        before=before,
        reason=reason,
        actor=actor,
        stages=stages,
        deployments=moves,
    )


def _stop_stages(
    rollout: Rollout, reason: str, now: datetime, *, failed: Sequence[int] = ()
) -> list[dict[str, object]]:
    """Ends the stages: those whose sites are the cause have failed, what is open is called off."""
    ended = [s for s in rollout.stages.all() if s.index in failed]
    open_states = (StageState.PENDING, StageState.RUNNING, StageState.SOAKING)
    called_off = [s for s in rollout.stages.all() if s.state in open_states and s not in ended]
    moves = stage_moves(ended, StageState.FAILED) + stage_moves(called_off, StageState.CANCELLED)
    for stages, state in ((ended, StageState.FAILED), (called_off, StageState.CANCELLED)):
        Stage.objects.filter(pk__in=[s.pk for s in stages]).update(
            state=state, reason=reason[:500], finished_at=now
        )
    return moves


def cancel(
    rollout: Rollout,
    *,
    reason: str,
    actor: str,
    now: datetime,
    superseded_by: Rollout | None = None,
) -> None:
    """Stops a rollout where it stands: nothing more is offered, a site that has not begun to switch
    is called back, one that has may finish. One that only queues is over at once."""
    before = rollout.state
    queued = before == RolloutState.QUEUED
    compare_and_set(
        rollout,
        state=RolloutState.CANCELLED if queued else RolloutState.CANCELLING,
        pause_code="",
        cause=reason[:500],
        reason_code="aborted" if superseded_by is None else "superseded",
        reason=reason[:500],
        waiting_since=now,
        superseded_by=superseded_by,
        finished_at=now if queued else None,
    )
    stages = _stop_stages(rollout, reason, now)
    moves = sites.cancel_open(rollout, now, reason)
    record(
        rollout,
        "aborted" if superseded_by is None else "superseded",
        now=now,
        before=before,
        reason=reason,
        actor=actor,
        stages=stages,
        deployments=moves,
        data={"superseded_by": superseded_by.pk} if superseded_by else None,
    )


def _finish(rollout: Rollout, decision: Finish, now: datetime) -> None:
    there = sites.latest(rollout).filter(state__in=ACTIVE_DEPLOYMENT)
    back = sites.latest(rollout, DeploymentKind.ROLLBACK).filter(state__in=ACTIVE_DEPLOYMENT)
    # A site whose switch failed serves its old version again; its wish must say so too. One that
    # fell silent while switching is called back for when it is heard of again.
    turned_back = decision.state in (RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE)
    left = [] if turned_back else [DeploymentState.FAILED, *ACTIVE_DEPLOYMENT]
    called_back = sites.latest(rollout).filter(state__in=left)
    sites.hold(rollout, there, back, called_back)
    sites.call_back(rollout, called_back, now)
    # What is still open: its sites were silent for too long to be waited for.
    silent = {"code": "site-silent", "reason": "the site was silent"}
    moves = sites.end(list(there), DeploymentState.CANCELLED, now, **silent)
    moves += sites.end(list(back), DeploymentState.ROLLBACK_FAILED, now, **silent)
    _turn(
        rollout,
        decision,
        now,
        decision.state.value,
        deployments=moves,
        state=decision.state,
        finished_at=now,
    )
