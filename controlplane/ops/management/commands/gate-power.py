# ruff: noqa: N999  # the command is named so; Django finds it by its file
"""`manage.py gate-power`: how often gates stop bad versions and good ones, beside two peers, over
simulated hours. Progress goes to stderr, the tables to stdout."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandError

from controlplane.ops.gate_power.study import BENT_FLEETS, FLEETS, METHODS, Cell, bent, study
from controlplane.ops.gate_power.table import comparison, robustness, worse_than_a_peer
from controlplane.ops.gate_power.workload import INTERVAL_SECONDS, Fleet, from_traces, mixture

LEAST_HISTORIES = 20
MOST_PER_INTERVAL = 10_000


class Command(BaseCommand):
    help = (
        "Measure by simulation how often a gate stops a bad version and a good one, looked at "
        "every 15 s for an hour, beside Kayenta's Mann-Whitney judgement and a plain threshold."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--histories", type=int, default=200, help="hours a cell of the table")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument(
            "--traces",
            type=Path,
            action="append",
            default=[],
            metavar="PATH",
            help="an Azure LLM inference trace (CSV) for the shape of latencies, may be repeated; "
            "without one: a lognormal mixture with a heavy tail",
        )
        parser.add_argument(
            "--fleet",
            action="append",
            default=[],
            metavar="SITESxRATE",
            help="only this fleet, such as 3x10: sites x requests a second; may be repeated",
        )

    def handle(self, *_: Any, **given: Any) -> None:
        histories, seed = given["histories"], given["seed"]
        if histories < LEAST_HISTORIES:
            raise CommandError(
                f"--histories is {histories}; it must be at least {LEAST_HISTORIES}, and 1000 or "
                "more to tell 1 % of false alarms from 2 %."
            )
        fleets = [_fleet(text) for text in given["fleet"]]
        paths: list[Path] = given["traces"]
        try:
            shape = from_traces(paths) if paths else mixture(np.random.default_rng(seed))
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from error
        self._began = time.monotonic()
        cells = [
            self._told(cell)
            for cell in study(
                histories=histories, seed=seed, shape_ms=shape, fleets=fleets or FLEETS
            )
        ]
        bends = [
            self._told(cell)
            for cell in bent(
                histories=histories, seed=seed, shape_ms=shape, fleets=fleets or BENT_FLEETS
            )
        ]
        source = ", ".join(path.name for path in paths) or "a lognormal mixture"
        better = [f"- {line}" for line in worse_than_a_peer(cells)]
        self.stdout.write(
            f"{histories} hours a cell, seed {seed}, latencies from {source}; "
            f"methods: {'; '.join(METHODS)}.\n"
        )
        self.stdout.write(comparison(cells))
        self.stdout.write("\n### A version exactly at its limit, where the assumptions bend\n")
        self.stdout.write(robustness(bends))
        self.stdout.write("\n### Where a peer does better than the gate\n")
        self.stdout.write("\n".join(better) or "nowhere")

    def _told(self, cell: Cell) -> Cell:
        fleet = f"{cell.fleet.sites} sites at {cell.fleet.per_second:g}/s"
        seconds = time.monotonic() - self._began
        self.stderr.write(f"[{seconds:.0f} s] {cell.metric}, {fleet}, {cell.effect}")
        return cell


def _fleet(text: str) -> Fleet:
    sites, _, rate = text.partition("x")
    try:
        fleet = Fleet(sites=int(sites), per_second=float(rate))
        per_interval = fleet.per_interval
    except (ValueError, OverflowError) as error:
        raise CommandError(f"--fleet is {text}; it must be such as 3x10.") from error
    if fleet.sites < 1 or not 1 <= per_interval <= MOST_PER_INTERVAL:
        least, most = 1 / INTERVAL_SECONDS, MOST_PER_INTERVAL / INTERVAL_SECONDS
        raise CommandError(
            f"--fleet is {text}; it needs 1 site or more, and {least:.2g} to {most:.0f} requests "
            "a second."
        )
    return fleet
