"""The story of a rollout, told by the services and by agents that answer for their sites."""

from datetime import datetime, timedelta

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.models import Version
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    DeploymentState,
    RolloutState,
)
from controlplane.domain.stages import StageSpec
from controlplane.rollouts.evidence import PATIENCE, fresh_within
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel
from controlplane.rollouts.services import advance_rollout, start_rollout
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout, pause_rollout, resume_rollout
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import canary_then_rest, one_stage, running, stages_of, turn

CANARY_THEN_REST = (
    StageSpec(name="canary", tier="edge", soak_seconds=10),
    StageSpec(name="rest", soak_seconds=0),
)
BY = {"actor": "user:ann", "reason": "because"}


def start(
    version: Version, stages: tuple[StageSpec, ...] = CANARY_THEN_REST, *, now: datetime
) -> Rollout:
    return start_rollout(
        model_name=version.model.name,
        version_number=version.number,
        stages=stages,
        actor=ACTOR,
        now=now,
    )


def states(rollout: Rollout) -> list[tuple[str, str]]:
    return list(rollout.stages.order_by("index").values_list("name", "state"))


def deployments(rollout: Rollout, kind: str = DeploymentKind.FORWARD) -> dict[str, str]:
    rows = Deployment.objects.filter(rollout=rollout, kind=kind, superseded=False)
    return dict(rows.values_list("site__name", "state"))


@pytest.mark.parametrize("state", RolloutState)
def test_a_rollout_can_be_brought_to(state: RolloutState, now: datetime) -> None:
    assert make_rollout(state, now=now).state == state


def test_a_good_version_goes_canary_first_and_ends_everywhere(now: datetime) -> None:
    edge, core = (
        make_joined_site("edge", now=now),
        make_joined_site("core", tier="regional", now=now),
    )
    rollout = start(make_version(now=now), now=now)

    advance_rollout(rollout_id=rollout.pk, now=now)
    assert states(rollout) == [("canary", "running"), ("rest", "pending")]
    assert core.wishes(now=now) == {}
    edge.report("vad", "downloading", now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    rollout.refresh_from_db()
    assert rollout.reason_code == "deployments-unfinished"
    assert "edge" in rollout.reason

    edge.obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    assert states(rollout) == [("canary", "soaking"), ("rest", "pending")]
    assert core.wishes(now=now) == {}

    now += timedelta(seconds=11)
    edge.obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    assert states(rollout) == [("canary", "passed"), ("rest", "running")]
    assert core.wishes(now=now)["vad"]["version"] == "1"

    settle(rollout, [edge, core], now=now)
    assert rollout.state == RolloutState.SUCCEEDED
    assert states(rollout) == [("canary", "passed"), ("rest", "passed")]
    assert deployments(rollout) == {"edge": "succeeded", "core": "succeeded"}
    assert (edge.serving, core.serving) == ({"vad": 1}, {"vad": 1})
    assert rollout.finished_at is not None


def test_a_failed_canary_returns_the_sites_it_reached_and_no_other_ever_hears_of_it(
    now: datetime,
) -> None:
    edge, core = (
        make_joined_site("edge", now=now),
        make_joined_site("core", tier="regional", now=now),
    )
    one = make_version(number=1, now=now)
    settle(start(one, now=now), [edge, core], now=now)
    core_before = core.wishes(now=now)
    two = make_version(number=2, now=now)
    rollout = start(two, now=now)
    edge.broken.add(("vad", 2))

    later = settle(rollout, [edge, core], now=now + timedelta(minutes=5))

    assert rollout.state == RolloutState.ROLLED_BACK
    assert states(rollout) == [("canary", "failed"), ("rest", "cancelled")]
    assert deployments(rollout) == {"edge": "failed", "core": "cancelled"}
    assert deployments(rollout, DeploymentKind.ROLLBACK) == {"edge": "rolled_back"}
    assert edge.wishes(now=later)["vad"]["version"] == "1"
    assert core.wishes(now=later) == core_before
    offered = Deployment.objects.get(rollout=rollout, site=core.site)
    assert (offered.offered_at, offered.generation) == (None, None)


def test_sites_return_to_the_version_that_each_of_them_had(now: datetime) -> None:
    old, new = make_joined_site("old", now=now), make_joined_site("new", now=now)
    for number, site in ((1, "old"), (2, "new")):
        only = (StageSpec(name="only", sites=frozenset({site}), soak_seconds=0),)
        version = make_version(number=number, now=now)
        settle(start(version, only, now=now), [old, new], now=now)
    rollout = start(make_version(number=3, now=now), now=now)
    new.broken.add(("vad", 3))

    later = settle(rollout, [old, new], now=now)

    assert rollout.state == RolloutState.ROLLED_BACK
    assert old.wishes(now=later)["vad"]["version"] == "1"
    assert new.wishes(now=later)["vad"]["version"] == "2"
    assert (old.serving["vad"], new.serving["vad"]) == (1, 2)


def test_a_first_install_that_fails_leaves_the_wish_to_serve_nothing(now: datetime) -> None:
    edge = make_joined_site(now=now)
    edge.broken.add(("vad", 1))
    rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)

    later = settle(rollout, [edge], now=now)

    assert rollout.state == RolloutState.ROLLED_BACK
    wish = edge.wishes(now=later)["vad"]
    assert (wish["version"], wish["previous"], wish["manifest"]) == (None, None, None)
    assert edge.serving == {"vad": None}


