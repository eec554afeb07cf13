"""Measures what users notice of a switch on a real Triton: control over gRPC, as the agent does it,
against control over HTTP, with requests over both protocols meanwhile."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.tables import align

NAME = "switch"
ROOT = Path(__file__).resolve().parent.parent
AGENT_PYTHON = ROOT / ".venv-agent" / "bin" / "python"
LOAD_SECONDS = 1.0  # what the model takes to start
_LIMIT_SECONDS = 600.0
_HEADINGS = (
    "control, requests",
    "failed",
    "gap before ms",
    "gap during ms",
    "p50 before",
    "p50 during",
    "p99 before",
    "p99 during",
)


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The table and the document: `options.switches` switches forward and back by each control."""
    if not AGENT_PYTHON.exists() or not (ROOT / ".triton").exists():
        raise BenchmarkVoid("no agent or no Triton here: run make setup")
    say(f"{options.switches} switches over gRPC, then over HTTP, two connections each")
    arguments = [str(options.switches), str(LOAD_SECONDS), str(options.seconds * 2)]
    try:
        done = subprocess.run(
            [str(AGENT_PYTHON), "-m", "benchmarks.switch_load", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkVoid(f"the switches took more than {_LIMIT_SECONDS:g} s") from error
    if done.returncode:
        raise BenchmarkVoid(f"the switches ended with {done.returncode}: {done.stderr[-1000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return _table(rows), {"load_seconds": LOAD_SECONDS, "rows": rows}


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    title = f"switch under requests: {rows[0]['switches']} switches, {LOAD_SECONDS:g} s to load"
    return "\n".join([title, *align(cells)])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    before, during = row["before"], row["during"]
    return (
        f"{row['control']}, {row['users']}",
        str(row["failures"]),
        *(
            f"{each[key]:.1f}"
            for key in ("longest_gap_ms", "p50_ms", "p99_ms")
            for each in (before, during)
        ),
    )
