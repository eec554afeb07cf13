"""Simulated rows to views, as `rollouts/snapshots.py` makes them. Names no site: its counts decide.

Reads only."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    RolloutView,
    StageView,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.ops.simulation.clock import moment
from controlplane.ops.simulation.rows import Rollout, Stage

if TYPE_CHECKING:
    from controlplane.ops.simulation.centre import Centre


def rollout_view(centre: Centre, rollout: Rollout, now: float) -> RolloutView:
    return RolloutView(
        model=rollout.version.model,
        version=str(rollout.version.number),
        state=rollout.state,
        cause=rollout.cause,
        fresh_within=timedelta(seconds=centre.fresh_seconds),
        stages=tuple(_stage_view(centre, rollout, stage, now) for stage in rollout.stages),
    )


def _stage_view(centre: Centre, rollout: Rollout, stage: Stage, now: float) -> StageView:
    stale = unhealthy = 0
    if stage.forward[D.SUCCEEDED]:
        stale, unhealthy = _ailing(centre, rollout, stage, now)
    until = stage.soak_counted_until
    return StageView(
        index=stage.index,
        name=stage.name,
        state=stage.state,
        soak_seconds=stage.soak_seconds,
        soaked_seconds=stage.soaked_seconds,
        soak_counted_until=None if until is None else moment(until),
        forward=stage.forward,
        rollback=stage.rollback,
        stale_count=stale,
        unhealthy_count=unhealthy,
        silent=_silent(centre, rollout, stage, now),
    )


def _ailing(centre: Centre, rollout: Rollout, stage: Stage, now: float) -> tuple[int, int]:
    """Of the sites that succeeded: without a fresh report, and reporting that they are not well."""
    model, number = rollout.version.model, rollout.version.number
    rows, limit = centre.rows, now - centre.fresh_seconds
    stale = unhealthy = 0
    for deployment in stage.deployments:
        if deployment.state is not D.SUCCEEDED:
            continue
        row = rows[deployment.site][model]
        if row.reported_at is None or row.reported_at < limit:
            stale += 1
        elif row.said is None or row.said.serving != number or row.said.healthy is not True:
            unhealthy += 1
    return stale, unhealthy


def _silent(centre: Centre, rollout: Rollout, stage: Stage, now: float) -> int:
    """The unfinished whose agent was not heard of for so long that nobody waits for it."""
    if rollout.state is R.ROLLING_BACK:
        rows = [d for d in rollout.rollback if d.stage is stage]
    elif rollout.state is R.CANCELLING:
        rows = stage.deployments
    else:
        return 0
    limit = now - centre.patience * centre.fresh_seconds
    return sum(d.state in ACTIVE_DEPLOYMENT and centre.last_seen[d.site] < limit for d in rows)
