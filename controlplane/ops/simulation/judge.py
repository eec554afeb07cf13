"""The invariants of rollouts, by the truth at the sites and not by what the centre believes.

Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controlplane.domain.rollout import FINAL_ROLLOUT
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.invariants import Broken, Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Report, Rollout, Stage
from controlplane.ops.simulation.truth import Truth
from controlplane.ops.simulation.versions import Version

if TYPE_CHECKING:
    from controlplane.ops.simulation.agent import Agent
    from controlplane.ops.simulation.centre import Centre

_EPSILON_SECONDS = 1e-3


class Judge(Truth):
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
        rows, now, site = self._centre.rows[report.site], self._clock.now, report.site
        place = (report.session, report.seq)
        overtaken = place <= self._newest[site]
        if not overtaken:
            self._newest[site] = place
        past = []
        for said in report.models:
            if overtaken or said.generation < rows[said.model].generation:
                past.append((said.model, self._state(site, said.model)))
            else:
                self._heard[site][said.model] = now
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
                self._rollout_moved(note.rollout, note.state)

    def _wish_changed(self, note: n.WishChanged) -> None:
        rises = note.generation > note.generation_before
        self._check(Invariant.GENERATION, rises, "site {} at the centre", note.site)
        if not note.is_offer:
            return
        rollout = note.rollout
        free = rollout.id not in self._on_hold
        self._check(Invariant.HELD, free, "{} offered to site {}", rollout, note.site)
        self._recorded.setdefault(rollout.id, {})[note.site] = note.before

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
        elif state is S.PASSED:
            self._stage_passed(rollout, stage)

    def _stage_passed(self, rollout: Rollout, stage: Stage) -> None:
        began = self._soak_began.get((rollout.id, stage.index), self._clock.now)
        soaked = min(stage.soaked_seconds, self._clock.now - began)
        enough = soaked >= stage.soak_seconds - _EPSILON_SECONDS
        self._check(Invariant.SOAK, enough, "{}: {} after {} s", rollout, stage.name, soaked)
        for deployment in stage.deployments:
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
        for deployment in note.stage.deployments:
            if deployment.state is D.SUCCEEDED and heard[deployment.site].get(model, 0.0) < limit:
                raise Broken(Invariant.SOAK, f"{note.rollout}: site {deployment.site} is silent")

    def _rollout_moved(self, rollout: Rollout, state: R) -> None:
        self._clock.note("{} is {}: {}", rollout, state.value, rollout.cause)
        if state in (R.ROLLING_BACK, R.CANCELLING):
            self._on_hold.add(rollout.id)
        if state in FINAL_ROLLOUT:
            self.last_end = self._clock.now
        if state is R.SUCCEEDED:
            for deployment in rollout.forward:
                fine = rollout.version.flaw_at(deployment.site) is None
                site = deployment.site
                self._check(Invariant.BROKEN_FAILS, fine, "{} at site {}", rollout, site)
        elif state is R.CANCELLED:
            self._let_go(rollout)
        elif state is R.ROLLED_BACK:
            for site, version in self._recorded.get(rollout.id, {}).items():
                self._returned(rollout, site, version)

    def _let_go(self, rollout: Rollout) -> None:
        """An aborted rollout leaves its version only where it had succeeded."""
        assert self._centre is not None
        done = {d.site for d in rollout.forward if d.state is D.SUCCEEDED}
        for site, before in self._recorded.get(rollout.id, {}).items():
            wished = self._centre.rows[site][rollout.version.model].desired
            holds = wished is before or site in done
            self._check(Invariant.HELD, holds, "{} leaves its wish at site {}", rollout, site)

    def _returned(self, rollout: Rollout, site: int, version: Version | None) -> None:
        agent, model = self._agents[site], rollout.version.model
        if any(d.site == site and d.state is D.CANCELLED for d in rollout.forward) and not any(
            d.site == site for d in rollout.rollback
        ):
            return  # called back by an abort before, and not part of the way back
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
            for model, row in self._centre.rows[agent.site].items():
                wished = row.desired
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
