"""`decide` against a hostile world: whatever is lost, doubled, late or restarted, and whatever
people press, no stage runs ahead, nothing is offered on hold, and the rollout ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controlplane.domain.admission import Granted, LeaseFacts, Refused, admit
from controlplane.domain.decide import decide
from controlplane.domain.decisions import Decision, StartStage
from controlplane.domain.policy import OnFailure, OnSilent, StagePolicy
from controlplane.domain.rollout import (
    FINAL_DEPLOYMENT,
    FINAL_ROLLOUT,
    OnConflict,
    ResumeChoice,
    allowed_verbs,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.views import RolloutView
from controlplane.ops.simulation.book import IllegalStep
from controlplane.ops.simulation.rows import Deployment
from controlplane.ops.simulation.site_steps import latest
from tests.unit.rollout_world import NEW, OLD, SimSite, StrictCentre, World

SITES, STAGES = 20, 4
sites = st.integers(0, SITES - 1)
policies = st.builds(
    StagePolicy,
    max_concurrent=st.sampled_from([None, None, "50%", 2]),
    max_unavailable=st.sampled_from(["25%", "100%", 1]),
    failures_tolerated=st.sampled_from([0, 0, 1, "20%"]),
    on_failure=st.sampled_from(OnFailure),
    progress_deadline_seconds=st.sampled_from([None, 300.0]),
    on_silent=st.sampled_from([OnSilent.WAIT, OnSilent.COUNT]),
    retries=st.sampled_from([0, 1]),
    retry_after_seconds=st.just(30.0),
)
some_sites = st.sets(sites, min_size=1, max_size=SITES)


class HostileRollout(RuleBasedStateMachine):
    """Rules are faults and people; the assertions stand in `World.apply` and below."""

    decide = staticmethod(decide)
    centre = StrictCentre

    @initialize(
        # Stages are drawn, so that some are empty; most sites are good, so that stages pass.
        stages=st.lists(st.integers(0, STAGES - 1), min_size=SITES, max_size=SITES),
        breaking=st.sets(sites, max_size=1),
        stuck=st.sets(sites, max_size=1),
        soak_seconds=st.sampled_from([0.0, 20.0, 120.0]),
        policy=policies,
        barrier=st.booleans(),
    )
    def begin(
        self,
        stages: list[int],
        breaking: set[int],
        stuck: set[int],
        soak_seconds: float,
        policy: StagePolicy,
        barrier: bool,
    ) -> None:
        made = [
            SimSite(stage=stage, breaks=index in breaking, cannot_return=index in stuck)
            for index, stage in enumerate(stages)
        ]
        self.world = World(
            made,
            stages=STAGES,
            soak_seconds=soak_seconds,
            policy=policy,
            barrier=barrier,
            decide=type(self).decide,
            centre=type(self).centre,
        )
        self.ends: dict[Deployment, D] = {}
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
            self.world.run_well(self.world.sites[index])
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
            site.speak(self.world.seconds)
            for _ in range(steps):
                site.work(self.world.seconds)
            site.speak(self.world.seconds)

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
    @rule(choice=st.sampled_from(ResumeChoice))
    def a_person_resumes(self, choice: ResumeChoice) -> None:
        self.world.resume(choice)

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

    @precondition(lambda self: "stop-waiting" in allowed_verbs(self.world.state))
    @rule(sure=st.integers(0, 2))
    def a_person_stops_waiting(self, sure: int) -> None:
        if sure == 0:
            self.world.stop_waiting()

    @rule(
        sure=st.integers(0, 3),
        on_conflict=st.sampled_from([OnConflict.QUEUE, OnConflict.SUPERSEDE]),
    )
    def a_new_rollout_comes_on_top(self, sure: int, on_conflict: OnConflict) -> None:
        if sure == 0 and self.world.state is not R.QUEUED:
            self.world.begin_another(on_conflict)

    @rule(sure=st.integers(0, 3), roll_back=st.booleans())
    def the_version_is_quarantined(self, sure: int, roll_back: bool) -> None:
        if sure == 0:
            self.world.centre.quarantine(NEW, self.world.seconds, roll_back=roll_back)

    @rule()
    def the_version_is_released(self) -> None:
        self.world.centre.release(NEW)

    @rule(sure=st.integers(0, 2))
    def everything_is_frozen(self, sure: int) -> None:
        if sure == 0:
            self.world.freeze()

    @rule()
    def freezes_are_lifted(self) -> None:
        self.world.lift()

    @rule(index=sites, sure=st.integers(0, 2))
    def a_site_is_retired(self, index: int, sure: int) -> None:
        if sure == 0:
            self.world.retire(index)

    @invariant()
    def each_stage_started_at_most_once(self) -> None:
        assert all(count == 1 for count in self.world.centre.started.values())

    @invariant()
    def no_stage_runs_ahead(self) -> None:
        for rollout in self.world.centre.rollouts:
            states = [stage.state for stage in rollout.stages]
            for index, state in enumerate(states):
                if state in (S.RUNNING, S.SOAKING, S.PASSED):
                    assert set(states[:index]) <= {S.PASSED, S.SKIPPED, S.FAILED}

    @invariant()
    def an_end_is_an_end(self) -> None:
        for rollout in self.world.centre.rollouts:
            for deployment in rollout.forward + rollout.rollback:
                before = self.ends.get(deployment)
                assert before is None or deployment.state is before
                if deployment.state in FINAL_DEPLOYMENT:
                    self.ends[deployment] = deployment.state

    @invariant()
    def a_failed_site_never_ends_in_success(self) -> None:
        for rollout in self.world.centre.rollouts:
            for deployment in latest(rollout):
                if deployment.state is D.SUCCEEDED:
                    assert not self.world.sites[deployment.site].breaks
                else:
                    assert rollout.state is not R.SUCCEEDED

    @invariant()
    def every_decision_explains_itself(self) -> None:
        if self.world.state not in FINAL_ROLLOUT:
            assert decide(self.world.view(), self.world.now).reason

    def teardown(self) -> None:
        """Liveness: when faults stop and everybody answers, all is over, and truthfully."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.heal()
        for rollout in world.centre.rollouts:
            assert rollout.state in FINAL_ROLLOUT
        there = [site for site in world.sites if not site.retired]
        if world.state is R.SUCCEEDED:
            planned = {d.site for d in world.rollout.forward}
            assert {s.serving for s in there if s.index in planned} <= {NEW}
        if world.state is R.ROLLED_BACK and len(world.centre.rollouts) == 1:
            assert {site.serving for site in there} <= {OLD}


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


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    breaking=st.sets(sites, min_size=5),
    retries=st.integers(1, 3),
    tolerated=st.integers(0, 3),
    max_concurrent=st.sampled_from([None, 1, 2, 5]),
    max_unavailable=st.integers(1, 4),
    barrier=st.booleans(),
    turns=st.lists(st.permutations(range(SITES)), min_size=1, max_size=4),
)
def test_retries_let_no_more_sites_fail_than_the_stage_bears(
    breaking: set[int],
    retries: int,
    tolerated: int,
    max_concurrent: int | None,
    max_unavailable: int,
    barrier: bool,
    turns: list[list[int]],
) -> None:
    """By the truth at the sites: at most those tolerated, and those let begin at once, have begun
    and do not serve the version well, however often each is tried again."""
    assert unproven_at_most(
        [SimSite(stage=0, breaks=index in breaking) for index in range(SITES)],
        StagePolicy(
            failures_tolerated=tolerated,
            retries=retries,
            retry_after_seconds=30.0,
            max_concurrent=max_concurrent,
            max_unavailable=max_unavailable,
        ),
        barrier=barrier,
        turns=turns,
    ) <= (tolerated + max_unavailable)


