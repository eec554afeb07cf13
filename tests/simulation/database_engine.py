"""The engine of a simulated history as it is in earnest: the real tick over the rows of the test
database, doubled, killed and deaf at times."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from controlplane.ops.simulation import rows
from controlplane.ops.simulation.engine import Engine
from controlplane.rollouts import services
from tests.simulation.database import DatabaseCentre


class DatabaseEngine(Engine):
    """The real tick. It may run twice at once, one after the other at the same moment; its worker
    may be killed before a commit or after one; a ring may be lost."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._database: DatabaseCentre = given["centre"]
        self._database.clock = self._clock

    def _mishap(self, share: float, what: str) -> bool:
        if self.calm or self._rng.random() >= share:
            return False
        self._judge.faults[what] += 1
        return True

    def _tick(self) -> None:
        self._clock.after(self._options.tick_seconds, self._tick)
        if self._clock.now < self.idle_until:
            return
        for rollout in self.active():
            if self._mishap(self._options.turn_crash_share, "workers killed"):
                self._die_in(rollout)
                return
        # One after the other first, that what each did is seen by itself; the tick finds them at
        # rest then.
        for rollout in self.active():
            self.turn(rollout)
        times = 2 if self._mishap(0.1, "ticks doubled") else 1
        for _ in range(times):
            services.tick(now=self._database.at)
        self._read_back()

    def _die_in(self, rollout: rows.Rollout) -> None:
        """One decision is committed or two are, and the next is not."""
        at = self._database.at
        for _ in range(self._rng.randrange(3)):
            with transaction.atomic():
                services.take_decision(rollout.id, at, None, True)
            self._read_back()
        with transaction.atomic():
            services.advance_rollout(rollout_id=rollout.id, now=at, wait=True)
            transaction.set_rollback(True)

    def ring(self, rollout: rows.Rollout) -> None:
        if not self._mishap(0.2, "rings lost"):
            super().ring(rollout)

    def turn(self, rollout: rows.Rollout) -> None:
        if self._clock.now < self.idle_until:
            return
        self.turns += 1
        at = self._database.at
        services.advance_rollout(rollout_id=rollout.id, now=at, wait=True)
        self._read_back()

    def _read_back(self) -> None:
        self._database.read_back()
        self.commit()
