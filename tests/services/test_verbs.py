"""What people may do to a rollout: each verb, where it is allowed, what it can never override."""

from collections.abc import Callable
from datetime import datetime

import pytest

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import RolloutState, allowed_verbs
from controlplane.domain.stages import DEFAULT_STAGES, StageSpec
from controlplane.fleet.services import retire_site
from controlplane.rollouts.approvals import approve_rollout
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.services import tick
from controlplane.rollouts.turning_back import roll_back_rollout, stop_waiting
from controlplane.rollouts.verbs import (
    abort_rollout,
    pause_rollout,
    promote_rollout,
    resume_rollout,
    retry_failed,
)
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import (
    BY,
    approve,
    canary_then_rest,
    fail,
    one_stage,
    part,
    parts,
    running,
    serving,
    stages_of,
    turn,
)

Verb = Callable[..., Rollout]


VERBS: dict[str, Verb] = {
    "approve": approve,
    "pause": pause_rollout,
    "resume": resume_rollout,
    "promote": promote_rollout,
    "retry-failed": retry_failed,
    "abort": abort_rollout,
    "rollback": roll_back_rollout,
    "stop-waiting": stop_waiting,
}


@pytest.mark.parametrize("state", RolloutState)
def test_a_verb_in_the_wrong_state_is_refused_with_what_is_possible_now(
    state: RolloutState, now: datetime
) -> None:
    rollout = make_rollout(state, now=now)
    before = Rollout.objects.values().get(pk=rollout.pk), Event.objects.count()

    for verb in set(VERBS) - set(allowed_verbs(state)):
        with pytest.raises(Conflict) as caught:
            VERBS[verb](rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "verb-not-allowed"
        assert caught.value.extra == {"allowed_verbs": allowed_verbs(state)}

    assert (Rollout.objects.values().get(pk=rollout.pk), Event.objects.count()) == before


@pytest.mark.parametrize("verb", ["abort", "rollback", "promote", "stop-waiting"])
@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_grave_verb_wants_a_reason(verb: str, reason: str, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)

    with pytest.raises(InvalidInput) as caught:
        VERBS[verb](rollout_id=rollout.pk, reason=reason, actor=ACTOR, now=now)

    assert caught.value.code == "reason-required"
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.RUNNING


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_rollout_is_said_to_be_unknown(verb: str, now: datetime) -> None:
    by = {**BY, "plan_digest": "x"} if verb == "approve" else BY
    service = approve_rollout if verb == "approve" else VERBS[verb]
    with pytest.raises(NotFound, match="no rollout 404"):
        service(rollout_id=404, now=now, **by)


class TestRetryFailed:
    def test_gives_every_failed_site_another_attempt_at_once(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), one_stage(on_failure="pause"), now=now)
        fail(edge, now=now)
        turn(rollout, now=now)

        retry_failed(rollout_id=rollout.pk, now=now, **BY)

        assert rollout.state == RolloutState.PAUSED
        again = part(rollout, edge)
        assert (again.state, again.attempt, again.not_before) == ("pending", 2, None)
        assert edge.wishes(now=now)["vad"]["version"] is None

    def test_without_a_failure_is_refused(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        with pytest.raises(Conflict) as caught:
            retry_failed(rollout_id=rollout.pk, now=now, **BY)
        assert caught.value.code == "nothing-failed"


class TestAbort:
    def test_a_site_that_had_not_switched_after_all_is_called_back(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        """Its machine restarted in the middle of it: the lease is gone and none will be granted."""
        serving([edge], now=now)
        rollout = running(make_version(now=now), now=now)
        edge.begin("vad", now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        assert rollout.state == RolloutState.CANCELLING
        edge.reboot()
        edge.report("vad", "staged", now=now)

        turn(rollout, now=now)

        assert rollout.state == RolloutState.CANCELLED
        assert parts(rollout) == {"edge": "cancelled"}
        assert edge.wishes(now=now)["vad"]["version"] == "1"

    def test_of_a_queued_rollout_ends_it_at_once(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.QUEUED, now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        rollout.refresh_from_db()
        assert rollout.state == RolloutState.CANCELLED
        assert rollout.finished_at == now
        assert set(parts(rollout).values()) == {"cancelled"}


def test_every_verb_leaves_one_event_with_actor_reason_and_states(
    edge: FakeAgent, core: FakeAgent, now: datetime
) -> None:
    rollout = running(make_version(now=now), canary_then_rest(soak_seconds=600), now=now)
    turn(rollout, edge, now=now)
    done: list[tuple[str, Callable[..., Rollout]]] = [
        ("paused", pause_rollout),
        ("resumed", resume_rollout),
        ("promoted", promote_rollout),
        ("rolling_back", roll_back_rollout),
    ]
    for action, verb in done:
        revision = Rollout.objects.get(pk=rollout.pk).revision
        verb(rollout_id=rollout.pk, now=now, **BY)
        event = Event.objects.filter(object_type="rollout").latest("pk")
        assert (event.action, event.actor) == (f"rollout.{action}", "user:ann")
        assert "because" in event.reason
        assert event.data["revision"] == revision + 1
        assert {"before", "state", "stages", "deployments"} <= set(event.data)


def test_a_retired_site_leaves_and_the_tick_goes_on(edge: FakeAgent, now: datetime) -> None:
    other = make_joined_site("other", now=now)
    rollout = running(make_version(now=now), now=now)
    retire_site(site=other.site, reason="sold", actor=ACTOR, now=now)
    tick(now=now)
    settle(rollout, [edge], now=now)
    assert rollout.state == RolloutState.SUCCEEDED_WITH_EXCEPTIONS
    assert parts(rollout) == {"edge": "succeeded", "other": "removed"}


def test_the_default_stages_go_all_the_way(now: datetime) -> None:
    agents = [make_joined_site(now=now) for _ in range(10)]
    rollout = running(make_version(now=now), DEFAULT_STAGES, now=now)
    settle(rollout, agents, now=now, turns=200)
    assert rollout.state == RolloutState.SUCCEEDED
    assert stages_of(rollout) == {"canary": "passed", "half": "passed", "rest": "passed"}


def test_a_rest_stage_offers_within_its_cap(now: datetime) -> None:
    agents = [make_joined_site(now=now) for _ in range(5)]
    policy = StagePolicy(max_concurrent=2)
    stages = (StageSpec(name="all", soak_seconds=0, policy=policy),)
    rollout = running(make_version(now=now), stages, now=now)
    for _ in range(6):
        assert list(parts(rollout).values()).count("offered") <= 2
        turn(rollout, *agents, now=now)
    settle(rollout, agents, now=now)
    assert rollout.state == RolloutState.SUCCEEDED
