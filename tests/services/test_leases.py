"""Activation leases: who may touch Triton now, and what frees a slot."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.conf import settings

from controlplane.domain.admission import BEGIN_WITHIN_SECONDS
from controlplane.domain.errors import Conflict
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import ResumeChoice
from controlplane.domain.stages import StageSpec
from controlplane.fleet.models import Site
from controlplane.fleet.services import create_window
from controlplane.rollouts.approvals import record_verdict
from controlplane.rollouts.freezes import freeze_sites, set_budget
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.quarantine import quarantine_version
from controlplane.rollouts.turning_back import roll_back_rollout
from controlplane.rollouts.verbs import abort_rollout, pause_rollout, resume_rollout
from tests.factories import make_joined_site, make_version
from tests.fake_agent import FakeAgent
from tests.services.steps import BY, one_stage, part, running, serving, silence, turn
from tests.services.threads import at_once, failures

LAPSED = timedelta(seconds=BEGIN_WITHIN_SECONDS + 1)
ON_SQLITE = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")


@pytest.fixture
def agents(now: datetime) -> list[FakeAgent]:
    """Four sites that serve version 1."""
    found = [make_joined_site(f"s-{n}", now=now) for n in range(4)]
    serving(found, now=now)
    return found


@pytest.fixture
def rollout(agents: list[FakeAgent], now: datetime) -> Rollout:
    """Version 2 is offered to all four; one may be unavailable."""
    return running(make_version(now=now), one_stage(max_unavailable=1), now=now)


class TestGranted:
    def test_to_a_site_whose_turn_it_is(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].report("vad", "staged", now=now)
        answer = agents[0].ask_lease("vad", now=now)

        assert answer.document() == {
            "granted": True,
            "lease": 1,
            "begin_within_seconds": BEGIN_WITHIN_SECONDS,
        }
        row = part(rollout, agents[0])
        assert (row.holds_lease, row.leased_at, row.lease_boot) == (True, now, "boot-1")

    def test_again_to_a_site_that_asks_again_with_a_new_number_and_one_slot(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        first = agents[0].ask_lease("vad", now=now)
        second = agents[0].ask_lease("vad", now=now + timedelta(seconds=9))

        assert (first.lease, second.lease) == (1, 2)
        assert Deployment.objects.filter(holds_lease=True).count() == 1

    def test_not_to_a_site_whose_proof_was_cut_off_before_a_pause(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        """Who asks is not in mid-switch: refusing leaves it with what it serves."""
        agents[0].begin("vad", now=now)
        pause_rollout(rollout_id=rollout.pk, now=now, **BY)

        assert agents[0].ask_lease("vad", now=now).reason_code == "rollout-not-running"

    def test_to_a_site_that_mends_itself_after_its_part_is_over(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].obey(now=now)
        agents[1].begin("vad", now=now)  # takes the only slot

        assert agents[0].ask_lease("vad", now=now).granted
        assert not part(rollout, agents[0]).holds_lease

    def test_not_for_mending_what_failed_there(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        rollout.stages.update(policy={"failures_tolerated": 1})
        agents[0].begin("vad", now=now)
        agents[0].report("vad", "failed", now=now, reason_code="golden-mismatch")

        answer = agents[0].ask_lease("vad", now=now)

        assert (answer.granted, answer.reason_code) == (False, "failed-here")


def frozen(rollout: Rollout, now: datetime) -> None:
    freeze_sites(selector={}, until=None, now=now, **BY)


def paused(rollout: Rollout, now: datetime) -> None:
    pause_rollout(rollout_id=rollout.pk, now=now, **BY)


def quarantined(rollout: Rollout, now: datetime) -> None:
    quarantine_version(
        model_name="vad", number=rollout.version.number, roll_back=False, now=now, **BY
    )


def window_closed(rollout: Rollout, now: datetime) -> None:
    fields = {"name": "night", "kind": "activation", "days": ["mon"], "start": "02:00"}
    create_window(fields={**fields, "minutes": 60}, actor="user:ann", now=now)


def stage_waiting(rollout: Rollout, now: datetime) -> None:
    rollout.stages.update(state="pending")


@pytest.mark.parametrize(
    ("hold", "code", "words"),
    [
        (frozen, "frozen", "frozen by user:ann since 2026-11-23 12:00 UTC"),
        (paused, "rollout-not-running", "paused by user:ann: because"),
        (quarantined, "version-withdrawn", "quarantined: user:ann: because"),
        (window_closed, "window-closed", "closed until 2026-11-30 02:00 UTC"),
        (stage_waiting, "stage-not-started", "stage all has not started"),
    ],
)
def test_refused_while(
    hold: Callable[[Rollout, datetime], None],
    code: str,
    words: str,
    agents: list[FakeAgent],
    rollout: Rollout,
    now: datetime,
) -> None:
    hold(rollout, now)

    answer = agents[0].ask_lease("vad", now=now)

    assert (answer.granted, answer.reason_code) == (False, code)
    assert words in answer.reason
    assert answer.retry_seconds == settings.WAYPOST_POLL_SECONDS
    assert not Deployment.objects.filter(holds_lease=True).exists()


class TestMaxUnavailable:
    def test_the_site_that_switches_is_named_to_the_one_that_waits(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].begin("vad", now=now)

        answer = agents[1].ask_lease("vad", now=now)

        assert answer.reason_code == "max-unavailable"
        assert answer.reason == "at most 1 of 4 may be unavailable in stage all, 1 are: s-0"

    @pytest.mark.parametrize("phase", ["succeeded", "failed"])
    def test_the_end_of_a_part_frees_its_slot(
        self, phase: str, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        rollout.stages.update(policy={"max_unavailable": 1, "failures_tolerated": 1})
        agents[0].begin("vad", now=now)
        agents[0].report("vad", phase, now=now)

        assert agents[1].ask_lease("vad", now=now).granted

    def test_a_site_that_does_not_serve_well_takes_a_place(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].report("vad", "staged", now=now, healthy=False)

        answer = agents[1].ask_lease("vad", now=now)

        assert (answer.granted, answer.reason_code) == (False, "max-unavailable")

    def test_a_site_whose_triton_died_takes_a_place(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].serving.clear()
        agents[0].report("vad", "staged", now=now)

        assert agents[1].ask_lease("vad", now=now).reason_code == "max-unavailable"

    def test_a_silent_site_takes_a_place(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        later = now + silence()
        for agent in agents[1:]:
            agent.report("vad", "staged", now=later)

        answer = agents[1].ask_lease("vad", now=later)

        assert "s-0" in answer.reason

    def test_a_site_that_never_served_the_model_takes_none(self, now: datetime) -> None:
        fresh = [make_joined_site(f"n-{n}", now=now) for n in range(4)]
        running(make_version("ocr", now=now), one_stage(max_unavailable=1), now=now)
        for agent in fresh:
            agent.report("ocr", "staged", now=now)

        assert fresh[0].ask_lease("ocr", now=now).granted
        assert not fresh[1].ask_lease("ocr", now=now).granted

    def test_a_site_put_off_takes_none(self, agents: list[FakeAgent], now: datetime) -> None:
        rollout = running(
            make_version(now=now),
            one_stage(max_unavailable=1, on_silent="defer", progress_deadline_seconds=60),
            now=now,
        )
        later = now + silence()
        for agent in agents[1:]:
            agent.report("vad", "staged", now=later)
        turn(rollout, now=later)
        assert part(rollout, agents[0]).state == "deferred"

        assert agents[1].ask_lease("vad", now=later).granted

    def test_sites_of_another_stage_do_not_count(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        one = StagePolicy(max_unavailable=1)
        stages = (
            StageSpec(name="a", sites=frozenset({"s-0"}), soak_seconds=0, policy=one),
            StageSpec(name="b", soak_seconds=0, policy=one),
        )
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, agents[0], now=now)
        agents[0].report("vad", "succeeded", now=now, healthy=False)
        rollout.stages.filter(name="a").update(accepted_at=now, accepted_failures=1)
        rollout.stages.filter(name="b").update(state="running")

        assert agents[1].ask_lease("vad", now=now).granted


class TestASlotIsFreed:
    """Only by evidence, made after the lease can no longer begin."""

    def holder(self, agents: list[FakeAgent], now: datetime) -> FakeAgent:
        agents[0].report("vad", "staged", now=now)
        assert agents[0].ask_lease("vad", now=now).granted
        return agents[0]

    def test_by_a_report_that_the_lease_lapsed_unused(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.leases.clear()

        holder.report("vad", "staged", now=now + LAPSED)

        assert not part(rollout, holder).holds_lease

    @pytest.mark.parametrize("phase", ["proving", "activating", "verifying"])
    def test_not_by_a_report_that_it_has_begun(
        self, phase: str, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.leases.clear()
        holder.report("vad", phase, now=now + LAPSED)
        assert part(rollout, holder).holds_lease

    def test_not_by_a_report_that_it_holds_it_still(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.report("vad", "staged", now=now + LAPSED)
        assert part(rollout, holder).holds_lease

    def test_not_while_the_lease_may_still_begin(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.leases.clear()
        holder.report("vad", "staged", now=now + timedelta(seconds=BEGIN_WITHIN_SECONDS))
        assert part(rollout, holder).holds_lease

    def test_not_by_an_old_report_that_was_long_under_way(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        """It was made before the lease was asked for, and says nothing of it."""
        said = agents[0].said("vad", "staged", now=now)
        made = agents[0].instant(now=now - timedelta(seconds=1))
        holder = self.holder(agents, now)

        holder.send(said, now=now + LAPSED, made=made)

        assert part(rollout, holder).holds_lease

    def test_by_the_first_report_after_a_reboot(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.reboot()
        holder.report("vad", "pending", now=now + timedelta(seconds=1))
        assert not part(rollout, holder).holds_lease

    def test_not_by_a_report_that_could_not_look_at_triton(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.reboot()
        holder.triton_live = False
        holder.report("vad", "staged", now=now + LAPSED)
        assert part(rollout, holder).holds_lease

    def test_not_by_a_report_in_which_triton_serves_the_version(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        holder = self.holder(agents, now)
        holder.leases.clear()
        holder.report("vad", "staged", now=now + LAPSED, serving=rollout.version.number)
        assert part(rollout, holder).holds_lease

    def test_never_by_time_alone(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].begin("vad", now=now)
        for hours in range(1, 50, 7):
            later = now + timedelta(hours=hours)
            for agent in agents[1:]:
                agent.report("vad", "staged", now=later)
            turn(rollout, now=later)
            assert not agents[1].ask_lease("vad", now=later).granted
        assert part(rollout, agents[0]).holds_lease

    def test_not_by_a_report_that_holds_another_number_in_time(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        """The answer to the second question may still be on its way."""
        holder = self.holder(agents, now)
        again = now + LAPSED
        holder.ask_lease("vad", now=again)
        holder.leases["vad"] = 1

        holder.report("vad", "staged", now=again + timedelta(seconds=1))

        assert part(rollout, holder).holds_lease


class TestTheFence:
    def test_a_question_about_an_older_wish_is_told_to_poll(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        question = agents[0].question("vad", now=now)
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)

        with pytest.raises(Conflict) as caught:
            agents[0].ask_lease("vad", now=now, generation=question.generation)

        assert caught.value.code == "wish-superseded"

    @pytest.mark.parametrize(
        "changes",
        [{"generation": 99}, {"epoch": 2}, {"manifest_digest": "sha256:00"}],
        ids=lambda changes: next(iter(changes)),
    )
    def test_a_question_about_anything_else_too(
        self,
        changes: dict[str, object],
        agents: list[FakeAgent],
        rollout: Rollout,
        now: datetime,
    ) -> None:
        with pytest.raises(Conflict, match="poll again"):
            agents[0].ask_lease("vad", now=now, **changes)

    def test_an_abort_takes_back_a_lease_that_has_not_begun(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].report("vad", "staged", now=now)
        agents[0].ask_lease("vad", now=now)

        abort_rollout(rollout_id=rollout.pk, now=now, **BY)

        assert not Deployment.objects.filter(rollout=rollout, holds_lease=True).exists()
        with pytest.raises(Conflict):
            agents[0].ask_lease("vad", now=now)

    def test_a_lease_that_an_abort_left_at_large_counts_until_the_site_speaks(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        """It was granted, and its agent may begin before it hears of the abort."""
        agents[0].ask_lease("vad", now=now)
        abort_rollout(rollout_id=rollout.pk, now=now, **BY)
        turn(rollout, now=now)
        following = running(make_version(now=now), one_stage(max_unavailable=1), now=now)
        turn(following, now=now)

        refused = agents[1].ask_lease("vad", now=now)
        assert (refused.granted, refused.reason_code) == (False, "max-unavailable")
        assert agents[0].site.name in refused.reason

        agents[0].report("vad", "staged", now=now)
        assert agents[1].ask_lease("vad", now=now).granted

    def test_the_way_back_needs_no_lease(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        assert agents[0].wishes(now=now)["vad"]["lease_required"] is True
        roll_back_rollout(rollout_id=rollout.pk, now=now, **BY)
        assert agents[0].wishes(now=now)["vad"]["lease_required"] is False


class TestAboveRollouts:
    def test_one_model_at_a_time_is_activated_at_a_site(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        running(make_version("ocr", now=now), now=now)
        agents[0].begin("vad", now=now)

        answer = agents[0].ask_lease("ocr", now=now)

        assert answer.reason_code == "site-busy"
        assert "vad is being activated here" in answer.reason
        assert agents[1].ask_lease("ocr", now=now).granted

    def test_never_two_of_a_redundancy_group(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        rollout.stages.update(policy={"max_unavailable": 4})
        Site.objects.filter(name__in=["s-0", "s-1"]).update(redundancy_group="pair")
        agents[0].begin("vad", now=now)

        answer = agents[1].ask_lease("vad", now=now)

        assert answer.reason_code == "redundancy-group"
        assert "s-0" in answer.reason
        assert agents[2].ask_lease("vad", now=now).granted

    def test_not_while_the_other_of_the_group_is_not_well_in_another_model(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        serving(agents, now=now, model="ocr")
        running(make_version("vad", now=now), now=now)
        Site.objects.filter(name__in=["s-0", "s-1"]).update(redundancy_group="pair")
        agents[0].report("ocr", "succeeded", now=now, healthy=False)

        assert agents[1].ask_lease("vad", now=now).reason_code == "redundancy-group"

    def test_a_redundancy_group_gets_its_first_version_one_after_the_other(
        self, now: datetime
    ) -> None:
        pair = [make_joined_site(f"p-{n}", now=now) for n in range(2)]
        Site.objects.update(redundancy_group="pair")
        rollout = running(make_version(now=now), one_stage(max_unavailable=2), now=now)
        for agent in pair:
            agent.report("vad", "staged", now=now)

        assert pair[0].ask_lease("vad", now=now).granted
        assert not pair[1].ask_lease("vad", now=now).granted
        turn(rollout, *pair, now=now)
        assert pair[1].ask_lease("vad", now=now).granted

    def test_not_while_the_other_of_the_group_is_on_its_way_back(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        """The way back asks nobody, so it may have begun without a word."""
        Site.objects.filter(name__in=["s-0", "s-1"]).update(redundancy_group="pair")
        back = running(make_version("ocr", now=now), now=now)
        agents[0].obey(now=now)
        running(make_version("vad", now=now), now=now)
        agents[1].report("vad", "staged", now=now)
        roll_back_rollout(rollout_id=back.pk, site_name="s-0", now=now, **BY)

        assert agents[1].ask_lease("vad", now=now).reason_code == "redundancy-group"

    def test_the_fleets_budget_holds_and_moves_on_with_the_hour(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        now += timedelta(hours=2)
        set_budget(changing_percent=50, now=now, **BY)
        for agent in agents:
            agent.obey(now=now)
        rollout = running(make_version(now=now), one_stage(max_unavailable=4), now=now)
        for agent in agents[:2]:
            assert agent.begin("vad", now=now).granted
            agent.report("vad", "succeeded", now=now)

        answer = agents[2].ask_lease("vad", now=now)

        assert answer.reason_code == "budget-spent"
        assert "2 sites changed within an hour, the fleet's budget is 2" in answer.reason
        later = now + timedelta(hours=1, seconds=1)
        turn(rollout, *agents[:2], now=later)
        assert agents[2].ask_lease("vad", now=later).granted

    def test_the_budget_counts_sites_over_all_rollouts(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        now += timedelta(hours=2)
        set_budget(changing_percent=25, now=now, **BY)
        for agent in agents:
            agent.obey(now=now)
        running(make_version("vad", now=now), now=now)
        running(make_version("ocr", now=now), now=now)
        agents[0].begin("vad", now=now)
        agents[0].report("vad", "succeeded", now=now)

        assert agents[1].ask_lease("ocr", now=now).reason_code == "budget-spent"
        assert agents[0].ask_lease("ocr", now=now).granted, "it is one of the changing already"


@pytest.mark.usefixtures("transactional_db")
class TestRaces:
    def test_of_sites_that_race_for_the_last_slot_one_gets_it(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        for name in ("a", "b", "c"):
            rollout = running(make_version(name, now=now), one_stage(max_unavailable=1), now=now)
            for agent in agents:
                agent.report(name, "staged", now=now)

            answers = at_once(lambda agent, name=name: agent.ask_lease(name, now=now), agents)

            assert failures(answers) == []
            assert sorted(answer.granted for answer in answers) == [False, False, False, True]  # type: ignore[union-attr]  # no failure among them
            assert rollout.deployments.filter(holds_lease=True).count() == 1
            for agent in agents:
                agent.report(name, "succeeded", now=now)

    def test_of_two_rollouts_that_race_for_the_last_of_the_budget_one_gets_it(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        now += timedelta(hours=2)
        for agent in agents:
            agent.obey(now=now)
        set_budget(changing_percent=25, now=now, **BY)
        asked = []
        for name, agent in zip(("a", "b", "c", "d"), agents, strict=True):
            running(make_version(name, now=now), now=now)
            asked.append((name, agent))

        answers = at_once(lambda pair: pair[1].ask_lease(pair[0], now=now), asked)

        assert failures(answers) == []
        assert [answer.granted for answer in answers].count(True) == 1  # type: ignore[union-attr]  # no failure among them

    def test_of_a_pair_that_races_in_two_rollouts_one_changes(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        Site.objects.filter(name__in=["s-0", "s-1"]).update(redundancy_group="pair")
        for name in ("a", "b"):
            running(make_version(name, now=now), now=now)
        asked = [("a", agents[0]), ("b", agents[1])]

        answers = at_once(lambda pair: pair[1].ask_lease(pair[0], now=now), asked)

        assert failures(answers) == []
        assert sorted(answer.granted for answer in answers) == [False, True]  # type: ignore[union-attr]  # no failure among them

    def test_a_lease_that_races_a_pause_is_refused_or_granted_before_it(
        self, agents: list[FakeAgent], now: datetime
    ) -> None:
        for name in ("a", "b", "c"):
            rollout = running(make_version(name, now=now), now=now)

            def act(what: object, name: str = name, pk: int = rollout.pk) -> object:
                if isinstance(what, FakeAgent):
                    return what.ask_lease(name, now=now)
                return pause_rollout(rollout_id=pk, now=now, **BY)

            assert failures(at_once(act, [agents[0], "pause"])) == []
            assert not agents[1].ask_lease(name, now=now).granted


class TestAFailingGate:
    """Between its word and the engine's next turn, and after a plain resume."""

    @pytest.fixture
    def rollout(self, agents: list[FakeAgent], now: datetime) -> Rollout:
        stages = one_stage(max_unavailable=4, on_failure="pause")
        return running(make_version(now=now), stages, now=now)

    def fails(self, rollout: Rollout, now: datetime) -> None:
        record_verdict(
            rollout_id=rollout.pk,
            stage_name="all",
            gate="latency",
            verdict=Verdict.FAIL,
            reason="p99 of 80 ms",
            evidence={},
            fresh_seconds=None,
            actor="token:judge",
            now=now,
        )

    def test_stops_leases_at_once(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        self.fails(rollout, now)

        answer = agents[0].ask_lease("vad", now=now)

        assert (answer.granted, answer.reason_code) == (False, "gate-failed")
        assert answer.reason == (
            "stage all: gate latency fails: p99 of 80 ms; nothing begins until somebody decides "
            "about that"
        )

    def test_stops_them_after_a_pause_by_a_person_was_lifted(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        pause_rollout(rollout_id=rollout.pk, now=now, **BY)
        self.fails(rollout, now)
        turn(rollout, now=now)
        resume_rollout(rollout_id=rollout.pk, now=now, **BY)

        assert agents[0].ask_lease("vad", now=now).reason_code == "gate-failed"
        turn(rollout, now=now)
        assert (rollout.state, rollout.pause_code) == ("paused", "gate-failed")

    @pytest.mark.parametrize("choice", [ResumeChoice.ACCEPT, ResumeChoice.RETRY])
    def test_lets_them_go_on_when_somebody_has_decided(
        self, choice: ResumeChoice, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        self.fails(rollout, now)
        turn(rollout, now=now)
        resume_rollout(rollout_id=rollout.pk, choice=choice, now=now, **BY)
        assert agents[0].ask_lease("vad", now=now).granted

        self.fails(rollout, now + timedelta(seconds=1))
        assert agents[1].ask_lease("vad", now=now).reason_code == "gate-failed"


class TestAnEarlierStageGoneBad:
    """Its sites hold the leases of the stages after it, as they hold the start of those."""

    @pytest.fixture
    def rollout(self, agents: list[FakeAgent], now: datetime) -> Rollout:
        """The first site serves the version, the others are asked to."""
        stages = (
            StageSpec(name="first", soak_seconds=0, sites=frozenset({agents[0].site.name})),
            StageSpec(name="rest", soak_seconds=0, policy=StagePolicy(max_unavailable=3)),
        )
        rollout = running(make_version(now=now), stages, now=now)
        turn(rollout, agents[0], now=now)
        assert agents[1].ask_lease("vad", now=now).granted
        return rollout

    def test_stops_leases_of_a_later_stage_at_once_until_it_is_well(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].report("vad", "succeeded", now=now, healthy=False, reason="no answer")

        answer = agents[2].ask_lease("vad", now=now)
        assert (answer.granted, answer.reason_code) == (False, "earlier-stage-unwell")
        assert answer.reason == (
            "stage rest waits: in stage first, s-0 (no answer); it goes on when they are healthy, "
            "or when somebody decides about that"
        )

        agents[0].report("vad", "succeeded", now=now)
        assert agents[2].ask_lease("vad", now=now).granted

    def test_stops_them_while_it_is_silent(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        now += silence()
        for agent in agents[1:]:
            agent.report("vad", "staged", now=now)

        assert agents[2].ask_lease("vad", now=now).reason_code == "earlier-stage-unwell"

    def test_lets_them_go_on_when_somebody_has_accepted_it(
        self, agents: list[FakeAgent], rollout: Rollout, now: datetime
    ) -> None:
        agents[0].report("vad", "succeeded", now=now, healthy=False, reason="no answer")
        pause_rollout(rollout_id=rollout.pk, now=now, **BY)
        resume_rollout(rollout_id=rollout.pk, choice=ResumeChoice.ACCEPT, now=now, **BY)

        assert agents[2].ask_lease("vad", now=now).granted