def test_a_site_that_can_not_return_makes_the_rollback_incomplete(now: datetime) -> None:
    rollout = make_rollout(RolloutState.ROLLBACK_INCOMPLETE, now=now)

    assert "1 site could not return" in rollout.reason


def test_the_previous_version_is_kept_while_forward_and_forgotten_on_the_way_back(
    now: datetime,
) -> None:
    edge = make_joined_site(now=now)
    settle(make_rollout(version=make_version(now=now), agents=[edge], now=now), [edge], now=now)
    rollout = make_rollout(
        RolloutState.ROLLING_BACK, version=make_version(now=now), agents=[edge], now=now
    )
    assert edge.wishes(now=now)["vad"]["previous"] is None

    settle(rollout, [edge], now=now)
    make_rollout(RolloutState.RUNNING, version=make_version(now=now), agents=[edge], now=now)
    assert edge.wishes(now=now)["vad"]["previous"] == "1"


def test_the_reason_of_a_rollback_stays_short_however_long_it_waits(now: datetime) -> None:
    rollout = make_rollout(RolloutState.ROLLING_BACK, now=now)
    reasons = set()
    for step in range(5):
        advance_rollout(rollout_id=rollout.pk, now=now + timedelta(seconds=5 * step))
        rollout.refresh_from_db()
        reasons.add(rollout.reason)

    assert len(reasons) == 1
    assert rollout.reason.count("waiting for") == 1
    assert "the test wants it" in rollout.reason


def test_the_reason_of_an_abort_is_still_there_when_it_is_done(now: datetime) -> None:
    edge = make_joined_site(now=now)
    rollout = make_rollout(
        RolloutState.CANCELLING, version=make_version(now=now), agents=[edge], now=now
    )
    advance_rollout(rollout_id=rollout.pk, now=now)
    rollout.refresh_from_db()
    assert edge.site.name in rollout.reason

    settle(rollout, [edge], now=now)
    assert rollout.state == RolloutState.CANCELLED
    assert "the test wants it" in rollout.reason
    assert "switching" not in rollout.reason


