"""One round: a load against a server for a time, and what that cost whom. Knows no protocol."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.errors import BenchmarkVoid
from benchmarks.processes import busy_cpu_seconds, titled_cpu_seconds, tree_cpu_seconds

# Above this share of the machine, others' work is part of what was measured.
NOISY_SHARE = 0.10


@dataclass(frozen=True, kw_only=True)
class Round:
    """Figures of one round; CPU figures are microseconds per answered request."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    database_cpu_us: float
    load_cpu_us: float
    foreign_share: float


def play(
    plan: Mapping[str, Any], *, server_pid: int, database_title: str | None
) -> tuple[Round, list[int]]:
    """Runs the load generator once; the figures and the agents' last sequences.

    Raises `BenchmarkVoid` when any answer was not the expected one.
    """
    before = _Meter.read(server_pid, database_title)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
    )
    spent = _Meter.read(server_pid, database_title).since(before)
    if done.returncode:
        raise BenchmarkVoid(f"{plan['kind']}: {done.stderr.strip()[-1000:]}")
    seen = json.loads(done.stdout)
    count = seen["requests"]
    foreign = spent.busy - spent.server - spent.database - spent.ours
    figures = Round(
        requests=count,
        requests_per_second=count / seen["wall_seconds"],
        p50_ms=seen["p50_ms"],
        p99_ms=seen["p99_ms"],
        server_cpu_us=spent.server / count * 1e6,
        database_cpu_us=spent.database / count * 1e6,
        load_cpu_us=seen["cpu_seconds"] / count * 1e6,
        foreign_share=max(0.0, foreign / (spent.at * (os.cpu_count() or 1))),
    )
    return figures, list(seen["seqs"])


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Median, least and most of every figure over the rounds."""
    result = {}
    for name in Round.__dataclass_fields__:
        values = [float(getattr(one, name)) for one in rounds]
        result[name] = {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
    return result


@dataclass(frozen=True, kw_only=True)
class _Meter:
    """CPU seconds so far, and the time they were read at."""

    at: float
    server: float
    database: float
    ours: float
    busy: float

    @classmethod
    def read(cls, server_pid: int, database_title: str | None) -> "_Meter":
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(
            at=time.perf_counter(),
            server=tree_cpu_seconds(server_pid),
            database=titled_cpu_seconds(database_title) if database_title else 0.0,
            ours=time.process_time() + children.ru_utime + children.ru_stime,
            busy=busy_cpu_seconds(),
        )

    def since(self, before: "_Meter") -> "_Meter":
        return _Meter(
            at=self.at - before.at,
            server=self.server - before.server,
            database=self.database - before.database,
            ours=self.ours - before.ours,
            busy=self.busy - before.busy,
        )
