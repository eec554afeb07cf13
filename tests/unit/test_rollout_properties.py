"""`decide` against a hostile world: whatever is lost, doubled, late or restarted, and whatever
people press, no stage runs ahead, nothing is offered on hold, and the rollout ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controlplane.domain.rollout import (
    FINAL_DEPLOYMENT,
    FINAL_ROLLOUT,
    Decision,
    RolloutView,
    StartStage,
    allowed_verbs,
    decide,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from tests.unit.rollout_world import NEW, OLD, SimSite, World

SITES, STAGES = 20, 4
sites = st.integers(0, SITES - 1)
some_sites = st.sets(sites, min_size=1, max_size=SITES)


class HostileRollout(RuleBasedStateMachine):
    """Rules are faults and people; the assertions stand in `World.apply` and below."""

    decide = staticmethod(decide)

    @initialize(
        # Stages are drawn, so that some are empty; most sites are good, so that stages pass.
        stages=st.lists(st.integers(0, STAGES - 1), min_size=SITES, max_size=SITES),
        breaking=st.sets(sites, max_size=1),
        stuck=st.sets(sites, max_size=1),
        soak_seconds=st.sampled_from([0.0, 20.0, 120.0]),
    )
    def begin(
        self, stages: list[int], breaking: set[int], stuck: set[int], soak_seconds: float
    ) -> None:
        made = [
            SimSite(stage=stage, breaks=index in breaking, cannot_return=index in stuck)
            for index, stage in enumerate(stages)
        ]
        self.world = World(made, stages=STAGES, soak_seconds=soak_seconds, decide=type(self).decide)
        self.ends: dict[int, D] = {}
        self.world.advance()

    @rule(seconds=st.sampled_from([1, 5, 30, 300, 86_400, -60, -3600]))
    def time_passes(self, seconds: int) -> None:
        """Also while the engine is down, and backwards: somebody set the clock."""
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def the_engine_turns(self) -> None:
        self.world.advance()

    @rule(chosen=some_sites)
    def agents_run_well(self, chosen: set[int]) -> None:
        for index in chosen:
            site = self.world.sites[index]
            site.poll()
            while not site.ended:
                site.work()
            site.speak()
            self.world.deliver(site.wire[-1])
        self.world.advance()

    @rule(turns=st.integers(1, 6), seconds=st.sampled_from([10, 10, 300]))
    def all_is_well_for_a_while(self, turns: int, seconds: int) -> None:
        """With 300 s between two turns the engine was down meanwhile; the sites were not."""
        for _ in range(turns):
            self.world.now += timedelta(seconds=seconds)
            self.agents_run_well(set(range(SITES)))

    @rule(chosen=some_sites, steps=st.integers(0, 7))
    def agents_work_and_speak(self, chosen: set[int], steps: int) -> None:
        for index in chosen:
            site = self.world.sites[index]
            site.poll()
            site.speak()
            for _ in range(steps):
                site.work()
            site.speak()

    @rule(chosen=some_sites)
    def agents_crash(self, chosen: set[int]) -> None:
        for index in chosen:
            self.world.sites[index].crash()

    @rule(chosen=some_sites)
    def sites_fall_ill(self, chosen: set[int]) -> None:
        for index in chosen:
            self.world.sites[index].well = False

    @rule()
    def sites_recover(self) -> None:
        for site in self.world.sites:
            site.well = True

    @rule(chosen=some_sites, place=st.integers(0, 50), again=st.booleans())
    def reports_arrive_in_any_order(self, chosen: set[int], place: int, again: bool) -> None:
        for index in chosen:
            site = self.world.sites[index]
            if site.wire:
                message = site.wire[place % len(site.wire)]
                self.world.deliver(message)
                if again:
                    self.world.deliver(message)
                else:
                    site.wire.remove(message)

    @rule(chosen=some_sites)
    def reports_are_lost(self, chosen: set[int]) -> None:
        for index in chosen:
            self.world.sites[index].wire.clear()

    @precondition(lambda self: "pause" in allowed_verbs(self.world.state))
    @rule()
    def a_person_pauses(self) -> None:
        self.world.pause()

    @precondition(lambda self: "resume" in allowed_verbs(self.world.state))
    @rule()
    def a_person_resumes(self) -> None:
        self.world.resume()

    @precondition(lambda self: "abort" in allowed_verbs(self.world.state))
    @rule(sure=st.integers(0, 5))
    def a_person_aborts(self, sure: int) -> None:
        if sure == 0:
            self.world.abort()

    @precondition(lambda self: "rollback" in allowed_verbs(self.world.state))
    @rule(sure=st.integers(0, 5))
    def a_person_rolls_back(self, sure: int) -> None:
        if sure == 0:
            self.world.roll_back()

    @invariant()
    def each_stage_started_at_most_once(self) -> None:
        assert all(count == 1 for count in self.world.started.values())

    @invariant()
    def no_stage_runs_ahead(self) -> None:
        states = self.world.stage_states
        for index in self.world.started:
            done = {S.PASSED, S.SKIPPED, S.FAILED}
            if states[index] in (S.RUNNING, S.SOAKING, S.PASSED):
                assert set(states[:index]) <= done

    @invariant()
    def sites_of_stages_that_never_started_were_never_asked(self) -> None:
        for site in self.world.sites:
            if site.stage not in self.world.started:
                assert site.generation == 0

    @invariant()
    def an_end_is_an_end(self) -> None:
        for deployment in self.world.rollout.forward:
            before = self.ends.get(deployment.site)
            assert before is None or deployment.state is before
            if deployment.state in FINAL_DEPLOYMENT:
                self.ends[deployment.site] = deployment.state

    @invariant()
    def a_failed_site_never_ends_in_success(self) -> None:
        if self.world.state is R.SUCCEEDED:
            assert all(d.state is D.SUCCEEDED for d in self.world.rollout.forward)
            assert not any(site.breaks for site in self.world.sites)

    @invariant()
    def every_decision_explains_itself(self) -> None:
        if self.world.state not in FINAL_ROLLOUT:
            assert decide(self.world.view(), self.world.now).reason

    def teardown(self) -> None:
        """Liveness: when faults stop and nobody holds it, the rollout ends, and truthfully."""
        if not hasattr(self, "world"):
            return
        world = self.world
        if world.state is R.PAUSED:
            world.resume()
        world.heal()
        assert world.state in FINAL_ROLLOUT
        if world.state is R.SUCCEEDED:
            assert {site.serving for site in world.sites} == {NEW}
        if world.state is R.ROLLED_BACK:
            assert {site.serving for site in world.sites} == {OLD}
        if any(site.breaks and site.stage in world.started for site in world.sites):
            assert world.state is not R.SUCCEEDED


def run(machine: type[HostileRollout], *, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_no_fault_and_no_person_can_make_a_rollout_unsafe_or_endless() -> None:
    run(HostileRollout)


def without_failures(view: RolloutView, now: datetime) -> Decision:
    """Takes a failed site for one that succeeded."""
    stages = tuple(
        replace(
            stage,
            forward={
                D.SUCCEEDED: stage.count(D.SUCCEEDED, D.FAILED),
                **{s: n for s, n in stage.forward.items() if s not in (D.SUCCEEDED, D.FAILED)},
            },
        )
        for stage in view.stages
    )
    return decide(replace(view, stages=stages), now)


def without_pause(view: RolloutView, now: datetime) -> Decision:
    """Goes on while a person holds it."""
    return decide(replace(view, state=R.RUNNING) if view.state is R.PAUSED else view, now)


def without_gates(view: RolloutView, now: datetime) -> Decision:
    """Starts the next stage as soon as it can."""
    if view.state is R.RUNNING and any(stage.state is S.RUNNING for stage in view.stages):
        for stage in view.stages:
            if stage.state is S.PENDING and stage.sites:
                return StartStage(stage=stage.index, reason="in a hurry")
    return decide(view, now)


def without_freshness(view: RolloutView, now: datetime) -> Decision:
    """Counts an outage as soak."""
    return decide(replace(view, fresh_within=timedelta(days=365)), now)


@pytest.mark.parametrize(
    "planted", [without_failures, without_pause, without_gates, without_freshness]
)
def test_these_properties_find_a_planted_bug(
    planted: Callable[[RolloutView, datetime], Decision],
) -> None:
    class Mutant(HostileRollout):
        decide = staticmethod(planted)

    with pytest.raises(AssertionError):
        run(Mutant, phases=(Phase.generate,))
