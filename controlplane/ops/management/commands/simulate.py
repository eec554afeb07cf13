"""`manage.py simulate`: a hostile, seeded fleet over virtual time; exit 1 when a promise breaks.

The agent's decisions are part of it, so its package must be installed beside the control plane.
Ctrl-C ends it with the summary of what is done, and exit 130."""

import argparse
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import active_children, get_context
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.rollouts.evidence import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.ops.simulation.options import Options
    from controlplane.ops.simulation.summary import Outcome
    from controlplane.ops.simulation.world import Parts

    Play = Callable[[Options], Outcome]

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
        play, jobs = partial(simulate, parts=self.parts), given["jobs"]
        outcomes: list[Outcome] = []
        began, is_cut_short = time.monotonic(), False
        # A shell's background job begins with SIGINT ignored; who sends it all the same means it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            for outcome in (
                one_by_one(play, histories) if jobs == 1 else at_once(play, histories, jobs)
            ):
                outcomes.append(outcome)
                place = _place(len(outcomes), len(histories), time.monotonic() - began)
                self.stderr.write(f"{place} {outcome.progress()}")
                if outcome.broken:
                    self.stderr.write(outcome.failure())
                    self.stderr.write(f"replay it: {_replay(outcome.options.seed, given)}")
        except KeyboardInterrupt:
            is_cut_short = True
        finally:
            signal.signal(signal.SIGINT, before)
        outcomes.sort(key=lambda outcome: outcome.options.seed)
        if outcomes:
            self.stdout.write(summary(outcomes))
        broken = [str(outcome.options.seed) for outcome in outcomes if outcome.broken]
        if broken:
            raise CommandError(
                f"A promise was broken by seed {', '.join(broken)}; the same --seed shows it again."
            )
        if is_cut_short:
            raise CommandError(
                f"Interrupted after {len(outcomes)} of {len(histories)} seeds.", returncode=130
            )


def one_by_one(play: "Play", histories: "Sequence[Options]") -> "Iterator[Outcome]":
    yield from map(play, histories)


def at_once(play: "Play", histories: "Sequence[Options]", jobs: int) -> "Iterator[Outcome]":
    """As they end. Fresh processes: what a forked one would inherit is not its own. Interrupted, it
    waits for none of them."""
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    try:
        for done in as_completed([pool.submit(play, history) for history in histories]):
            yield done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():
            child.terminate()
        raise
    pool.shutdown()


def _place(done: int, planned: int, seconds: float) -> str:
    """How far it is, and when it ends if the rest takes as long."""
    left = seconds / done * (planned - done)
    return f"[{done}/{planned}, {seconds / done:.1f} s a seed, {left / 60:.0f} min left]"


def _replay(seed: int, given: dict[str, Any]) -> str:
    """The command that plays one history of these again."""
    words = ["manage.py", "simulate", "--sites", given["sites"], "--hours", f"{given['hours']:g}"]
    words += ["--seed", seed]
    for name in _SHARES:
        if given[name] is not None:
            words += [f"--{name.replace('_', '-')}", given[name]]
    return shlex.join(map(str, words))
