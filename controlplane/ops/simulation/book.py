"""The centre's book in memory: wishes and their generations, deployments, and what reports change.

Follows `rollouts/wishes.py` and `reports.py` line by line where those change rows; decides nothing.
What it wrote is in `notes` until somebody takes them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.rows import (
    Answer,
    Deployment,
    Report,
    Rollout,
    Said,
    SiteModel,
    Stage,
    Wished,
)
from controlplane.ops.simulation.versions import Version

_FORWARD = {
    "pending": D.OFFERED,
    "downloading": D.STAGING,
    "staged": D.STAGED,
    "proving": D.PROVING,
    "activating": D.ACTIVATING,
    "verifying": D.VERIFYING,
    "succeeded": D.SUCCEEDED,
    "failed": D.FAILED,
}
_ROLLBACK = _FORWARD | {"succeeded": D.ROLLED_BACK, "failed": D.ROLLBACK_FAILED}


class IllegalStep(Exception):
    """A step that the tables of states do not know, or a turn without an end."""


class Book:
    """Rows for `sites` sites, numbered from 0. Times are virtual seconds of the server's clock."""

    def __init__(self, *, sites: int) -> None:
        self.rows: list[dict[str, SiteModel]] = [{} for _ in range(sites)]
        self.generations = [0] * sites
        self.last_seen = [0.0] * sites
        self.heard = [(0, 0)] * sites
        self.rollouts: list[Rollout] = []
        self.active: dict[tuple[int, str], list[Deployment]] = {}
        self.notes: list[n.Note] = []
        self._answers: dict[int, Answer] = {}

    def change_wishes(
        self,
        rollout: Rollout,
        wishes: Sequence[tuple[int, Version | None]],
        *,
        is_offer: bool,
        keep_previous: bool,
    ) -> Mapping[int, tuple[Version | None, int]]:
        """By site, the version wished before and the generation of the new wish."""
        changes: dict[int, tuple[Version | None, int]] = {}
        model = rollout.version.model
        for site, version in wishes:
            row = self.rows[site].setdefault(model, SiteModel())
            before = self.generations[site]
            self.generations[site] = generation = self.next_generation(site, is_offer)
            changes[site] = (row.desired, generation)
            self.notes.append(
                n.WishChanged(rollout, site, row.desired, version, before, generation, is_offer)
            )
            if row.desired is not version:
                row.previous = row.desired if keep_previous else None
            row.desired, row.generation, row.said = version, generation, None
            self._answers.pop(site, None)
        return changes

    def next_generation(self, site: int, is_offer: bool) -> int:
        return self.generations[site] + 1

    def forget_answers(self) -> None:
        """What was told from rows that were never written is told no more."""
        self._answers.clear()

    def seen(self, site: int, now: float) -> None:
        if now > self.last_seen[site]:
            self.last_seen[site] = now

    def answer(self, site: int, held: int) -> Answer | None:
        """The wishes of a site, None when what it holds is the newest."""
        if held == self.generations[site]:
            return None
        known = self._answers.get(site)
        if known is None:
            known = self._answers[site] = Answer(
                generation=self.generations[site],
                wishes=tuple(
                    Wished(
                        model=model,
                        generation=row.generation,
                        version=row.desired,
                        previous=row.previous.number if row.previous else None,
                    )
                    for model, row in self.rows[site].items()
                ),
            )
        return known

    def report(self, report: Report, now: float) -> list[Rollout]:
        """Takes a report in; the rollouts that it moved."""
        if not self.in_order(report):
            return []
        self.heard[report.site] = (report.session, report.seq)
        rows = self.rows[report.site]
        moved: list[Rollout] = []
        for said in report.models:
            row = rows.get(said.model)
            if row is None or not self.is_current(row, said):
                continue
            row.reported_at = self.time_of(report, now)
            if row.said is not said:
                row.said = said
                moved += self._move_deployment(report.site, row, said)
        return moved

    def in_order(self, report: Report) -> bool:
        """Whether it is newer than all before it."""
        return (report.session, report.seq) > self.heard[report.site]

    def is_current(self, row: SiteModel, said: Said) -> bool:
        """Whether it speaks of the present wish. A wish never made is a broken simulation."""
        if said.generation > row.generation:
            raise IllegalStep(f"a report of generation {said.generation}, newest {row.generation}")
        return said.generation == row.generation

    def time_of(self, report: Report, now: float) -> float:
        """When it counts as said."""
        return now

    def _move_deployment(self, site: int, row: SiteModel, said: Said) -> list[Rollout]:
        for deployment in self.active.get((site, said.model), ()):
            if deployment.generation != row.generation:
                continue
            state = self.state_after(deployment, said)
            if state is deployment.state:
                return []
            self._move(deployment, state)
            return [deployment.rollout]
        return []

    def state_after(self, deployment: Deployment, said: Said) -> D:
        """Success is believed only when what serves is what was asked for, and well."""
        target = deployment.to_version.number if deployment.to_version else None
        unproven = said.serving != target or (target is not None and said.healthy is not True)
        if said.phase == "succeeded" and unproven:
            return D.VERIFYING
        return (_ROLLBACK if deployment.is_rollback else _FORWARD)[said.phase]

    def _turn(self, rollout: Rollout, state: R) -> None:
        if state not in ROLLOUT_TRANSITIONS[rollout.state]:
            raise IllegalStep(f"{rollout} cannot go from {rollout.state} to {state}")
        rollout.state = state
        self.notes.append(n.RolloutMoved(rollout, state))

    def _set_stage(self, rollout: Rollout, stage: Stage, state: S) -> None:
        if state not in STAGE_TRANSITIONS[stage.state]:
            raise IllegalStep(f"{rollout}, {stage.name}: cannot go from {stage.state} to {state}")
        stage.state = state
        self.notes.append(n.StageMoved(rollout, stage, state))

    def _open(self, deployment: Deployment) -> None:
        deployment.stage.rollback[D.PENDING] += 1
        self._move(deployment, D.OFFERED)

    def _move(self, deployment: Deployment, state: D) -> None:
        before, deployment.state = deployment.state, state
        stage = deployment.stage
        counts: Counter[D] = stage.rollback if deployment.is_rollback else stage.forward
        counts[before] -= 1
        counts[state] += 1
        key = (deployment.site, deployment.rollout.version.model)
        was, is_active = before in ACTIVE_DEPLOYMENT, state in ACTIVE_DEPLOYMENT
        if is_active and not was:
            active = self.active.setdefault(key, [])
            active.append(deployment)
            self.notes.append(n.Activated(deployment))
        elif was and not is_active:
            self.active[key].remove(deployment)
