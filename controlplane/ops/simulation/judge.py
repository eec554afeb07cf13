"""The invariants of rollouts, by the truth at the sites and not by what the centre believes.

Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    FINAL_ROLLOUT,
    GOOD_END,
    STAGE_FAILURES,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.book import left_standing
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.invariants import Broken, Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.permits import Permits
from controlplane.ops.simulation.rows import Report, Rollout, Stage
from controlplane.ops.simulation.site_steps import latest
from controlplane.ops.simulation.versions import Version

if TYPE_CHECKING:
    from controlplane.ops.simulation.agent import Agent
    from controlplane.ops.simulation.centre import Centre

_EPSILON_SECONDS = 1e-3


class Judge(Permits):
    """Is told besides what the centre committed, what reports came, and what people did."""

    def __init__(self, *, options: Options, clock: Clock) -> None:
        super().__init__(options=options, clock=clock)
        self.last_end = 0.0
        self._centre: Centre | None = None
        self._newest = [(0, 0)] * options.sites
        self._heard: list[dict[str, float]] = [{} for _ in range(options.sites)]
        self._on_hold: set[int] = set()
        self._started: set[tuple[int, int]] = set()
        self._stages: dict[tuple[int, int], S] = {}
        self._soak_began: dict[tuple[int, int], float] = {}
        self._recorded: dict[int, dict[int, Version | None]] = {}

    def attach(self, agents: Sequence[Agent], centre: Centre) -> None:
        self._agents, self._centre = agents, centre

    def person_holds(self, rollout: Rollout, *, held: bool) -> None:
        """Somebody paused, aborted or rolled back, or resumed."""
        if held:
            self._on_hold.add(rollout.id)
        else:
            self._on_hold.discard(rollout.id)

    def before_report(self, report: Report) -> list[tuple[str, object]] | None:
        """What a report of the past must leave as it is; None for one of the present."""
        assert self._centre is not None
        site, now = report.site, self._clock.now
        rows, heard, past = self._centre.rows[site], self._heard[site], []
        place = (report.session, report.seq)
        overtaken = place <= self._newest[site]
        if not overtaken:
            self._newest[site] = place
        for said in report.models:
            model = said.model
            if overtaken or said.generation < rows[model].generation:
                past.append((model, self._state(site, model)))
            else:
                heard[model] = now
        return past or None

    def after_report(self, report: Report, past: list[tuple[str, object]] | None) -> None:
        for model, before in past or ():
            same = self._state(report.site, model) == before
            self._check(Invariant.STALE, same, "site {}, {}: {}", report.site, model, report)

    def _state(self, site: int, model: str) -> object:
        assert self._centre is not None
        row = self._centre.rows[site][model]
        active = self._centre.active.get((site, model), ())
        return (row.said, row.reported_at, [(id(d), d.state) for d in active])

    def committed(self, note: n.Note) -> None:
        """One change of the centre's rows, now that it is written and so was legal."""
        self.checked[Invariant.LEGAL] += 1
        match note:
            case n.WishChanged():
                self._wish_changed(note)
            case n.Activated():
                self._activated(note)
            case n.StageMoved():
                self._stage_moved(note.rollout, note.stage, note.state)
            case n.Soaked():
                self._soaked(note)
            case n.RolloutMoved():
                self.moved(note.rollout, note.state)
                self._rollout_moved(note.rollout, note.state)
            case n.Granted():
                self.granted(note)
            case n.Ended():
                self.ended(note)

    def _wish_changed(self, note: n.WishChanged) -> None:
        rises = note.generation > note.generation_before
        self._check(Invariant.GENERATION, rises, "site {} at the centre", note.site)
        sound = note.after not in self._withdrawn
        self._check(Invariant.WITHDRAWN, sound, "{} wished of site {}", note.after, note.site)
        if note.offer is None:
            return
        self.offered(note)
        rollout = note.rollout
        free = rollout.id not in self._on_hold
        self._check(Invariant.HELD, free, "{} offered to site {}", rollout, note.site)
        self._recorded.setdefault(rollout.id, {}).setdefault(note.site, note.before)

    def _activated(self, note: n.Activated) -> None:
        assert self._centre is not None
        site, model = note.deployment.site, note.deployment.rollout.version.model
        alone = len(self._centre.active.get((site, model), ())) <= 1
        self._check(Invariant.ONE_ACTIVE, alone, "site {}, {}", site, model)

    def _stage_moved(self, rollout: Rollout, stage: Stage, state: S) -> None:
        key = (rollout.id, stage.index)
        self._stages[key] = state
        self._clock.note("{}: {} is {}", rollout, stage.name, state.value)
        if state is S.RUNNING:
            before = (self._stages.get((rollout.id, i)) for i in range(stage.index))
            holds = key not in self._started and all(s in (S.PASSED, S.SKIPPED) for s in before)
            self._started.add(key)
            self._check(Invariant.STAGES, holds, "{} started {}", rollout, stage.name)
        elif state is S.SOAKING:
            self._soak_began[key] = self._clock.now
            open_ = stage.forward[D.PENDING] + sum(stage.forward[s] for s in ACTIVE_DEPLOYMENT)
            self._check(Invariant.STAGES, not open_, "{} soaks {}", rollout, stage.name)
        elif state is S.PASSED:
            self.passed(rollout, stage)
            self._stage_passed(rollout, stage)

    def _stage_passed(self, rollout: Rollout, stage: Stage) -> None:
        began = self._soak_began.get((rollout.id, stage.index), self._clock.now)
        soaked = min(stage.soaked_seconds, self._clock.now - began)
        enough = stage.promoted or soaked >= stage.soak_seconds - _EPSILON_SECONDS
        self._check(Invariant.SOAK, enough, "{}: {} after {} s", rollout, stage.name, soaked)
        if (rollout.id, stage.index) not in self._soak_began:
            raise Broken(Invariant.STAGES, f"{rollout}: {stage.name} passed without its soak")
        limits, accepted = stage.limits, stage.accepted_at is not None
        failed = sum(stage.forward[state] for state in STAGE_FAILURES)
        tolerated = max(limits.failures_tolerated, stage.accepted_failures)
        holds = failed <= tolerated
        self._check(
            Invariant.BROKEN_FAILS, holds, "{}: {} with {} failed", rollout, stage.name, failed
        )
        done = [d for d in stage.deployments if d.state is D.SUCCEEDED]
        again = stage.forward[D.PENDING] + sum(stage.forward[s] for s in ACTIVE_DEPLOYMENT)
        reached = accepted or len(done) + again >= min(limits.successes_required, limits.sites)
        self._check(Invariant.STAGES, reached, "{} passed {} early", rollout, stage.name)
        for deployment in done:
            site, version = deployment.site, rollout.version
            sound = version.flaw_at(site) is None
            self._check(Invariant.BROKEN_FAILS, sound, "{} passed at site {}", rollout, site)
            right = (site, version) in self._right_in_place
            self._check(Invariant.STAGES, right, "{} passed without site {}", rollout, site)

    def _soaked(self, note: n.Soaked) -> None:
        if note.seconds <= 0:
            return
        now, fresh = self._clock.now, self._options.fresh_seconds
        longest = min(fresh, now - (now if note.since is None else note.since))
        true = note.seconds <= longest + _EPSILON_SECONDS
        self._check(Invariant.SOAK, true, "{} counted {} s", note.rollout, note.seconds)
        model, heard, limit = note.rollout.version.model, self._heard, now - fresh
        silent = [
            deployment.site
            for deployment in note.stage.deployments
            if deployment.state is D.SUCCEEDED
            and deployment.site not in self._retired
            and heard[deployment.site].get(model, 0.0) < limit
        ]
        few = note.stage.promoted or len(silent) <= note.stage.limits.stale_tolerated
        self._check(Invariant.SOAK, few, "{}: sites {} are silent", note.rollout, silent)

    def _rollout_moved(self, rollout: Rollout, state: R) -> None:
        self._clock.note("{} is {}: {}", rollout, state.value, rollout.cause)
        if state in (R.ROLLING_BACK, R.CANCELLING):
            self._on_hold.add(rollout.id)
        if state in FINAL_ROLLOUT:
            self.last_end = self._clock.now
        if state in GOOD_END:
            self._went_well(rollout, state)
        if state in (R.CANCELLED, R.SUPERSEDED, R.SUCCEEDED_WITH_EXCEPTIONS):
            self._let_go(rollout)
        elif state is R.ROLLED_BACK:
            for site, version in self._recorded.get(rollout.id, {}).items():
                self._returned(rollout, site, version)

    def _went_well(self, rollout: Rollout, state: R) -> None:
        for deployment in latest(rollout):
            site, is_done = deployment.site, deployment.state is D.SUCCEEDED
            sound = not is_done or rollout.version.flaw_at(site) is None
            self._check(Invariant.BROKEN_FAILS, sound, "{} at site {}", rollout, site)
            whole = is_done or state is not R.SUCCEEDED
            self._check(Invariant.BROKEN_FAILS, whole, "{}: not at site {}", rollout, site)

    def _let_go(self, rollout: Rollout) -> None:
        """It leaves its version only where it had succeeded."""
        assert self._centre is not None
        done = {d.site for d in latest(rollout) if d.state is D.SUCCEEDED}
        for site, before in self._recorded.get(rollout.id, {}).items():
            wished = self._centre.rows[site][rollout.version.model].desired
            stays = before in self.ever_withdrawn  # there was nothing sound to return to
            holds = wished is before or site in done or site in self._retired or stays
            self._check(Invariant.HELD, holds, "{} leaves its wish at site {}", rollout, site)

    def _returned(self, rollout: Rollout, site: int, version: Version | None) -> None:
        agent, model = self._agents[site], rollout.version.model
        if site in self._retired or not any(d.site == site for d in rollout.rollback):
            return  # called back before, and not part of the way back
        committed = agent.disk.record(model).committed
        number = None if version is None else str(version.number)
        serves = agent.triton.ready.get(model)
        holds = (committed.version if committed else None) == number and serves in (None, number)
        self._check(Invariant.RETURNS, holds, "{}: site {} serves {}", rollout, site, serves)

    # At the end

    def at_the_end(self) -> None:
        """Faults stopped long ago: everything is over, and every site serves what is wished."""
        assert self._centre is not None
        for agent in self._agents:
            if agent.site in self._retired:
                continue
            for model, row in self._centre.rows[agent.site].items():
                wished = row.desired
                if left_standing(row) and row.previous in self.ever_withdrawn:
                    continue  # its part ended, and there was nothing sound to return to
                serves = agent.triton.ready.get(model)
                holds = serves == (None if wished is None else str(wished.number))
                self._check(
                    Invariant.CONVERGES,
                    holds,
                    "site {} serves {}, wished is {}",
                    agent.site,
                    serves,
                    wished,
                )
        for rollout in self._centre.rollouts:
            over = rollout.state in FINAL_ROLLOUT
            self._check(Invariant.ENDS, over, "{} is {}", rollout, rollout.state.value)
