"""What happens to single sites of a rollout: offered, tried again, ended, called back, returned.

Each function changes deployments and wishes together, and gives back the moves for the event of
the turn. Whom it concerns was decided elsewhere; it checks nothing but that a step is legal."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet

from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    NOTHING_SOUND,
    OPEN_STAGE,
    STAGE_FAILURES,
    DeploymentState,
    StageState,
)
from controlplane.domain.selector import SiteTraits
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.fitting import Given, fitting_of
from controlplane.rollouts.history import move_of
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel, Stage
from controlplane.rollouts.waits import has_begun, offerable, overdue_deployments
from controlplane.rollouts.way_back import can_return, tell_who_stays, why_it_stays
from controlplane.rollouts.wishes import Change, change_wishes, hold_wishes

D = DeploymentState
Moves = list[dict[str, object]]
BATCH = 500


def latest(rollout: Rollout, kind: str = DeploymentKind.FORWARD) -> QuerySet[Deployment]:
    """The attempts that count."""
    rows = Deployment.objects.filter(rollout=rollout, kind=kind, superseded=False)
    return rows.select_related("site", "from_version").order_by("pk")


def hold(rollout: Rollout, *rows: QuerySet[Deployment]) -> None:
    """Nothing is reported of these sites until the transaction ends. Once per transaction, with all
    that it will touch: rollouts of other models take the same locks, in the order of the sites."""
    ids = {pk for each in rows for pk in each.order_by().values_list("site_id", flat=True)}
    hold_wishes(model_id=rollout.model_id, site_ids=ids)


def offer(
    rollout: Rollout, stage_index: int, count: int, now: datetime, *, retries_only: bool
) -> Moves:
    """Wishes the version at up to `count` sites, each in the build that it was planned for. One
    whose hardware is no longer what the plan was made for, where no build can live any more, or
    which would get another build than was agreed to, is rejected instead."""
    rows = offerable(rollout, stage_index, count, now, retries_only=retries_only)
    traits = traits_by_site([row.site_id for row in rows]) if rows else {}
    given = _builds_for(rollout, rows, traits)
    moves: Moves = []
    offered: list[Deployment] = []
    for row in rows:
        has = traits[row.site_id].hardware if row.hardware else ""
        if has != row.hardware:
            reason = f"planned for {row.hardware}, it has {has} now"
            moves += end([row], D.REJECTED, now, code="hardware-changed", reason=reason)
        elif row.site_id in given and (refused := given[row.site_id].refused):
            moves += end([row], D.REJECTED, now, code="does-not-fit", reason=refused)
        elif row.site_id in given and row.variant not in ("", given[row.site_id].variant.name):
            reason = f"planned for variant {row.variant}; now {given[row.site_id].why}"
            moves += end([row], D.REJECTED, now, code="build-changed", reason=reason)
        else:
            offered.append(row)
    changes = change_wishes(
        model_id=rollout.model_id,
        wishes={row.site_id: rollout.version for row in offered},
        keep_previous=True,
        policy=policy_of(rows[0].stage.policy) if rows else None,
        given=given,
    )
    for row in offered:
        change = changes[row.site_id]
        moves.append(move_of(row, before=row.state, after=D.OFFERED))
        if row.attempt == 1:  # what a later one returns to was recorded by the first
            row.from_version = change.before
        row.generation = change.generation
        row.variant, row.variant_reason = change.variant, change.variant_reason
        row.state, row.offered_at = D.OFFERED, now
    fields = ["from_version", "generation", "variant", "variant_reason", "state", "offered_at"]
    Deployment.objects.bulk_update(offered, fields, batch_size=BATCH)
    return moves


def _builds_for(
    rollout: Rollout, rows: Sequence[Deployment], traits: Mapping[int, SiteTraits]
) -> dict[int, Given]:
    """By site id, chosen anew: what a site is may have changed since the plan. Only who tries again
    keeps its build: the disk that it lacks is full of it, and its failure counts among those of
    that build. Nothing for a version that asks for nothing."""
    if not rows:
        return {}
    ids = [row.site_id for row in rows]
    hardware = {pk: site.hardware for pk, site in traits.items()}
    fitting = fitting_of(rollout.version, ids, hardware=hardware)
    if fitting is None or not fitting.facts:
        return {}
    again = {row.site_id: row.variant for row in rows if row.attempt > 1}
    return {
        site_id: fitting.kept(again[site_id])
        if again.get(site_id) in fitting.rows
        else fitting.given(site_id)
        for site_id in ids
    }


def end(
    rows: Sequence[Deployment],
    state: DeploymentState,
    now: datetime,
    *,
    code: str,
    reason: str,
) -> Moves:
    """Ends deployments that are not over; reports of their sites must be held.

    A lease that was granted is not undone by that, nor a switch that has begun, and the way back
    asks for none: the site goes on to count as changing until it speaks of a newer wish, or says
    that it has settled.
    """
    moves = [move_of(row, before=row.state, after=state) for row in rows]
    for row in rows:
        row.may_still_begin = row.state in ACTIVE_DEPLOYMENT and (
            has_begun(row) or row.kind == DeploymentKind.ROLLBACK
        )
        row.state, row.reason_code, row.reason = state, code[:60], reason[:500]
        row.finished_at, row.holds_lease = now, False
    fields = ["state", "reason_code", "reason", "finished_at", "holds_lease", "may_still_begin"]
    Deployment.objects.bulk_update(rows, fields, batch_size=BATCH)
    return moves


def call_back(rollout: Rollout, rows: Iterable[Deployment], now: datetime) -> None:
    """Wishes at these sites what was recorded for them, where this rollout's wish still stands. It
    goes on standing where the recorded version is quarantined: its agent gets no lease for it."""
    parts = {row.site_id: row for row in rows}
    if not parts:
        return
    ours = SiteModel.objects.filter(
        model=rollout.model_id, site__in=list(parts), desired=rollout.version_id
    ).values_list("site_id", flat=True)
    called = [parts[site_id] for site_id in ours]
    wishes = {row.site_id: row.from_version for row in called if can_return(row)}
    if wishes:
        change_wishes(model_id=rollout.model_id, wishes=wishes, keep_previous=False)
    tell_who_stays(rollout, [row for row in called if not can_return(row)], now)


def next_attempt(
    rows: Sequence[Deployment],
    state: DeploymentState,
    now: datetime,
    *,
    stage: Stage | None = None,
    not_before: datetime | None = None,
    reason: str = "",
) -> Moves:
    """Follows each of these, whose state is final and stays, by an attempt that counts instead."""
    Deployment.objects.filter(pk__in=[row.pk for row in rows]).update(superseded=True)
    fresh = [
        Deployment(
            rollout_id=row.rollout_id,
            stage=stage or row.stage,
            site=row.site,
            model_id=row.model_id,
            kind=row.kind,
            from_version=row.from_version,
            to_version_id=row.to_version_id,
            state=state,
            attempt=row.attempt + 1,
            failed_before=row.failed_before or row.state in STAGE_FAILURES,
            hardware=row.hardware,
            variant=row.variant,
            not_before=not_before,
            reason=reason[:500],
            finished_at=None if state is D.PENDING else now,
        )
        for row in rows
    ]
    Deployment.objects.bulk_create(fresh, batch_size=BATCH)
    return [move_of(row, before="", after=state) for row in fresh]


def retry_failed(
    rollout: Rollout, now: datetime, *, stage_index: int | None, forced: bool
) -> Moves:
    """Another attempt for the sites that failed: those with attempts left, after their time in the
    penalty box; or (`forced`, by a person) all of them, at once."""
    rows = (
        latest(rollout)
        .select_related("stage")
        .filter(state__in=STAGE_FAILURES, stage__state__in=[*OPEN_STAGE, StageState.PASSED])
    )
    if stage_index is not None:
        rows = rows.filter(stage__index=stage_index)
    hold(rollout, rows)
    moves: Moves = []
    for stage in rollout.stages.all():
        policy = policy_of(stage.policy)
        chosen = [
            row
            for row in rows
            if row.stage_id == stage.pk
            and (forced or (row.state == D.FAILED and row.attempt <= policy.retries))
        ]
        if not chosen:
            continue
        call_back(rollout, chosen, now)
        rest = None if forced else now + timedelta(seconds=policy.retry_after_seconds)
        moves += next_attempt(chosen, D.PENDING, now, not_before=rest)
    return moves


def end_overdue(rollout: Rollout, stage_index: int, defer: bool, now: datetime) -> Moves:
    """Ends what is silent past its deadline. Who had begun, now or in an attempt that failed, is
    timed out, whatever the policy: it may be the version that silenced it, and putting it off would
    hide the failure. Their wish goes back: they return when heard of."""
    stages = list(rollout.stages.filter(index=stage_index))
    late = [row.pk for row in overdue_deployments(rollout, stages, now)]
    hold(rollout, latest(rollout).filter(pk__in=late))
    rows = list(latest(rollout).filter(pk__in=late, state__in=ACTIVE_DEPLOYMENT))
    begun = [row for row in rows if has_begun(row) or row.failed_before]
    idle = [row for row in rows if not (has_begun(row) or row.failed_before)]
    call_back(rollout, rows, now)
    moves = end(begun, D.TIMED_OUT, now, code="site-silent", reason="silent since it had begun")
    if not defer:
        return moves + end(idle, D.TIMED_OUT, now, code="site-silent", reason="silent")
    moves += end(idle, D.DEFERRED, now, code="site-silent", reason="silent; put off")
    trailing = rollout.stages.filter(
        trailing=True, index__gt=stage_index, state__in=OPEN_STAGE
    ).first()
    if trailing is not None and idle:
        moves += next_attempt(idle, D.PENDING, now, stage=trailing, reason="put off: it was silent")
    return moves


def remove_retired(rollout: Rollout, stage_index: int, now: datetime) -> Moves:
    """Ends the part of sites that are no more, there and back. One that had succeeded leaves a
    stage that has not passed, since nobody can say any more how the version does there."""
    gone = {"stage__index": stage_index, "site__retired_at__isnull": False}
    done = latest(rollout).filter(**gone, stage__state__in=OPEN_STAGE, state=D.SUCCEEDED)
    moves = next_attempt(list(done), D.REMOVED, now, reason="the site was retired")
    there, back = (
        latest(rollout, kind).filter(**gone, state__in=[D.PENDING, *ACTIVE_DEPLOYMENT])
        for kind in (DeploymentKind.FORWARD, DeploymentKind.ROLLBACK)
    )
    hold(rollout, there, back)
    # Should a site come back, it must not find this wish.
    call_back(rollout, there.exclude(state=D.PENDING), now)
    rows = [*there, *back]
    return moves + end(rows, D.REMOVED, now, code="site-retired", reason="the site was retired")


def return_sites(rollout: Rollout, now: datetime, rows: QuerySet[Deployment], why: str) -> Moves:
    """Ends these where they stand, and gives each a deployment back to what was recorded for it.
    Where that is quarantined the way back has failed at once, and what is wished stays."""
    hold(rollout, rows)
    leaving = list(rows)
    reasons = why_it_stays(leaving)
    changes = change_wishes(
        model_id=rollout.model_id,
        wishes={row.site_id: row.from_version for row in leaving if row.site_id not in reasons},
        keep_previous=False,
    )
    active = [row for row in leaving if row.state in ACTIVE_DEPLOYMENT]
    moves = end(active, D.CANCELLED, now, code="turned-back", reason=why)
    back = [
        Deployment(
            rollout=rollout,
            stage_id=row.stage_id,
            site=row.site,
            model_id=rollout.model_id,
            kind=DeploymentKind.ROLLBACK,
            from_version_id=row.to_version_id,
            to_version_id=row.from_version_id,
            **_first_step(changes.get(row.site_id), reasons.get(row.site_id, ""), now),
        )
        for row in leaving
    ]
    Deployment.objects.bulk_create(back, batch_size=BATCH)
    return moves + [move_of(row, before="", after=row.state) for row in back]


def _first_step(change: Change | None, why_not: str, now: datetime) -> dict[str, Any]:
    """How a way back begins: offered with its wish, or failed for want of one."""
    if change is not None:
        return {
            "state": D.OFFERED,
            "generation": change.generation,
            "offered_at": now,
            "variant": change.variant,
            "variant_reason": change.variant_reason,
        }
    failed = {"state": D.ROLLBACK_FAILED, "reason_code": NOTHING_SOUND, "finished_at": now}
    return failed | {"reason": why_not[:500]}


def cancel_open(rollout: Rollout, now: datetime, why: str) -> Moves:
    """Calls back who has not begun to switch, and ends what was never offered."""
    hold(rollout, not_switched(rollout))
    rows = list(not_switched(rollout))
    call_back(rollout, rows, now)
    rows += latest(rollout).filter(state=D.PENDING)
    return end(rows, D.CANCELLED, now, code="aborted", reason=why)


def reached(rollout: Rollout) -> QuerySet[Deployment]:
    """Where the version was wished for, and may be on disk or in use, but for those that were sent
    back by themselves already."""
    away = latest(rollout, DeploymentKind.ROLLBACK).values("site_id")
    states = [*ACTIVE_DEPLOYMENT, D.SUCCEEDED, *STAGE_FAILURES]
    return latest(rollout).filter(state__in=states).exclude(site_id__in=away)


def not_switched(rollout: Rollout) -> QuerySet[Deployment]:
    """Offered, and still serving what they did."""
    return latest(rollout).filter(state__in=BEFORE_SWITCH)
