"""Runs the benchmarks by name: tables to stdout, progress to stderr, figures to a JSON file each.

python -m benchmarks [--only NAME] [--rounds N] [--seconds S] [--database NAME] [--full]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    agent_protocol,
    catalogue,
    delta,
    download,
    fit,
    footprint,
    herd,
    ingest,
    plan,
    push,
    rollout_time,
    switch,
    tick,
)
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import DATABASES, FULL_SIZE, Options

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = {
    each.NAME: each.run
    for each in (
        agent_protocol,
        plan,
        fit,
        catalogue,
        tick,
        rollout_time,
        delta,
        download,
        push,
        footprint,
        switch,
        herd,
        ingest,
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    options = Options(
        rounds=given.rounds,
        seconds=given.seconds,
        warm_up_seconds=min(Options.warm_up_seconds, given.seconds),
        agents=given.agents,
        footprint_seconds=given.footprint_seconds,
        switches=given.switches,
        databases=tuple(given.database or DATABASES),
        tick_sites=given.tick_sites,
        tick_rollouts=given.tick_rollouts,
        delta_megabytes=given.delta_megabytes,
        download_mib=tuple(given.download_mib or Options.download_mib),
        push_mib=given.push_mib,
        sizes=(*(given.size or Options.sizes), *((FULL_SIZE,) if given.full else ())),
        results=given.results.absolute(),
    )
    os.chdir(ROOT)
    # As on Ctrl-C: servers are ended and the database is dropped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    for name in given.only or BENCHMARKS:
        try:
            text, document = BENCHMARKS[name](options, lambda line: _say(started, line))
        except BenchmarkVoid as error:
            print(f"error: {name} is void: {error}", file=sys.stderr)
            return 1
        path = _write(options, {"benchmark": name, **_circumstances(options), **document})
        print(f"{text}\n\nwritten to {path}", flush=True)
    return 0


def _say(started: float, line: str) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", action="append", choices=sorted(BENCHMARKS))
    parser.add_argument("--database", action="append", choices=DATABASES)
    parser.add_argument("--rounds", type=_at_least_one, default=Options.rounds)
    parser.add_argument("--agents", type=_agents, default=Options.agents)
    parser.add_argument("--seconds", type=_positive, default=Options.seconds)
    parser.add_argument("--tick-sites", type=_at_least_hundred, default=Options.tick_sites)
    parser.add_argument("--tick-rollouts", type=_at_least_one, default=Options.tick_rollouts)
    parser.add_argument("--switches", type=_at_least_one, default=Options.switches)
    parser.add_argument("--size", action="append", type=_at_least_one, help="of a rollout_time")
    parser.add_argument(
        "--delta-megabytes", type=_at_least_one, default=Options.delta_megabytes, metavar="MB"
    )
    parser.add_argument(
        "--download-mib", action="append", type=_at_least_one, metavar="MIB", help="of a download"
    )
    parser.add_argument(
        "--push-mib", type=_at_least_one, default=Options.push_mib, metavar="MIB", help="of a push"
    )
    parser.add_argument(
        "--full", action="store_true", help=f"rollout_time of {FULL_SIZE} too, ingest of 30 days"
    )
    parser.add_argument(
        "--footprint-seconds", type=_positive, default=Options.footprint_seconds, metavar="S"
    )
    parser.add_argument("--results", type=Path, default=ROOT / Options.results, metavar="FOLDER")
    return parser


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("there must be one or more")
    return number


def _at_least_hundred(text: str) -> int:
    if (number := int(text)) < 100:
        raise argparse.ArgumentTypeError("there must be 100 sites or more")
    return number


def _agents(text: str) -> int:
    if (number := int(text)) < Options.connections:
        raise argparse.ArgumentTypeError(f"there must be {Options.connections} agents or more")
    return number


def _positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError("a round must last longer than 0 s")
    return number


def _circumstances(options: Options) -> dict[str, Any]:
    packages = ("django", "uvicorn", "uvloop", "httptools", "psycopg")
    return {
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "rounds": options.rounds,
        "seconds": options.seconds,
        "agents": options.agents,
        "connections": options.connections,
    }


def _write(options: Options, document: dict[str, Any]) -> Path:
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{document['benchmark']}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
