"""A tiny world for `decide`: stages, sites, wishes with generations, and messages that may be lost,
doubled and late. The centre's rows are the simulator's; every illegal step is refused here."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    BeginSoak,
    CountSoak,
    Decision,
    Finish,
    PassStage,
    RolloutView,
    SkipStage,
    StartStage,
    decide,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.clock import seconds_at
from controlplane.ops.simulation.rows import Report, Rollout, Said, SiteModel
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
    well: bool = True
    seq: int = 0
    wire: list[Report] = field(default_factory=list)

    def join(self, centre: Centre, index: int) -> None:
        self.centre, self.index = centre, index
        centre.rows[index][OLD.model] = SiteModel(desired=OLD)

    @property
    def generation(self) -> int:
        return self.centre.generations[self.index]

    def poll(self) -> None:
        answer = self.centre.answer(self.index, self.held)
        if answer is not None:
            self.held, self.progress, self.ended = answer.generation, 0, False
            self.target = answer.wishes[0].version

    def work(self) -> None:
        if self.ended:
            return
        self.progress += 1
        if self.progress == len(PHASES):
            self.ended = True
            if not self.fails():
                self.serving = self.target

    def fails(self) -> bool:
        return self.breaks if self.target is NEW else self.cannot_return

    def speak(self) -> None:
        self.seq += 1
        done = "succeeded" if self.serving is self.target else "failed"
        said = Said(
            model=OLD.model,
            generation=self.held,
            phase=done if self.ended else PHASES[self.progress],
            serving=self.serving.number if self.serving else None,
            healthy=self.well,
        )
        report = Report(site=self.index, session=1, seq=self.seq, models=(said,), sent_at=0.0)
        self.wire.append(report)

    def crash(self) -> None:
        """Files survive a crash, a switch under way begins again."""
        if not self.ended:
            self.progress = min(self.progress, PHASES.index("staged"))


class StrictCentre(Centre):
    """Looks at each decision before it does as it says."""

    held_by_person = False

    def __init__(self, *, sites: int, decide: Callable[[RolloutView, datetime], Decision]) -> None:
        fresh_seconds = FRESH_WITHIN.total_seconds()
        super().__init__(sites=sites, fresh_seconds=fresh_seconds, patience=math.inf, decide=decide)
        self.started: Counter[int] = Counter()

    def apply(self, rollout: Rollout, decision: Decision, now: float) -> None:
        match decision:
            case StartStage():
                self._check_start(rollout, decision.stage)
            case SkipStage():
                deployments = rollout.stages[decision.stage].deployments
                assert not deployments, "only an empty stage may be skipped"
            case BeginSoak():
                stage = rollout.stages[decision.stage]
                assert all(d.state is D.SUCCEEDED for d in stage.deployments)
            case CountSoak() | PassStage():
                self._check_soak(rollout, decision, now)
            case Finish(state=R.SUCCEEDED):
                assert all(d.state is D.SUCCEEDED for d in rollout.forward)
            case Finish(state=R.ROLLED_BACK):
                assert all(d.state is D.ROLLED_BACK for d in rollout.rollback)
        super().apply(rollout, decision, now)

    def _check_start(self, rollout: Rollout, index: int) -> None:
        assert rollout.state is R.RUNNING, "nothing is offered while it is held"
        assert not self.held_by_person
        earlier = {stage.state for stage in rollout.stages[:index]}
        assert earlier <= {S.PASSED, S.SKIPPED}, "an earlier stage has not passed"
        assert not any(d.state is D.FAILED for d in rollout.forward)
        assert all(d.state is D.PENDING for d in rollout.stages[index].deployments)
        self.started[index] += 1

    def _check_soak(self, rollout: Rollout, decision: CountSoak | PassStage, now: float) -> None:
        stage = rollout.stages[decision.stage]
        until = now if stage.soak_counted_until is None else stage.soak_counted_until
        longest = min(max(0.0, now - until), self.fresh_seconds)
        assert 0 <= decision.seconds <= longest, "soak out of nothing"
        if isinstance(decision, PassStage):
            assert stage.soaked_seconds + decision.seconds >= stage.soak_seconds


class World:
    """One rollout over the given sites; a stage that no site names is empty."""

    def __init__(
        self,
        sites: list[SimSite],
        *,
        stages: int,
        soak_seconds: float,
        decide: Callable[[RolloutView, datetime], Decision] = decide,
    ) -> None:
        self.sites = sites
        self.now = NOW
        self.centre = StrictCentre(sites=len(sites), decide=decide)
        for index, site in enumerate(sites):
            site.join(self.centre, index)
        plan = [
            (soak_seconds, [index for index, site in enumerate(sites) if site.stage == stage])
            for stage in range(stages)
        ]
        self.rollout = self.centre.plan(NEW, plan)

    @property
    def state(self) -> R:
        return self.rollout.state

    @property
    def stage_states(self) -> list[S]:
        return [stage.state for stage in self.rollout.stages]

    @property
    def started(self) -> Counter[int]:
        return self.centre.started

    # What people do

    def pause(self) -> None:
        self.centre.held_by_person = True
        self.centre.pause(self.rollout, seconds_at(self.now))

    def resume(self) -> None:
        self.centre.held_by_person = False
        self.centre.resume(self.rollout, seconds_at(self.now))

    def abort(self) -> None:
        self.centre.held_by_person = True
        self.centre.abort(self.rollout, seconds_at(self.now))

    def roll_back(self) -> None:
        self.centre.held_by_person = True
        self.centre.roll_back(self.rollout, seconds_at(self.now), "turned back")

    # What the network does

    def deliver(self, report: Report) -> None:
        self.centre.report(report, seconds_at(self.now))

    # What the engine does

    def advance(self) -> None:
        self.centre.steps(self.rollout, seconds_at(self.now))

    def view(self) -> RolloutView:
        return rollout_view(self.centre, self.rollout, seconds_at(self.now))

    def heal(self) -> None:
        """Every fault stops: agents poll, work, speak, and are heard until the rollout is final."""
        for _ in range(400):
            if self.state in FINAL_ROLLOUT:
                return
            self.now += timedelta(seconds=10)
            for site in self.sites:
                site.well = True
                site.wire.clear()
                site.poll()
                while not site.ended:
                    site.work()
                site.speak()
                self.deliver(site.wire.pop())
            self.advance()
        raise AssertionError(f"it stays {self.state}: {self.stage_states}")
