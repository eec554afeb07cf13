"""What a stage bears holds for the sites of each build by themselves too."""

from collections.abc import Mapping

import pytest

from controlplane.domain.decide import decide
from controlplane.domain.decisions import CountSoak, OfferSites, PassStage, Pause, RollBack, Wait
from controlplane.domain.policy import OnFailure, StagePolicy
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.views import SiteNote, StageView, VariantView
from tests.unit.views import NOW, stage, view

Counts = Mapping[D, int]


def split(
    builds: Mapping[str, Counts],
    state: S = S.RUNNING,
    *,
    unhealthy: Mapping[str, int] | None = None,
    policy: StagePolicy | None = None,
    infrastructure: int = 0,
    failed: Mapping[str, str] | None = None,
    retrying: Mapping[str, int] | None = None,
    accepted_failures: int = 0,
    **more: float,
) -> StageView:
    """A stage whose sites get these builds; the infrastructure is that of the first."""
    together: dict[D, int] = {}
    for counts in builds.values():
        for each, count in counts.items():
            together[each] = together.get(each, 0) + count
    unwell, again = unhealthy or {}, retrying or {}
    first = next(iter(builds))
    return stage(
        state=state,
        forward=together,
        policy=policy,
        infrastructure=infrastructure,
        failed=tuple(
            SiteNote(site=site, note="no", variant=name) for site, name in (failed or {}).items()
        ),
        unhealthy_count=sum(unwell.values()),
        retrying=sum(again.values()),
        accepted_failures=accepted_failures,
        variants=tuple(
            VariantView(
                name=name,
                forward=counts,
                unhealthy_count=unwell.get(name, 0),
                retrying=again.get(name, 0),
                infrastructure=infrastructure if name == first else 0,
            )
            for name, counts in builds.items()
        ),
        **more,
    )


TENTH = StagePolicy(failures_tolerated="10%")


def test_a_build_that_fails_everywhere_stops_the_stage_though_it_is_three_of_a_hundred() -> None:
    failing = split(
        {"onnx": {D.SUCCEEDED: 90, D.PENDING: 7}, "trt-8.9": {D.FAILED: 3}},
        policy=TENTH,
        failed={"a": "trt-8.9", "b": "trt-8.9", "c": "trt-8.9"},
    )
    decision = decide(view(R.RUNNING, failing), NOW)
    assert isinstance(decision, RollBack)
    assert decision.reason_code == "deployment-failed"
    assert decision.reason == (
        "stage canary: 3 of 3 sites of variant trt-8.9 failed: a (no), b (no), c (no); "
        "variant onnx: 0 of 97"
    )
    assert decision.failed_stages == (0,)


@pytest.mark.parametrize(
    ("sites", "failed", "stops"),
    [(1, 1, True), (2, 1, True), (10, 1, False), (10, 2, True), (40, 4, False), (40, 5, True)],
)
def test_the_share_is_of_the_builds_own_sites(sites: int, failed: int, stops: bool) -> None:
    builds = {
        "onnx": {D.PENDING: 200},
        "trt": {D.FAILED: failed, D.PENDING: sites - failed},
    }
    decision = decide(view(R.RUNNING, split(builds, policy=TENTH)), NOW)
    assert isinstance(decision, RollBack) is stops


def test_as_one_build_the_same_failures_are_borne() -> None:
    alone = stage(state=S.RUNNING, forward={D.PENDING: 97, D.FAILED: 3}, policy=TENTH)
    assert isinstance(decide(view(R.RUNNING, alone), NOW), OfferSites)


def test_a_required_share_of_successes_is_of_each_build_too() -> None:
    policy = StagePolicy(failures_tolerated=50, successes_required="90%")
    builds = {"onnx": {D.SUCCEEDED: 100}, "trt": {D.SUCCEEDED: 8, D.FAILED: 2}}
    assert isinstance(decide(view(R.RUNNING, split(builds, policy=policy)), NOW), RollBack)
    fewer = {"onnx": {D.SUCCEEDED: 100}, "trt": {D.SUCCEEDED: 9, D.FAILED: 1}}
    assert not isinstance(decide(view(R.RUNNING, split(fewer, policy=policy)), NOW), RollBack)


def test_who_asks_to_be_asked_is_asked() -> None:
    policy = StagePolicy(failures_tolerated="10%", on_failure=OnFailure.PAUSE)
    builds = {"onnx": {D.PENDING: 97}, "trt": {D.FAILED: 2}}
    decision = decide(view(R.RUNNING, split(builds, policy=policy)), NOW)
    assert isinstance(decision, Pause)
    assert "2 of 2 sites of variant trt failed" in decision.reason


def test_what_somebody_accepted_is_borne_of_each_build() -> None:
    builds = {"onnx": {D.PENDING: 97}, "trt": {D.FAILED: 2}}
    accepted = split(builds, policy=TENTH, accepted_failures=2)
    assert isinstance(decide(view(R.RUNNING, accepted), NOW), OfferSites)


def test_a_build_whose_surroundings_failed_pauses() -> None:
    builds = {"trt": {D.FAILED: 2}, "onnx": {D.PENDING: 97, D.FAILED: 1}}
    decision = decide(view(R.RUNNING, split(builds, policy=TENTH, infrastructure=2)), NOW)
    assert isinstance(decision, Pause)
    assert decision.code == "infrastructure"


def test_no_other_site_begins_while_a_build_is_not_proven() -> None:
    builds = {"trt": {D.PENDING: 2}, "onnx": {D.PENDING: 97}}
    waiting = split(builds, policy=TENTH, retrying={"trt": 2})
    decision = decide(view(R.RUNNING, waiting), NOW)
    assert isinstance(decision, Wait)
    assert "2 of variant trt failed and not proven since" in decision.reason


def test_sites_of_a_build_that_are_unwell_hold_the_soak() -> None:
    builds = {"onnx": {D.SUCCEEDED: 98}, "trt": {D.SUCCEEDED: 2}}
    times = {"soak_seconds": 60, "soaked_seconds": 60, "counted_seconds_ago": 5}
    well = split(builds, S.SOAKING, policy=TENTH, **times)
    assert isinstance(decide(view(R.RUNNING, well), NOW), PassStage)
    unwell = split(builds, S.SOAKING, policy=TENTH, unhealthy={"trt": 1}, **times)
    decision = decide(view(R.RUNNING, unwell), NOW)
    assert isinstance(decision, CountSoak)
    assert decision.seconds == 0


def test_sites_that_left_the_plan_are_none_of_a_build() -> None:
    builds = {"onnx": {D.SUCCEEDED: 97, D.PENDING: 1}, "trt": {D.REJECTED: 3}}
    assert isinstance(decide(view(R.RUNNING, split(builds, policy=TENTH)), NOW), OfferSites)
