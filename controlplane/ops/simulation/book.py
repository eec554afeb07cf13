"""The centre's book in memory: wishes and their generations, deployments, and what reports change.

Follows `rollouts/wishes.py` and `reports.py` line by line where those change rows; decides nothing.
What it wrote is in `notes` until somebody takes them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from controlplane.domain.admission import Instant, slot_is_free
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    BEGUN,
    FINAL_DEPLOYMENT,
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
_NOT_OVER = ACTIVE_DEPLOYMENT | {D.PENDING}
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
        self.sessions = [0] * sites
        self.rollouts: list[Rollout] = []
        self.active: dict[tuple[int, str], list[Deployment]] = {}
        self.notes: list[n.Note] = []
        # (site, model) to the generation of a deployment that was ended, under which the agent may
        # still switch.
        self.at_large: dict[tuple[int, str], int] = {}
        # By model, rises whenever a site may have come to be unavailable, but for silence.
        self.worse: Counter[str] = Counter()
        self._answers: dict[int, Answer] = {}

    def change_wishes(
        self,
        rollout: Rollout,
        wishes: Sequence[tuple[int, Version | None]],
        *,
        keep_previous: bool,
        offers: Mapping[int, Deployment] | None = None,
    ) -> Mapping[int, tuple[Version | None, int]]:
        """By site, the version it had before and the generation of the new wish."""
        changes: dict[int, tuple[Version | None, int]] = {}
        model = rollout.version.model
        self.worse[model] += 1
        for site, version in wishes:
            row = self.rows[site].setdefault(model, SiteModel())
            offer = None if offers is None else offers[site]
            before = self.generations[site]
            self.generations[site] = generation = self.next_generation(site, offer is not None)
            had = row.previous if keep_previous and left_standing(row) else row.desired
            changes[site] = (had, generation)
            self.notes.append(n.WishChanged(rollout, site, had, version, before, generation, offer))
            if row.desired is not version:
                row.previous = had if keep_previous else None
            row.desired, row.generation, row.offer, row.said = version, generation, offer, None
            self._answers.pop(site, None)
        return changes

    def next_generation(self, site: int, is_offer: bool) -> int:
        return self.generations[site] + 1

    def forget_answers(self) -> None:
        """What was told from rows that were never written is told no more."""
        self._answers.clear()

    def seen(self, site: int, session: int, now: float) -> bool:
        """Whether the session is open: each life of an agent opens a new one, which ends those
        before it."""
        if session < self.sessions[site]:
            return False
        self.sessions[site] = session
        if now > self.last_seen[site]:
            self.last_seen[site] = now
        return True

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
                        lease_required=row.offer is not None,
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
        rows, at = self.rows[report.site], self.time_of(report, now)
        moved: list[Rollout] = []
        for said in report.models:
            row = rows.get(said.model)
            if row is None or not self.is_current(row, said):
                continue
            if self.at_large:
                settled = said.phase in ("succeeded", "failed") and said.lease is None
                self.settle((report.site, said.model), said.generation + settled)
            row.reported_at = at
            is_news = row.said is not said
            if is_news:
                row.said, row.serving, row.healthy = said, said.serving, said.healthy
                self.worse[said.model] += said.healthy is not True
            if is_news or (row.offer is not None and row.offer.holds_lease):
                moved += self._move_deployment(report, row, said)
        return moved

    def settle(self, key: tuple[int, str], generation: int) -> None:
        """The site will not switch any more for a wish before this one."""
        if self.at_large.get(key, generation) < generation:
            del self.at_large[key]

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

    def _move_deployment(self, report: Report, row: SiteModel, said: Said) -> list[Rollout]:
        for deployment in self.active.get((report.site, said.model), ()):
            if deployment.generation != row.generation:
                continue
            state, code = self.state_after(deployment, said)
            freed = deployment.holds_lease and self.frees_slot(deployment, state, said, report)
            deployment.reason_code = code
            if freed:
                self._hold_slot(deployment, False)
            if state is not deployment.state:
                self._move(deployment, state)
            elif not freed:
                return []
            return [deployment.rollout]
        return []

    def frees_slot(self, deployment: Deployment, state: D, said: Said, report: Report) -> bool:
        """Whether the slot can be given to another site."""
        if state in FINAL_DEPLOYMENT:
            return True
        assert deployment.asked is not None  # it holds a lease
        if not report.live:
            return False
        target = deployment.to_version.number if deployment.to_version else None
        return slot_is_free(
            asked=deployment.asked,
            said=Instant(boot=report.boot, uptime=report.uptime),
            begun=state in BEGUN or said.serving == target,
            holds=said.lease == deployment.lease,
        )

    def state_after(self, deployment: Deployment, said: Said) -> tuple[D, str]:
        """Success is believed only when what serves is what was asked for, and well."""
        target = deployment.to_version.number if deployment.to_version else None
        unproven = said.serving != target or (target is not None and said.healthy is not True)
        if said.phase == "succeeded" and unproven:
            return D.VERIFYING, "success-unproven"
        states = _ROLLBACK if deployment.is_rollback else _FORWARD
        return states[said.phase], said.reason_code

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

    def _enter(self, deployment: Deployment) -> None:
        """A new attempt, which counts from now on; its state is the one it begins in."""
        rollout, stage = deployment.rollout, deployment.stage
        deployment.number = len(rollout.forward) + len(rollout.rollback)
        stage.changes += 1
        if deployment.is_rollback:
            rollout.rollback.append(deployment)
            stage.rollback[deployment.state] += 1
        else:
            rollout.forward.append(deployment)
            stage.forward[deployment.state] += 1
            stage.deployments.append(deployment)
            stage.retrying += deployment.failed_before and deployment.state in _NOT_OVER

    def _leave(self, deployment: Deployment) -> None:
        """Another attempt follows it."""
        deployment.superseded = True
        stage = deployment.stage
        stage.changes += 1
        stage.forward[deployment.state] -= 1
        stage.deployments.remove(deployment)

    def _hold_slot(self, deployment: Deployment, holds: bool) -> None:
        was = in_transition(deployment)
        deployment.holds_lease = holds
        self.worse[deployment.rollout.version.model] += not holds
        self._count_moving(deployment, was)

    def _move(self, deployment: Deployment, state: D) -> None:
        was_moving = in_transition(deployment)
        before, deployment.state = deployment.state, state
        stage = deployment.stage
        counts: Counter[D] = stage.rollback if deployment.is_rollback else stage.forward
        counts[before] -= 1
        counts[state] += 1
        stage.changes += 1
        if deployment.failed_before:
            stage.retrying += (state in _NOT_OVER) - (before in _NOT_OVER)
        self._count_moving(deployment, was_moving)
        key = (deployment.site, deployment.rollout.version.model)
        was, is_active = before in ACTIVE_DEPLOYMENT, state in ACTIVE_DEPLOYMENT
        if is_active and not was:
            active = self.active.setdefault(key, [])
            active.append(deployment)
            self.notes.append(n.Activated(deployment))
        elif was and not is_active:
            self.active[key].remove(deployment)

    def _count_moving(self, deployment: Deployment, was: bool) -> None:
        if not deployment.is_rollback:
            deployment.stage.moving += in_transition(deployment) - was


def left_standing(row: SiteModel) -> bool:
    """The wish of a part that did not succeed, where nothing sound was left to call the site back
    to, and which it has not come to serve since."""
    if row.offer is None or row.offer.state is D.SUCCEEDED:
        return False
    said, wished = row.said, row.desired and row.desired.number
    return said is None or said.phase != "succeeded" or said.serving != wished


def in_transition(deployment: Deployment) -> bool:
    """Holds a slot, has begun without one being known here, or may: the way back asks nobody."""
    if deployment.state not in ACTIVE_DEPLOYMENT:
        return False
    return deployment.holds_lease or deployment.is_rollback or deployment.state in BEGUN


def has_begun(deployment: Deployment) -> bool:
    if deployment.holds_lease or deployment.state is D.PROVING:
        return True
    return deployment.state not in BEFORE_SWITCH
