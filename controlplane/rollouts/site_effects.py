"""What happens to single sites of a rollout: offered, tried again, ended, called back, returned.

Each function changes deployments and wishes together, and gives back the moves for the event of
the turn. Whom it concerns was decided elsewhere; it checks nothing but that a step is legal."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db.models import QuerySet

from controlplane.catalog.models import Version
from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    OPEN_STAGE,
    STAGE_FAILURES,
    DeploymentState,
    StageState,
)
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.history import move_of
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel, Stage
from controlplane.rollouts.waits import has_begun, offerable, overdue_deployments
from controlplane.rollouts.wishes import change_wishes, hold_wishes

D = DeploymentState
Moves = list[dict[str, object]]
BATCH = 500


def latest(rollout: Rollout, kind: str = DeploymentKind.FORWARD) -> QuerySet[Deployment]:
    """The attempts that count."""
    rows = Deployment.objects.filter(rollout=rollout, kind=kind, superseded=False)
    return rows.select_related("site", "from_version").order_by("pk")


def hold(rollout: Rollout, rows: QuerySet[Deployment]) -> None:
    """Nothing is reported of these sites until the transaction ends."""
    ids = rows.order_by().values_list("site_id", flat=True)
    hold_wishes(model_id=rollout.model_id, site_ids=list(ids))


def offer(rollout: Rollout, stage_index: int, count: int, now: datetime) -> Moves:
    """Wishes the version at up to `count` sites. One whose hardware is no longer what the plan was
    made for is rejected instead."""
    rows = offerable(rollout, stage_index, count, now)
    hardware = traits_by_site([row.site_id for row in rows if row.hardware])
    rejected = [
        row for row in rows if row.hardware and hardware[row.site_id].hardware != row.hardware
    ]
    moves: Moves = []
    for row in rejected:
        reason = f"planned for {row.hardware}, it has {hardware[row.site_id].hardware} now"
        moves += end([row], D.REJECTED, now, code="hardware-changed", reason=reason)
    offered = [row for row in rows if row not in rejected]
    changes = change_wishes(
        model_id=rollout.model_id,
        wishes={row.site_id: rollout.version for row in offered},
        keep_previous=True,
    )
    for row in offered:
        moves.append(move_of(row, before=row.state, after=D.OFFERED))
        if row.attempt == 1:  # what a later one returns to was recorded by the first
            row.from_version = changes[row.site_id].before
        row.generation = changes[row.site_id].generation
        row.state, row.offered_at = D.OFFERED, now
    fields = ["from_version", "generation", "state", "offered_at"]
    Deployment.objects.bulk_update(offered, fields, batch_size=BATCH)
    return moves


def end(
    rows: Sequence[Deployment],
    state: DeploymentState,
    now: datetime,
    *,
    code: str,
    reason: str,
) -> Moves:
    """Ends deployments that are not over; reports of their sites must be held.

    A lease that was granted is not undone by that: its agent may begin under it until it learns of
    the newer wish, so the site goes on to count as changing.
    """
    moves = [move_of(row, before=row.state, after=state) for row in rows]
    for row in rows:
        row.state, row.reason_code, row.reason = state, code[:60], reason[:500]
        row.finished_at = now
        row.holds_lease, row.may_still_begin = False, row.holds_lease
    fields = ["state", "reason_code", "reason", "finished_at", "holds_lease", "may_still_begin"]
    Deployment.objects.bulk_update(rows, fields, batch_size=BATCH)
    return moves


def call_back(rollout: Rollout, rows: Iterable[Deployment]) -> list[int]:
    """Wishes at these sites what was recorded for them, where this rollout's wish still stands; the
    ids of the sites concerned."""
    recorded: dict[int, Version | None] = {row.site_id: row.from_version for row in rows}
    if not recorded:
        return []
    ours = SiteModel.objects.filter(
        model=rollout.model_id, site__in=list(recorded), desired=rollout.version_id
    ).values_list("site_id", flat=True)
    wishes = {site_id: recorded[site_id] for site_id in ours}
    if wishes:
        change_wishes(model_id=rollout.model_id, wishes=wishes, keep_previous=False)
    return list(wishes)


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
            hardware=row.hardware,
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
    hold(rollout, rows)  # all at once, in the order of their ids, before stage after stage
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
        call_back(rollout, chosen)
        rest = None if forced else now + timedelta(seconds=policy.retry_after_seconds)
        moves += next_attempt(chosen, D.PENDING, now, not_before=rest)
    return moves


def end_overdue(rollout: Rollout, stage_index: int, defer: bool, now: datetime) -> Moves:
    """Ends what is silent past its deadline. Who had begun is timed out, whatever the policy: it
    may be the version that silenced it. Their wish goes back: they return when heard of."""
    stages = list(rollout.stages.filter(index=stage_index))
    late = [row.pk for row in overdue_deployments(rollout, stages, now)]
    hold(rollout, latest(rollout).filter(pk__in=late))
    rows = list(latest(rollout).filter(pk__in=late, state__in=ACTIVE_DEPLOYMENT))
    begun = [row for row in rows if has_begun(row)]
    idle = [row for row in rows if not has_begun(row)]
    call_back(rollout, rows)
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
    moves: Moves = []
    done = latest(rollout).filter(
        stage__index=stage_index,
        stage__state__in=OPEN_STAGE,
        site__retired_at__isnull=False,
        state=D.SUCCEEDED,
    )
    moves += next_attempt(list(done), D.REMOVED, now, reason="the site was retired")
    for kind in DeploymentKind.values:
        rows = latest(rollout, kind).filter(
            stage__index=stage_index,
            site__retired_at__isnull=False,
            state__in=[D.PENDING, *ACTIVE_DEPLOYMENT],
        )
        hold(rollout, rows)
        if kind == DeploymentKind.FORWARD:  # should the site come back, it must not find this wish
            call_back(rollout, rows.exclude(state=D.PENDING))
        moves += end(list(rows), D.REMOVED, now, code="site-retired", reason="the site was retired")
    return moves


def return_sites(rollout: Rollout, now: datetime, rows: QuerySet[Deployment], why: str) -> Moves:
    """Ends these where they stand, and gives each a deployment back to what was recorded for it."""
    hold(rollout, rows)
    leaving = list(rows)
    changes = change_wishes(
        model_id=rollout.model_id,
        wishes={row.site_id: row.from_version for row in leaving},
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
            state=D.OFFERED,
            generation=changes[row.site_id].generation,
            offered_at=now,
        )
        for row in leaving
    ]
    Deployment.objects.bulk_create(back, batch_size=BATCH)
    return moves + [move_of(row, before="", after=D.OFFERED) for row in back]


def cancel_open(rollout: Rollout, now: datetime, why: str) -> Moves:
    """Calls back who has not begun to switch, and ends what was never offered."""
    hold(rollout, not_switched(rollout))
    rows = list(not_switched(rollout))
    call_back(rollout, rows)
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
