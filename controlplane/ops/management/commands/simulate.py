"""`manage.py simulate`: a hostile, seeded fleet over virtual time; exit 1 when a promise breaks.

The agent's decisions are part of it, so its package must be installed beside the control plane."""

import argparse
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.rollouts.evidence import PATIENCE

if TYPE_CHECKING:
    from controlplane.ops.simulation.world import Parts

_SHARES = {
    "loss": "share of messages lost",
    "duplication": "share of messages that come twice",
    "lateness": "share of messages that come late, up to ten minutes",
    "agent_crash_rate": "crashes of an agent per hour",
    "triton_crash_rate": "crashes of a Triton per hour",
    "cut_rate": "partitions of a site per hour",
}


class Command(BaseCommand):
    help = (
        "Simulate a fleet with the production decisions of centre and agent under faults. "
        "The same seed gives the same history; a broken promise is shown with its seed."
    )

    parts: "Parts | None" = None  # a test puts spoilt ones here

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sites", type=int, default=100)
        parser.add_argument("--hours", type=float, default=24.0, help="virtual hours per seed")
        parser.add_argument("--seed", type=int, default=1, help="the first seed")
        parser.add_argument("--seeds", type=int, default=1, help="how many")
        parser.add_argument("--jobs", type=int, default=1, help="how many seeds at once")
        for name, meaning in _SHARES.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=meaning)

    def handle(self, *_: Any, **given: Any) -> None:
        try:
            from controlplane.ops.simulation.options import Options
            from controlplane.ops.simulation.summary import summary
            from controlplane.ops.simulation.world import simulate
        except ModuleNotFoundError as error:
            raise CommandError(
                f"{error.name} is not installed here; the simulation needs the agent's package "
                "(pip install -e agents)."
            ) from error
        for name in ("seeds", "jobs"):
            if given[name] < 1:
                raise CommandError(f"--{name} is {given[name]}; it must be at least 1.")
        faults = {name: given[name] for name in _SHARES if given[name] is not None}
        try:
            histories = [
                Options(
                    sites=given["sites"],
                    hours=given["hours"],
                    seed=seed,
                    patience=PATIENCE,
                    **faults,
                )
                for seed in range(given["seed"], given["seed"] + given["seeds"])
            ]
        except ValueError as error:
            raise CommandError(str(error)) from error
        outcomes = []
        with ExitStack() as stack:
            run = map
            if given["jobs"] > 1:
                # Fresh processes: what a forked one would inherit is not its own.
                pool = ProcessPoolExecutor(given["jobs"], mp_context=get_context("spawn"))
                run = stack.enter_context(pool).map  # type: ignore[assignment]
            for outcome in run(partial(simulate, parts=self.parts), histories):
                outcomes.append(outcome)
                self.stderr.write(outcome.progress())
        self.stdout.write(summary(outcomes))
        broken = [outcome for outcome in outcomes if outcome.broken]
        if broken:
            for outcome in broken:
                self.stderr.write(outcome.failure())
            raise CommandError("A promise was broken; the same --seed shows it again.")
