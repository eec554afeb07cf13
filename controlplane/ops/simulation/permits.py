"""What others must allow before a rollout goes on, by the truth: windows, approvals, gates, pins.

Is told what people and measurements said, apart from what the centre holds. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from waypost_agent import situation as sit

from controlplane.domain.admission import BEGIN_WITHIN_SECONDS
from controlplane.domain.gates import GateResult, Verdict
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.windows import Window, is_open, open_seconds_between
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.clock import Clock, moment
from controlplane.ops.simulation.invariants import Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Rollout, Stage
from controlplane.ops.simulation.slots import Slots


class Permits(Slots):
    """`windows` are the activation windows that sites have now."""

    def __init__(self, *, options: Options, clock: Clock) -> None:
        super().__init__(options=options, clock=clock)
        self.windows: Mapping[int, tuple[Window, ...]] = {}
        self._approved: set[tuple[int, int | None]] = set()
        self._verdicts: dict[tuple[int, int, str], GateResult] = {}
        self._pinned: set[tuple[int, str]] = set()

    # What people and measurements said

    def approved(self, rollout: Rollout, stage: Stage | None) -> None:
        """The plan, or one stage."""
        self._approved.add((rollout.id, None if stage is None else stage.index))

    def measured(self, rollout: Rollout, stage: Stage, result: GateResult) -> None:
        self._verdicts[rollout.id, stage.index, result.gate] = result

    def pinned(self, site: int, model: str, *, held: bool) -> None:
        if held:
            self._pinned.add((site, model))
        else:
            self._pinned.discard((site, model))

    # What must hold

    def offered(self, note: n.WishChanged) -> None:
        super().offered(note)
        free = (note.site, note.rollout.version.model) not in self._pinned
        self._check(Invariant.PINNED, free, "{} offered to site {}", note.rollout, note.site)

    def begins(self, site: int, wish: sit.Wish) -> None:
        super().begins(site, wish)
        deployment = self._offers[site, wish.model, wish.generation]
        windows = self.windows.get(site, ())
        if not windows or site in self._retired or deployment.state in (D.SUCCEEDED, D.FAILED):
            return
        now, latest = moment(self._clock.now), moment(self._clock.now - BEGIN_WITHIN_SECONDS)
        opened = is_open(windows, now) or open_seconds_between(windows, latest, now) > 0
        self._check(Invariant.WINDOW, opened, "{} begins at site {}", deployment.rollout, site)

    def moved(self, rollout: Rollout, state: R) -> None:
        super().moved(rollout, state)
        if state is R.RUNNING and rollout.approval_required:
            known = (rollout.id, None) in self._approved
            self._check(Invariant.APPROVED, known, "{} runs", rollout)

    def passed(self, rollout: Rollout, stage: Stage) -> None:
        """Whatever a policy asks for has been said, and not too long ago."""
        if stage.policy.approval:
            known = (rollout.id, stage.index) in self._approved
            self._check(Invariant.APPROVED, known, "{} passed {}", rollout, stage.name)
        if stage.promoted:
            return
        for gate in stage.policy.gates:
            result = self._verdicts.get((rollout.id, stage.index, gate))
            good = result is not None and self._is_good(stage, result)
            said = "nothing" if result is None else result.verdict.value
            self._check(
                Invariant.GATED, good, "{} passed {}, {}: {}", rollout, stage.name, gate, said
            )

    def _is_good(self, stage: Stage, result: GateResult) -> bool:
        if result.verdict is Verdict.FAIL:
            accepted = stage.accepted_at
            return accepted is not None and result.judged_at <= moment(accepted)
        fresh = result.fresh_until is None or result.fresh_until >= moment(self._clock.now)
        return result.verdict is Verdict.PASS and fresh
