"""Builds the views that `decide` gets, with everything a case does not speak of left quiet."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import DeploymentState, RolloutState, StageState
from controlplane.domain.views import RolloutView, SiteNote, StageView

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FRESH_WITHIN = timedelta(seconds=50)


def stage(
    index: int = 0,
    state: StageState = StageState.PENDING,
    *,
    forward: Mapping[DeploymentState, int] | None = None,
    rollback: Mapping[DeploymentState, int] | None = None,
    soak_seconds: float = 60,
    soaked_seconds: float = 0,
    counted_seconds_ago: float | None = None,
    failed: tuple[SiteNote, ...] = (),
    unfinished: tuple[SiteNote, ...] = (),
    stale: tuple[SiteNote, ...] = (),
    unhealthy: tuple[SiteNote, ...] = (),
    stale_count: int | None = None,
    unhealthy_count: int | None = None,
    policy: StagePolicy | None = None,
    **more: Any,
) -> StageView:
    """`more` are further members of the view, as they stand there."""
    since = None if counted_seconds_ago is None else NOW - timedelta(seconds=counted_seconds_ago)
    return StageView(
        index=index,
        name=("canary", "half", "rest")[index],
        state=state,
        soak_seconds=soak_seconds,
        soaked_seconds=soaked_seconds,
        soak_counted_until=since,
        forward=forward if forward is not None else {DeploymentState.PENDING: 2},
        rollback=rollback or {},
        failed=failed,
        unfinished=unfinished,
        stale=stale,
        stale_count=len(stale) if stale_count is None else stale_count,
        unhealthy=unhealthy,
        unhealthy_count=len(unhealthy) if unhealthy_count is None else unhealthy_count,
        policy=policy or StagePolicy(),
        **more,
    )


def view(
    state: RolloutState, *stages: StageView, cause: str = "so it began", **more: Any
) -> RolloutView:
    return RolloutView(
        model="vad",
        version="2",
        state=state,
        cause=cause,
        fresh_within=FRESH_WITHIN,
        stages=stages,
        **more,
    )


def note(site: str, text: str = "") -> SiteNote:
    return SiteNote(site=site, note=text)
