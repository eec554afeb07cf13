"""What people do to the simulated centre.

Follows `rollouts/verbs.py`, `turning_back.py`, `quarantine.py` and `freezes.py` line by line where
those change rows; whether a verb is allowed now, its caller has asked."""

from collections.abc import Collection, Sequence

from controlplane.domain.gates import GateResult
from controlplane.domain.rollout import (
    OPEN_STAGE,
    STAGE_FAILURES,
    STARTED_STAGE,
    VERBS,
    ResumeChoice,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.windows import Window
from controlplane.ops.simulation.admissions import is_open
from controlplane.ops.simulation.rows import Rollout, SiteModel, Stage
from controlplane.ops.simulation.site_steps import SiteSteps, latest
from controlplane.ops.simulation.versions import Version


class Verbs(SiteSteps):
    """One transaction each."""

    def approve(self, rollout: Rollout, stage: Stage | None) -> None:
        """The plan, or one stage of it."""
        (rollout if stage is None else stage).approved = True

    def take_verdict(self, rollout: Rollout, stage: Stage, result: GateResult) -> None:
        """The last word of a gate."""
        stage.gates[result.gate] = result

    def pause(self, rollout: Rollout, now: float) -> None:
        self._turn(rollout, R.PAUSED)
        rollout.cause, rollout.pause_code = "paused", ""

    def resume(self, rollout: Rollout, now: float, choice: ResumeChoice | None = None) -> None:
        if choice is ResumeChoice.ROLLBACK:
            self.roll_back(rollout, now, "rolled back by a person")
            return
        if choice is ResumeChoice.RETRY:
            self.try_again(rollout, now, stage_index=None, forced=True)
        if choice is ResumeChoice.ACCEPT:
            self._accept(rollout, now)
        self._turn(rollout, R.RUNNING)
        rollout.cause = rollout.pause_code = ""
        for stage in rollout.stages:
            if stage.state is S.SOAKING:
                stage.soak_counted_until, stage.inconclusive_seconds = now, 0.0

    def _accept(self, rollout: Rollout, now: float) -> None:
        for stage in rollout.stages:
            failures = sum(stage.forward[state] for state in STAGE_FAILURES)
            current = stage.state in STARTED_STAGE
            emptied = stage.state is S.PENDING and rollout.pause_code == "canary-empty"
            if failures or current or emptied:
                _, unwell = self.ailing(rollout, stage, now)
                stage.accepted_at, stage.accepted_failures = now, failures + unwell
            if emptied:
                return

    def promote(self, rollout: Rollout, now: float) -> None:
        for stage in rollout.stages:
            if stage.state is S.SOAKING:
                stage.promoted = True

    def retry_failed(self, rollout: Rollout, now: float) -> None:
        self.try_again(rollout, now, stage_index=None, forced=True)

    def abort(self, rollout: Rollout, now: float, superseded_by: int | None = None) -> None:
        queued = rollout.state is R.QUEUED
        self._turn(rollout, R.CANCELLED if queued else R.CANCELLING)
        rollout.pause_code = ""
        rollout.superseded_by = superseded_by
        rollout.cause = "aborted" if superseded_by is None else "superseded"
        self.stop_stages(rollout)
        self.cancel_open(rollout)

    def stop_waiting(self, rollout: Rollout) -> None:
        finishing = [d for d in latest(rollout) if is_open(d)]
        self.call_back(rollout, finishing)
        self.end(finishing, D.CANCELLED)
        self.end([d for d in rollout.rollback if is_open(d)], D.ROLLBACK_FAILED)
        rollout.cause += "; not waited for"

    def stop_stages(self, rollout: Rollout, failed: Sequence[int] = ()) -> None:
        for stage in rollout.stages:
            if stage.index in failed:
                self._set_stage(rollout, stage, S.FAILED)
            elif stage.state in OPEN_STAGE:
                self._set_stage(rollout, stage, S.CANCELLED)

    def roll_back(
        self, rollout: Rollout, now: float, reason: str, failed_stages: Sequence[int] = ()
    ) -> None:
        self._turn(rollout, R.ROLLING_BACK)
        rollout.pause_code = ""
        rollout.cause = reason
        self.stop_stages(rollout, failed_stages)
        removed = [d for d in latest(rollout) if d.state is D.REMOVED]
        self.call_back(rollout, [d for d in removed if d.offered_at is not None or d.attempt > 1])
        self.end([d for d in latest(rollout) if d.state is D.PENDING], D.CANCELLED)
        self.return_sites(rollout, self.reached(rollout), now)

    def return_part(self, rollout: Rollout, sites: Collection[int], now: float) -> bool:
        """Some sites go back, and those that were to get it do not; the rest of the rollout goes on
        without them. Whether there were any."""
        chosen = [d for d in self.reached(rollout) if d.site in sites]
        spared = [d for d in latest(rollout) if d.state is D.PENDING and d.site in sites]
        if not spared and not any(is_open(d) or self.can_return(d) for d in chosen):
            return False
        self.return_sites(rollout, chosen, now)
        self.next_attempt(chosen, D.CANCELLED)
        self.end(spared, D.CANCELLED)
        return bool(chosen or spared)

    def quarantine(self, version: Version, now: float, *, roll_back: bool) -> None:
        self.quarantined.add(version)
        for rollout in self.rollouts:
            if roll_back and rollout.version is version and rollout.state in VERBS["rollback"]:
                self.roll_back(rollout, now, "quarantined")

    def release(self, version: Version) -> None:
        self.quarantined.discard(version)

    def freeze(self, sites: frozenset[int] | None) -> int:
        """All sites if none are named; the number by which it is lifted."""
        number = max(self.freezes, default=0) + 1
        self.freezes[number] = sites
        return number

    def lift(self, number: int) -> None:
        self.freezes.pop(number, None)

    def set_budget(self, percent: int | None) -> None:
        """Of the fleet, within an hour."""
        self.changing_percent = percent

    def pin(self, site: int, model: str) -> bool:
        """Whether there was something to be held."""
        self.pins.add((site, model))
        return True

    def unpin(self, site: int, model: str) -> None:
        self.pins.discard((site, model))

    def pair(self, one: int, other: int) -> None:
        """They stand in for each other."""
        self.groups |= {one: (other,), other: (one,)}

    def set_window(self, site: int, window: Window) -> None:
        """It may activate only then."""
        self.windows[site] = (window,)

    def open_windows(self) -> None:
        """Every site may activate at any time."""
        self.windows.clear()

    def serves_already(self, site: int, version: Version) -> int:
        """It did before the history began; the generation of that wish."""
        generation = self.generations[site] = self.generations[site] + 1
        self.rows[site][version.model] = SiteModel(desired=version, generation=generation)
        return generation

    def retire(self, site: int) -> None:
        """Its agent is sent away with it."""
        self.retired.add(site)

    def join(self, site: int, now: float) -> None:
        self.joined_at[site] = now
