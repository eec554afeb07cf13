"""What work of this process costs: its own time, that of its database's backends, and how much of
the machine others used meanwhile. Knows nothing of what the work is."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.processes import busy_cpu_seconds, titled_cpu_seconds


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds. `cpu` is this process, `database` the backends whose title holds the database's
    name: 0 for SQLite, which works in this process. `busy` is the whole machine."""

    wall: float = 0.0
    cpu: float = 0.0
    database: float = 0.0
    busy: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            wall=self.wall + other.wall,
            cpu=self.cpu + other.cpu,
            database=self.database + other.database,
            busy=self.busy + other.busy,
        )

    def __sub__(self, other: "Cost") -> "Cost":
        return self + Cost(
            wall=-other.wall, cpu=-other.cpu, database=-other.database, busy=-other.busy
        )

    @property
    def centre(self) -> float:
        """CPU seconds of the centre and its database."""
        return self.cpu + self.database

    @property
    def foreign_share(self) -> float:
        """What others used of the machine."""
        return max(0.0, (self.busy - self.centre) / (self.wall * (os.cpu_count() or 1)))


@dataclass(kw_only=True)
class Meter:
    """Adds up what was spent inside its `running` blocks; `each` is one of them by itself."""

    title: str
    each: list[Cost] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        before = self._read()
        yield
        self.each.append(self._read() - before)

    @property
    def total(self) -> Cost:
        return sum(self.each, Cost())

    def _read(self) -> Cost:
        return Cost(
            wall=time.perf_counter(),
            cpu=time.process_time(),
            database=titled_cpu_seconds(self.title) if self.title else 0.0,
            busy=busy_cpu_seconds(),
        )


def foreign_share(meters: Sequence[Meter]) -> float:
    """Over all that was measured."""
    return sum((meter.total for meter in meters), Cost()).foreign_share