class TestVerbs:
    def test_pause_holds_promotion_and_resume_lets_it_go_on(self, now: datetime) -> None:
        edge, core = (
            make_joined_site("edge", now=now),
            make_joined_site("core", tier="regional", now=now),
        )
        rollout = start(make_version(now=now), now=now)
        advance_rollout(rollout_id=rollout.pk, now=now)

        pause_rollout(rollout_id=rollout.pk, now=now, **BY)
        for _ in range(5):
            now += timedelta(seconds=20)
            edge.obey(now=now)
            advance_rollout(rollout_id=rollout.pk, now=now)
        rollout.refresh_from_db()
        assert (rollout.state, rollout.reason) == ("paused", "paused by user:ann: because")
        assert core.wishes(now=now) == {}

        resume_rollout(rollout_id=rollout.pk, now=now, **BY)
        settle(rollout, [edge, core], now=now)
        assert rollout.state == RolloutState.SUCCEEDED

    def test_the_pause_itself_is_no_soak_time(self, now: datetime) -> None:
        edge = make_joined_site(now=now)
        make_joined_site(tier="regional", now=now)
        rollout = start(make_version(now=now), now=now)
        advance_rollout(rollout_id=rollout.pk, now=now)
        edge.obey(now=now)
        advance_rollout(rollout_id=rollout.pk, now=now)
        pause_rollout(rollout_id=rollout.pk, now=now, **BY)
        now += timedelta(seconds=40)
        resume_rollout(rollout_id=rollout.pk, now=now, **BY)
        edge.obey(now=now)

        advance_rollout(rollout_id=rollout.pk, now=now)

        canary = rollout.stages.get(name="canary")
        assert (canary.state, canary.soaked_seconds) == ("soaking", 0)

    def test_a_failed_site_rolls_back_also_while_paused(self, now: datetime) -> None:
        edge = make_joined_site(now=now)
        rollout = make_rollout(
            RolloutState.PAUSED, version=make_version(now=now), agents=[edge], now=now
        )
        edge.report("vad", "failed", now=now, reason_code="golden-mismatch")

        settle(rollout, [edge], now=now)

        assert rollout.state == RolloutState.ROLLED_BACK

    def test_abort_calls_back_sites_that_have_not_switched_and_lets_the_others_finish(
        self, now: datetime
    ) -> None:
        agents = {name: make_joined_site(name, now=now) for name in ("done", "busy", "early")}
        rollout = make_rollout(
            RolloutState.RUNNING,
            version=make_version(now=now),
            agents=list(agents.values()),
            now=now,
        )
        agents["done"].report("vad", "succeeded", now=now)
        agents["busy"].report("vad", "activating", now=now)
        agents["early"].report("vad", "staged", now=now)

        abort_rollout(rollout_id=rollout.pk, now=now, **BY)

        assert deployments(rollout) == {
            "done": "succeeded",
            "busy": "activating",
            "early": "cancelled",
        }
        wished = {name: agent.wishes(now=now)["vad"]["version"] for name, agent in agents.items()}
        assert wished == {"done": "1", "busy": "1", "early": None}
        advance_rollout(rollout_id=rollout.pk, now=now)
        rollout.refresh_from_db()
        assert (rollout.state, rollout.reason_code) == ("cancelling", "switching")
        settle(rollout, list(agents.values()), now=now)
        assert rollout.state == RolloutState.CANCELLED
        assert agents["busy"].serving == {"vad": 1}
        assert agents["early"].serving == {"vad": None}

    def test_a_site_whose_switch_fails_after_an_abort_is_wished_its_old_version(
        self, now: datetime
    ) -> None:
        edge = make_joined_site(now=now)
        settle(make_rollout(version=make_version(now=now), agents=[edge], now=now), [edge], now=now)
        rollout = make_rollout(
            RolloutState.CANCELLING, version=make_version(now=now), agents=[edge], now=now
        )
        edge.broken.add(("vad", 2))

        settle(rollout, [edge], now=now)

        assert rollout.state == RolloutState.CANCELLED
        assert edge.wishes(now=now)["vad"]["version"] == "1"

    def test_an_abort_before_the_engine_began_offers_nothing(self, now: datetime) -> None:
        edge = make_joined_site(now=now)
        rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)

        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        advance_rollout(rollout_id=rollout.pk, now=now)

        rollout.refresh_from_db()
        assert rollout.state == RolloutState.CANCELLED
        assert edge.wishes(now=now) == {}

    def test_an_operator_rolls_back_what_succeeded_so_far(self, now: datetime) -> None:
        edge, core = (
            make_joined_site("edge", now=now),
            make_joined_site("core", tier="regional", now=now),
        )
        rollout = start(make_version(now=now), now=now)
        advance_rollout(rollout_id=rollout.pk, now=now)
        edge.obey(now=now)
        advance_rollout(rollout_id=rollout.pk, now=now)

        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        settle(rollout, [edge, core], now=now)

        assert rollout.state == RolloutState.ROLLED_BACK
        assert rollout.reason.startswith("rolled back by user:ann: because")
        assert deployments(rollout) == {"edge": "succeeded", "core": "cancelled"}
        assert deployments(rollout, DeploymentKind.ROLLBACK) == {"edge": "rolled_back"}