def unproven_at_most(
    made: list[SimSite],
    policy: StagePolicy,
    *,
    barrier: bool = False,
    turns: list[list[int]],
    centre: type[StrictCentre] = StrictCentre,
) -> int:
    """How many sites at most had begun and were not proven, until the rollout was over."""
    world = World(made, stages=1, soak_seconds=0, policy=policy, barrier=barrier, centre=centre)
    begun: set[int] = set()
    for site in made:
        site.began = lambda site: begun.add(site.index)
    most = 0
    for turn in range(400):
        world.advance()
        if world.state is not R.RUNNING:
            break
        world.now += timedelta(seconds=10)
        for index in turns[turn % len(turns)]:
            world.run_well(made[index])
            most = max(most, sum(made[n].serving is not NEW for n in begun))
    else:
        raise AssertionError(f"it stays {world.state}")
    return most


class BeginsBesideFailures(StrictCentre):
    def admit(self, facts: LeaseFacts) -> Granted | Refused:
        return admit(replace(facts, untried=False))


def test_that_property_finds_a_lease_that_looks_past_failures() -> None:
    made = [SimSite(stage=0, breaks=True) for _ in range(SITES)]
    policy = StagePolicy(retries=1, max_unavailable=2, retry_after_seconds=30.0)

    assert unproven_at_most(made, policy, turns=[list(range(SITES))]) <= 2
    made = [SimSite(stage=0, breaks=True) for _ in range(SITES)]
    spoilt = unproven_at_most(made, policy, turns=[list(range(SITES))], centre=BeginsBesideFailures)
    assert spoilt > 2


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

    with pytest.raises((AssertionError, IllegalStep)):
        run(Mutant, phases=(Phase.generate,))


class CountsNobody(StrictCentre):
    def admit(self, facts: LeaseFacts) -> Granted | Refused:
        return admit(replace(facts, unavailable=0))


class GrantsOneTooMany(StrictCentre):
    def admit(self, facts: LeaseFacts) -> Granted | Refused:
        return admit(replace(facts, max_unavailable=facts.max_unavailable + 1))


@pytest.mark.parametrize("spoilt", [CountsNobody, GrantsOneTooMany])
def test_these_properties_find_a_planted_bug_of_the_effects(spoilt: type[StrictCentre]) -> None:
    class Mutant(HostileRollout):
        centre = spoilt

    with pytest.raises(AssertionError):
        run(Mutant, phases=(Phase.generate,))
