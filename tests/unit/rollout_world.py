"""A tiny world for `decide`: stages, sites, wishes with generations, and messages that may be lost,
doubled and late. The centre's rows are the simulator's; every illegal step is refused here."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.domain.admission import BEGIN_WITHIN_SECONDS, Instant
from controlplane.domain.decide import decide
from controlplane.domain.decisions import (
    BeginSoak,
    CountSoak,
    Decision,
    Finish,
    OfferSites,
    PassStage,
    StartStage,
)
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import FINAL_ROLLOUT, OnConflict, ResumeChoice
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.views import RolloutView
from controlplane.ops.simulation.admissions import is_open
from controlplane.ops.simulation.centre import Centre, PlannedStage
from controlplane.ops.simulation.clock import seconds_at
from controlplane.ops.simulation.rows import Question, Report, Rollout, Said, SiteModel, Stage
from controlplane.ops.simulation.site_steps import latest
from controlplane.ops.simulation.versions import Version
from controlplane.ops.simulation.views import rollout_view
from tests.unit.views import FRESH_WITHIN, NOW

PHASES = ("pending", "downloading", "staged", "proving", "activating", "verifying")
OLD, NEW = Version(model="vad", number=1), Version(model="vad", number=2)


@dataclass(kw_only=True)
class SimSite:
    """Truth at a site: its agent, and what is still on the wire."""

    stage: int
    breaks: bool
    cannot_return: bool = False
    held: int = 0
    target: Version | None = OLD
    progress: int = len(PHASES)
    ended: bool = True
    serving: Version | None = OLD
    asks: bool = False
    began: Callable[["SimSite"], None] = lambda site: None
    well: bool = True
    seq: int = 0
    wire: list[Report] = field(default_factory=list)

    def join(self, centre: Centre, index: int) -> None:
        self.centre, self.index = centre, index
        self.retired = False
        self.lease: int | None = None
        self.lease_until = 0.0
        self.begun = False
        centre.rows[index][OLD.model] = SiteModel(
            desired=OLD, serving=OLD.number, healthy=True, reported_at=seconds_at(NOW)
        )

    @property
    def generation(self) -> int:
        return self.centre.generations[self.index]

    def poll(self) -> None:
        answer = self.centre.answer(self.index, self.held)
        if answer is not None and not self.retired:
            self.held, self.progress, self.ended = answer.generation, 0, False
            self.target, self.lease, self.begun = answer.wishes[0].version, None, False
            self.asks = answer.wishes[0].lease_required

    def work(self, now: float) -> None:
        """One step; none towards a new version without a lease that still holds."""
        if self.ended:
            return
        if PHASES[self.progress] == "staged" and self.asks and not self.begun:
            if self.lease is None or now > self.lease_until:
                self.ask(now)
                return
            self.begun = True
            self.began(self)
        self.progress += 1
        if self.progress == len(PHASES):
            self.ended = True
            self.begun, self.lease = False, None
            if not self.fails():
                self.serving = self.target

    def ask(self, now: float) -> None:
        question = Question(
            site=self.index,
            session=1,
            model=OLD.model,
            generation=self.held,
            asked=Instant(boot="1", uptime=now),
        )
        leave = self.centre.request_lease(question, now)
        if leave is not None and leave.lease is not None:
            self.lease, self.lease_until = leave.lease, now + BEGIN_WITHIN_SECONDS

    def fails(self) -> bool:
        return self.breaks if self.target is NEW else self.cannot_return

    def speak(self, now: float) -> None:
        self.seq += 1
        done = "succeeded" if self.serving is self.target else "failed"
        said = Said(
            model=OLD.model,
            generation=self.held,
            phase=done if self.ended else PHASES[self.progress],
            serving=self.serving.number if self.serving else None,
            healthy=self.well,
            lease=self.lease if self.begun or now <= self.lease_until else None,
        )
        report = Report(
            site=self.index,
            session=1,
            seq=self.seq,
            models=(said,),
            sent_at=0.0,
            boot="1",
            uptime=now,
        )
        self.wire.append(report)

    def crash(self) -> None:
        """Files survive a crash, a switch under way begins again."""
        if not self.ended:
            self.progress = min(self.progress, PHASES.index("staged"))
        self.lease, self.begun = None, False


class StrictCentre(Centre):
    """Looks at each decision before it does as it says."""

    held_by_person = False

    def __init__(self, *, sites: int, decide: Callable[[RolloutView, datetime], Decision]) -> None:
        fresh_seconds = FRESH_WITHIN.total_seconds()
        super().__init__(sites=sites, fresh_seconds=fresh_seconds, patience=math.inf, decide=decide)
        self.started: Counter[tuple[int, int]] = Counter()

    def apply(self, rollout: Rollout, decision: Decision, now: float) -> None:
        match decision:
            case StartStage():
                self._check_start(rollout, decision.stage)
            case OfferSites():
                assert rollout.state is R.RUNNING, "nothing is offered while it is held"
                assert not (self.held_by_person and rollout is self.rollouts[-1])
                assert rollout.version not in self.quarantined
            case BeginSoak():
                stage = rollout.stages[decision.stage]
                assert not any(is_open(d) or d.state is D.PENDING for d in stage.deployments)
            case CountSoak() | PassStage():
                self._check_soak(rollout, decision, now)
            case Finish(state=R.SUCCEEDED):
                assert all(d.state is D.SUCCEEDED for d in latest(rollout))
            case Finish(state=R.ROLLED_BACK):
                ends = {d.state for d in rollout.rollback}
                assert ends <= {D.ROLLED_BACK, D.REMOVED}
        super().apply(rollout, decision, now)

    def offer(
        self,
        rollout: Rollout,
        stage: Stage,
        count: int,
        now: float,
        *,
        retries_only: bool = False,
    ) -> None:
        for deployment in self.offerable(stage, now, retries_only=retries_only)[:count]:
            assert deployment.site not in self.retired
            assert not self.is_frozen(deployment.site)
        super().offer(rollout, stage, count, now, retries_only=retries_only)
        active = sum(is_open(d) for d in stage.deployments)
        assert active <= stage.limits.max_concurrent

    def _check_start(self, rollout: Rollout, index: int) -> None:
        assert rollout.state is R.RUNNING, "nothing starts while it is held"
        earlier = {stage.state for stage in rollout.stages[:index]}
        assert earlier <= {S.PASSED, S.SKIPPED}, "an earlier stage has not passed"
        self.started[rollout.id, index] += 1

    def _check_soak(self, rollout: Rollout, decision: CountSoak | PassStage, now: float) -> None:
        stage = rollout.stages[decision.stage]
        until = now if stage.soak_counted_until is None else stage.soak_counted_until
        longest = min(max(0.0, now - until), self.fresh_seconds)
        assert 0 <= decision.seconds <= longest, "soak out of nothing"
        if isinstance(decision, PassStage):
            enough = stage.soaked_seconds + decision.seconds >= stage.soak_seconds
            assert enough or stage.promoted
            assert stage.forward[D.SUCCEEDED], "a stage passes with no verified site"
            failed = stage.forward[D.FAILED] + stage.forward[D.TIMED_OUT]
            tolerated = max(stage.limits.failures_tolerated, stage.accepted_failures)
            assert failed <= tolerated


class World:
    """A model on its way over the given sites; a stage that no site names is empty. The newest
    rollout is the one that people deal with."""

    def __init__(
        self,
        sites: list[SimSite],
        *,
        stages: int,
        soak_seconds: float,
        policy: StagePolicy | None = None,
        barrier: bool = False,
        decide: Callable[[RolloutView, datetime], Decision] = decide,
        centre: type[StrictCentre] = StrictCentre,
    ) -> None:
        self.sites = sites
        self.now = NOW
        self.stages, self.soak_seconds, self.barrier = stages, soak_seconds, barrier
        self.policy = policy or StagePolicy()
        self.centre = centre(sites=len(sites), decide=decide)
        for index, site in enumerate(sites):
            site.join(self.centre, index)
            site.began = self.began
        self.rollout = self.plan(OnConflict.REFUSE)

    def plan(self, on_conflict: OnConflict) -> Rollout:
        planned = [
            PlannedStage(
                sites=[
                    index
                    for index, site in enumerate(self.sites)
                    if site.stage == stage and not site.retired
                ],
                soak_seconds=self.soak_seconds,
                policy=self.policy,
            )
            for stage in range(self.stages)
        ]
        return self.centre.plan(
            NEW, planned, self.seconds, barrier=self.barrier, on_conflict=on_conflict
        )

    @property
    def seconds(self) -> float:
        return seconds_at(self.now)

    @property
    def state(self) -> R:
        return self.rollout.state

    @property
    def stage_states(self) -> list[S]:
        return [stage.state for stage in self.rollout.stages]

    def began(self, site: SimSite) -> None:
        """A site goes to work on a new version: I1, by the truth at the sites."""
        offer = self.centre.rows[site.index][OLD.model].offer
        if offer is None or offer.generation != site.held or not is_open(offer):
            return  # called back meanwhile, or it mends itself
        stage = offer.stage
        assert stage.state is not S.PENDING, "it begins before its stage"
        together = [
            d.site
            for d in stage.deployments
            if is_open(d)
            and self.sites[d.site].held == d.generation
            and (self.sites[d.site].begun or self.holds(self.sites[d.site]))
        ]
        assert len(together) <= stage.limits.max_unavailable, together

    def holds(self, site: SimSite) -> bool:
        return site.lease is not None and self.seconds <= site.lease_until

    # What people do

    def pause(self) -> None:
        self.centre.held_by_person = True
        self.centre.pause(self.rollout, self.seconds)

    def resume(self, choice: ResumeChoice) -> None:
        asked = self.rollout.pause_code != ""
        self.centre.held_by_person = False
        self.centre.resume(self.rollout, self.seconds, choice if asked else None)

    def abort(self) -> None:
        self.centre.held_by_person = True
        self.centre.abort(self.rollout, self.seconds)

    def roll_back(self) -> None:
        self.centre.held_by_person = True
        self.centre.roll_back(self.rollout, self.seconds, "turned back")

    def stop_waiting(self) -> None:
        self.centre.stop_waiting(self.rollout)

    def begin_another(self, on_conflict: OnConflict) -> None:
        self.rollout = self.plan(on_conflict)
        self.centre.held_by_person = False

    def freeze(self) -> None:
        self.centre.freeze(None)

    def lift(self) -> None:
        self.centre.freezes.clear()

    def retire(self, index: int) -> None:
        self.sites[index].retired = True
        self.centre.retire(index)

    # What the network does

    def deliver(self, report: Report) -> None:
        if report.site not in self.centre.retired:
            self.centre.seen(report.site, 1, self.seconds)
            self.centre.report(report, self.seconds)

    # What the engine does

    def advance(self) -> None:
        for rollout in self.centre.rollouts:
            if rollout.state not in FINAL_ROLLOUT:
                self.centre.steps(rollout, self.seconds)

    def view(self) -> RolloutView:
        return rollout_view(self.centre, self.rollout, self.seconds)

    def heal(self) -> None:
        """Every fault stops: agents poll, work, speak, and are heard until all is over; who is
        asked answers."""
        self.lift()
        self.centre.quarantined.clear()
        asked = 0
        for _ in range(800):
            if all(rollout.state in FINAL_ROLLOUT for rollout in self.centre.rollouts):
                return
            self.now += timedelta(seconds=10)
            for rollout in self.centre.rollouts:
                if rollout.state is R.PAUSED:
                    asked += 1
                    choice = ResumeChoice.ACCEPT if asked < 5 else ResumeChoice.ROLLBACK
                    self.centre.held_by_person = False
                    self.centre.resume(
                        rollout, self.seconds, choice if rollout.pause_code else None
                    )
            for site in self.sites:
                self.run_well(site)
            self.advance()
        raise AssertionError(f"it stays {self.state}: {self.stage_states}")

    def run_well(self, site: SimSite) -> None:
        """Goes as far as it may, and is heard."""
        site.well = True
        site.wire.clear()
        site.poll()
        for _ in PHASES:
            site.work(self.seconds)
        site.speak(self.seconds)
        self.deliver(site.wire.pop())
