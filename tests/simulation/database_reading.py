"""Reads what the services wrote to the test database back into the plain rows of a history.

Every change of a state must be a legal step, or several; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    FINAL_ROLLOUT,
    OUT_OF_STAGE,
    ROLLOUT_TRANSITIONS,
    STAGE_TRANSITIONS,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation import rows
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.clock import seconds_at
from controlplane.ops.simulation.versions import Version
from controlplane.rollouts import (
    models,
)
from tests.fake_agent import FakeAgent

_ENDED = OUT_OF_STAGE | {D.TIMED_OUT}


class ReadsBack(Centre):
    """Knows which row of the database is which of the simulation's."""

    def __init__(self, *, sites: int, **given: Any) -> None:
        super().__init__(sites=sites, **given)
        self._agents: dict[int, FakeAgent] = {}
        self._index: dict[int, int] = {}
        self._versions: dict[int, Version] = {}
        self._stages: dict[int, rows.Stage] = {}
        self._deployments: dict[int, rows.Deployment] = {}

    def read_back(self) -> None:
        """The newest rows, with a note of each change; one that is not legal raises."""
        open_ = {r.id: r for r in self.rollouts if r.state not in FINAL_ROLLOUT}
        found = {row.pk: row for row in models.Rollout.objects.filter(pk__in=open_)}
        for pk, row in found.items():
            rollout = open_[pk]
            rollout.cause, rollout.pause_code = row.cause, row.pause_code
            rollout.superseded_by = row.superseded_by_id
            if R(row.state) not in FINAL_ROLLOUT:
                self._go(rollout.state, R(row.state), ROLLOUT_TRANSITIONS, rollout)
        self._read_deployments(open_)
        self._read_stages(open_)
        self._read_wishes()
        for pk, row in found.items():
            self._go(open_[pk].state, R(row.state), ROLLOUT_TRANSITIONS, open_[pk])

    def _read_site(self, site: int) -> None:
        """What agents say and ask for changes nothing elsewhere."""
        pk = self._agents[site].site.pk
        open_ = {r.id: r for r in self.rollouts if r.state not in FINAL_ROLLOUT}
        self._read_deployments(open_, site=pk)
        self._read_wishes(site=pk)

    def _go(
        self,
        before: StrEnum,
        after: StrEnum,
        table: Mapping[Any, frozenset[Any]],
        rollout: rows.Rollout,
        stage: rows.Stage | None = None,
    ) -> None:
        """By the shortest legal way: one tick may take several steps."""
        for state in path(before, after, table):
            if stage is None:
                self._turn(rollout, R(state))
            else:
                self._set_stage(rollout, stage, S(state))

    def _read_stages(self, open_: Mapping[int, rows.Rollout]) -> None:
        for row in models.Stage.objects.filter(rollout__in=open_).order_by("rollout", "index"):
            stage, rollout = self._stages[row.pk], open_[row.rollout_id]
            stage.promoted = row.promoted_at is not None
            stage.accepted_at = seconds_at(row.accepted_at) if row.accepted_at else None
            stage.accepted_failures = row.accepted_failures
            stage.inconclusive_seconds = row.inconclusive_seconds
            counted = row.soaked_seconds - stage.soaked_seconds
            if counted > 0:
                self.notes.append(n.Soaked(rollout, stage, counted, stage.soak_counted_until))
            stage.soaked_seconds = row.soaked_seconds
            until = row.soak_counted_until
            stage.soak_counted_until = seconds_at(until) if until else None
            self._go(stage.state, S(row.state), STAGE_TRANSITIONS, rollout, stage)

    def _read_deployments(self, open_: Mapping[int, rows.Rollout], **where: int) -> None:
        found = list(models.Deployment.objects.filter(rollout__in=open_, **where).order_by("pk"))
        for row in found:
            known = self._deployments.get(row.pk)
            if known is not None and row.superseded and not known.superseded:
                self._move_to(known, D(row.state))
                self._leave(known)
        for row in found:
            deployment = self._deployments.get(row.pk)
            if deployment is None:
                deployment = self._deployments[row.pk] = rows.Deployment(
                    rollout=open_[row.rollout_id],
                    stage=self._stages[row.stage_id],
                    site=self._index[row.site_id],
                    is_rollback=row.kind == models.DeploymentKind.ROLLBACK,
                    to_version=self._versions[row.to_version_id] if row.to_version_id else None,
                    attempt=row.attempt,
                    failed_before=row.failed_before,
                )
                self._enter(deployment)
            deployment.from_version = (
                self._versions[row.from_version_id] if row.from_version_id else None
            )
            deployment.reason_code, deployment.generation = row.reason_code, row.generation
            deployment.lease = row.lease
            deployment.not_before = seconds_at(row.not_before) if row.not_before else None
            deployment.offered_at = seconds_at(row.offered_at) if row.offered_at else None
            if deployment.holds_lease != row.holds_lease:
                self._hold_slot(deployment, row.holds_lease)
            if not deployment.superseded:
                self._move_to(deployment, D(row.state))

    def _move_to(self, deployment: rows.Deployment, state: D) -> None:
        if state is not deployment.state:
            was_active = deployment.state in ACTIVE_DEPLOYMENT
            self._move(deployment, state)
            if was_active and state in _ENDED:
                self.notes.append(n.Ended(deployment))

    def _read_wishes(self, **where: int) -> None:
        offers = {
            (d.site, d.rollout.version.model, d.generation): d
            for d in self._deployments.values()
            if not d.is_rollback and d.generation is not None
        }
        for row in models.SiteModel.objects.filter(**where).select_related("model"):
            site, model = self._index[row.site_id], row.model.name
            known = self.rows[site].setdefault(model, rows.SiteModel())
            desired = self._versions[row.desired_id] if row.desired_id else None
            if row.generation != known.generation:
                offer = offers.get((site, model, row.generation))
                before, self.generations[site] = (
                    self.generations[site], max(self.generations[site], row.generation),
                )  # fmt: skip
                of_model = [r for r in self.rollouts if r.version.model == model]
                if of_model:
                    rollout = offer.rollout if offer else of_model[-1]
                    self.notes.append(
                        n.WishChanged(
                            rollout, site, known.desired, desired, before, row.generation, offer
                        )
                    )
                known.offer = offer
            known.desired, known.generation = desired, row.generation
            known.previous = self._versions[row.previous_id] if row.previous_id else None
            known.serving, known.healthy = row.reported_serving, row.reported_healthy
            known.reported_at = seconds_at(row.reported_at) if row.reported_at else None
            known.said = (row.reported_phase, row.reported_serving)  # type: ignore[assignment]


def path(before: StrEnum, after: StrEnum, table: Mapping[Any, frozenset[Any]]) -> list[Any]:
    """The states on the shortest way from one to the other, the last included; only that one where
    there is no way, which whoever writes it down refuses."""
    ways: list[list[Any]] = [[before]]
    reached = {before}
    for way in ways:
        if way[-1] == after:
            return way[1:]
        for state in sorted(table[way[-1]] - reached):
            reached.add(state)
            ways.append([*way, state])
    return [after]
