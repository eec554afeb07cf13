"""Cases 43 and 44: the way back, and what follows when there is none."""

from datetime import datetime, timedelta

from controlplane.catalog.models import DriftPolicy, Model
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.rollouts.models import BadVersion
from controlplane.rollouts.services import tick
from tests.factories import make_joined_site, make_version, settle
from tests.services.steps import one_stage, parts, running, serving


def test_each_site_returns_to_the_version_recorded_for_it(now: datetime) -> None:
    """Case 43. Sites differ in what they had; one had nothing. Until the end it stays on disk."""
    old = make_joined_site("old", now=now)
    serving([old], now=now)
    new = make_joined_site("new", now=now)
    only_new = (StageSpec(name="only", sites=frozenset({"new"}), soak_seconds=0),)
    settle(running(make_version(now=now), only_new, now=now), [old, new], now=now)
    bare = make_joined_site("bare", now=now)
    fleet = {"old": old, "new": new, "bare": bare}
    rollout = running(make_version(now=now), one_stage(max_unavailable=3), now=now)
    assert {name: agent.wishes(now=now)["vad"]["previous"] for name, agent in fleet.items()} == {
        "old": "1",
        "new": "2",
        "bare": None,
    }
    old.broken.add(("vad", 3))

    later = settle(rollout, list(fleet.values()), now=now)

    assert rollout.state == RolloutState.ROLLED_BACK
    wished = {name: agent.wishes(now=later)["vad"]["version"] for name, agent in fleet.items()}
    assert wished == {"old": "1", "new": "2", "bare": None}


def test_a_rollback_that_fails_is_an_end_and_nobody_pushes_either_version_again(
    now: datetime,
) -> None:
    """Case 44."""
    edge = make_joined_site("edge", now=now)
    serving([edge], now=now)
    Model.objects.update(drift_policy=DriftPolicy.CORRECT)
    rollout = running(make_version(now=now), now=now)
    edge.broken |= {("vad", 1), ("vad", 2)}

    later = settle(rollout, [edge], now=now)

    assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
    assert "1 site could not return" in rollout.reason
    assert parts(rollout, "rollback") == {"edge": "rollback_failed"}
    assert sorted(BadVersion.objects.values_list("version__number", flat=True)) == [1, 2]
    edge.serving["vad"] = 2
    before = edge.wishes(now=later)["vad"]
    for hours in range(1, 5):
        at = later + timedelta(hours=hours)
        edge.report("vad", "failed", now=at)
        tick(now=at)
    assert edge.wishes(now=at)["vad"] == before