class TestStart:
    def test_one_rollout_at_a_time_per_model(self, now: datetime) -> None:
        first = make_rollout(RolloutState.RUNNING, now=now)
        other = make_version(now=now)
        rows = Rollout.objects.count(), Deployment.objects.count(), Event.objects.count()

        with pytest.raises(Conflict) as caught:
            start(other, now=now)

        assert (caught.value.code, caught.value.extra) == ("rollout-active", {"rollout": first.pk})
        assert (Rollout.objects.count(), Deployment.objects.count(), Event.objects.count()) == rows

    def test_another_model_may_roll_out_at_the_same_time(self, now: datetime) -> None:
        edge = make_joined_site(now=now)
        first = make_rollout(version=make_version(now=now), agents=[edge], now=now)
        second = make_rollout(version=make_version("ocr", now=now), agents=[edge], now=now)

        settle(first, [edge], now=now)
        settle(second, [edge], now=now)

        assert edge.serving == {"vad": 1, "ocr": 1}

    def test_a_version_that_does_not_exist(self, now: datetime) -> None:
        make_joined_site(now=now)
        with pytest.raises(InvalidInput) as caught:
            start_rollout(
                model_name="vad", version_number=9, stages=CANARY_THEN_REST, actor=ACTOR, now=now
            )
        assert caught.value.code == "version-unknown"
        assert [fault.field for fault in caught.value.errors] == ["version"]

    def test_a_version_whose_push_is_not_finished(self, now: datetime) -> None:
        make_joined_site(now=now)
        with pytest.raises(InvalidInput) as caught:
            start(make_version(registered=False, now=now), now=now)
        assert caught.value.code == "version-not-registered"

    def test_no_site_at_all(self, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            start(make_version(now=now), now=now)
        assert caught.value.code == "rollout-selects-no-site"

    def test_a_site_without_an_agent_is_left_out_and_the_error_says_why(
        self, now: datetime
    ) -> None:
        make_site("bare", now=now)
        with pytest.raises(InvalidInput, match="bare: no agent has joined"):
            start(make_version(now=now), now=now)
        assert not Rollout.objects.exists()

    def test_who_is_left_out_stands_with_the_rollout(self, now: datetime) -> None:
        make_site("bare", now=now)
        make_joined_site("edge", now=now)
        make_joined_site("core", tier="regional", now=now)

        rollout = start(make_version(now=now), CANARY_THEN_REST[:1], now=now)

        assert rollout.excluded == [
            {"site": "bare", "reason": "no agent has joined"},
            {"site": "core", "reason": "no stage selects it"},
        ]

    def test_an_empty_stage_is_skipped_and_the_rollout_goes_on(self, now: datetime) -> None:
        core = make_joined_site(tier="regional", now=now)
        rollout = start(make_version(now=now), now=now)

        settle(rollout, [core], now=now)

        assert states(rollout) == [("canary", "skipped"), ("rest", "passed")]


def test_a_wish_changes_generation_only_at_the_sites_it_concerns(now: datetime) -> None:
    edge, core = (
        make_joined_site("edge", now=now),
        make_joined_site("core", tier="regional", now=now),
    )
    rollout = start(make_version(now=now), now=now)
    before = edge.caller(now=now).generation, core.caller(now=now).generation

    advance_rollout(rollout_id=rollout.pk, now=now)

    assert edge.caller(now=now).generation == before[0] + 1
    assert core.caller(now=now).generation == before[1]
    wish = SiteModel.objects.get(site=edge.site)
    assert Deployment.objects.get(site=edge.site).generation == wish.generation == before[0] + 1


class TestASiteThatIsLongSilent:
    """Nobody can make a dead site return, and it must not block the model for ever."""

    def test_a_rollback_waits_for_a_site_that_is_silent_a_little(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.ROLLING_BACK, now=now)
        later = now + 2 * fresh_within()
        advance_rollout(rollout_id=rollout.pk, now=later)
        rollout.refresh_from_db()
        assert rollout.state == RolloutState.ROLLING_BACK
        assert f"silent since {now:%Y-%m-%d %H:%M} UTC" in rollout.reason
        given_up = now + PATIENCE * fresh_within()
        assert f"not waited for after {given_up:%Y-%m-%d %H:%M} UTC" in rollout.reason
        assert "abort" not in rollout.reason

    def test_a_rollback_ends_incomplete_without_it_and_the_wish_stands(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.ROLLING_BACK, now=now)
        later = now + 11 * fresh_within()
        advance_rollout(rollout_id=rollout.pk, now=later)
        rollout.refresh_from_db()
        assert rollout.state == RolloutState.ROLLBACK_INCOMPLETE
        assert "1 site long silent" in rollout.reason
        back = rollout.deployments.get(kind="rollback", reason_code="site-silent")
        assert back.state == DeploymentState.ROLLBACK_FAILED
        wish = SiteModel.objects.get(site=back.site, model=rollout.model)
        assert wish.desired == back.to_version

    def test_an_aborted_rollout_ends_without_it_and_calls_it_back(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.CANCELLING, now=now)
        open_ones = rollout.deployments.filter(state__in=ACTIVE_DEPLOYMENT)
        (busy,) = open_ones
        later = now + 11 * fresh_within()
        advance_rollout(rollout_id=rollout.pk, now=later)
        rollout.refresh_from_db()
        assert rollout.state == RolloutState.CANCELLED
        busy.refresh_from_db()
        assert (busy.state, busy.reason_code) == (DeploymentState.CANCELLED, "site-silent")
        wish = SiteModel.objects.get(site=busy.site, model=rollout.model)
        assert wish.desired == busy.from_version


def test_a_stage_that_waits_for_a_silent_site_says_so_since_when_and_the_way_out(
    now: datetime,
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    later = now + 2 * fresh_within()

    advance_rollout(rollout_id=rollout.pk, now=later)

    rollout.refresh_from_db()
    assert f"silent since {now:%Y-%m-%d %H:%M} UTC" in rollout.reason
    assert "abort or roll back to stop waiting" in rollout.reason
    revision = rollout.revision
    advance_rollout(rollout_id=rollout.pk, now=later + timedelta(seconds=5))
    rollout.refresh_from_db()
    assert rollout.revision == revision, "the same wait is written once, not at every tick"


def test_a_stage_that_waits_for_a_site_that_reports_speaks_of_its_progress_only(
    now: datetime,
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    advance_rollout(rollout_id=rollout.pk, now=now + timedelta(seconds=5))
    rollout.refresh_from_db()
    assert "silent" not in rollout.reason
    assert "abort" not in rollout.reason


class TestBarrier:
    """Every site has the bytes while only the canary has activated them."""

    @pytest.fixture
    def edge(self, now: datetime) -> FakeAgent:
        return make_joined_site("edge", now=now)

    @pytest.fixture
    def core(self, now: datetime) -> FakeAgent:
        return make_joined_site("core", tier="regional", now=now)

    def test_a_later_stage_stages_and_activates_when_its_turn_comes(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), canary_then_rest(), barrier=True, now=now)
        assert deployments(rollout) == {"edge": "offered", "core": "offered"}
        core.report("vad", "staged", now=now)
        assert core.ask_lease("vad", now=now).reason_code == "stage-not-started"

        turn(rollout, edge, core, now=now)
        assert deployments(rollout) == {"edge": "succeeded", "core": "staged"}
        assert stages_of(rollout) == {"canary": "passed", "rest": "running"}
        assert core.ask_lease("vad", now=now).granted

    def test_a_site_that_fails_before_its_stage_has_begun_turns_it_back(
        self, edge: FakeAgent, core: FakeAgent, now: datetime
    ) -> None:
        rollout = running(make_version(now=now), canary_then_rest(), barrier=True, now=now)
        core.report("vad", "failed", now=now, reason_code="digest-mismatch")

        settle(rollout, [edge, core], now=now)

        assert rollout.state == RolloutState.ROLLED_BACK
        assert stages_of(rollout) == {"canary": "cancelled", "rest": "failed"}
        assert (edge.serving, core.serving) == ({"vad": None}, {"vad": None})


def test_a_failed_site_rests_in_the_penalty_box_and_is_tried_again_as_often_as_allowed(
    now: datetime,
) -> None:
    edge = make_joined_site("edge", now=now)
    stages = one_stage(retries=1, retry_after_seconds=60)
    rollout = running(make_version(now=now), stages, now=now)
    edge.report("vad", "failed", now=now, reason_code="golden-mismatch")

    turn(rollout, now=now)
    assert (rollout.state, rollout.reason_code) == ("running", "penalty-box")
    assert "rest until 12:01:00 UTC" in rollout.reason
    assert edge.wishes(now=now)["vad"]["version"] is None
    turn(rollout, now=now + timedelta(seconds=59))
    assert deployments(rollout) == {"edge": "pending"}

    later = now + timedelta(seconds=60)
    turn(rollout, now=later)
    assert deployments(rollout) == {"edge": "offered"}
    edge.report("vad", "failed", now=later, reason_code="golden-mismatch")
    assert turn(rollout, now=later).state == RolloutState.ROLLING_BACK
    attempts = Deployment.objects.filter(rollout=rollout, kind=DeploymentKind.FORWARD)
    assert list(attempts.order_by("attempt").values_list("attempt", "state", "superseded")) == [
        (1, "failed", True),
        (2, "failed", False),
    ]
