"""Follows a rollout until it is settled or the time is up. Decides what counts as a change and
when to stop; it must not know how a change is shown."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from waypost_cli.api import Api
from waypost_cli.errors import CliError, ExitCode, UnavailableError
from waypost_cli.rollout import Rollout, read_rollout

_LONGEST_WAIT_SECONDS = 25
_SHORTEST_TURN_SECONDS = 1.0
_PAUSE_AFTER_FAILURE_SECONDS = 3.0


class Clock(Protocol):
    """Seconds that only rise, and a way to let some pass."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class WatchObserver(Protocol):
    """Is told each revision with what changed in it, and each failure to ask."""

    def changed(self, rollout: Rollout, lines: list[str], *, elapsed_seconds: float) -> None: ...

    def unavailable(self, error: UnavailableError, *, elapsed_seconds: float) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Where the rollout stood when watching ended."""

    rollout: Rollout
    timed_out: bool

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.TIMED_OUT if self.timed_out else self.rollout.exit_code


def watch(
    api: Api, rollout_id: str, *, timeout_seconds: float, observer: WatchObserver, clock: Clock
) -> Watched:
    """Long-polls. A control plane that is away for a while is waited for; one that was never
    reached, or that refuses, raises."""
    started = clock.monotonic()
    first = api.get_rollout(rollout_id)
    rollout, etag = _read(first.rollout), first.etag
    observer.changed(rollout, list(changes(None, rollout)), elapsed_seconds=0)
    while not rollout.settled:
        turn_started = clock.monotonic()
        left_seconds = timeout_seconds - (turn_started - started)
        if left_seconds <= 0:
            return Watched(rollout=rollout, timed_out=True)
        wait_seconds = max(1, min(_LONGEST_WAIT_SECONDS, int(left_seconds)))
        try:
            seen = api.watch_rollout(rollout_id, etag=etag, wait_seconds=wait_seconds)
        except UnavailableError as error:
            observer.unavailable(error, elapsed_seconds=clock.monotonic() - started)
            pause_seconds = max(_PAUSE_AFTER_FAILURE_SECONDS, error.retry_after_seconds or 0)
            clock.sleep(min(pause_seconds, left_seconds))
            continue
        same = seen.rollout is None or (etag is not None and seen.etag == etag)
        if seen.rollout is not None:
            before, rollout, etag = rollout, read_rollout(seen.rollout), seen.etag
            lines = list(changes(before, rollout))
            observer.changed(rollout, lines, elapsed_seconds=clock.monotonic() - started)
        if same or etag is None:
            # A proxy or server that answers at once must not be asked without end.
            _let_a_turn_pass(clock, turn_started)
    return Watched(rollout=rollout, timed_out=False)


def changes(before: Rollout | None, after: Rollout) -> Iterator[str]:
    """A sentence for each thing that is in another state, or there for another reason.

    Numbers in a reason count as the same reason: a soak that ticks is no news.
    """
    known = dict(_standing(before)) if before else {}
    for subject, sentence in _standing(after):
        if subject not in known or _without_numbers(known[subject]) != _without_numbers(sentence):
            yield f"{subject}: {sentence}"


def _standing(rollout: Rollout) -> Iterator[tuple[str, str]]:
    for stage in rollout.stages:
        for deployment in stage.deployments:
            subject = f"{stage.name} / {deployment.site}"
            if deployment.kind == "rollback":  # the same site may have one of each kind
                subject += " (rollback)"
            state = deployment.state
            if deployment.phase and deployment.phase != state:
                state += f", {deployment.phase}"
            yield subject, _sentence(state, deployment.reason)
        yield f"stage {stage.name}", _sentence(stage.state, stage.reason)
    yield f"rollout {rollout.id}", _sentence(rollout.state, rollout.reason)


def _sentence(state: str, reason: str) -> str:
    return f"{state} - {reason}" if reason else state


def _without_numbers(sentence: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", sentence)


def _let_a_turn_pass(clock: Clock, turn_started: float) -> None:
    left_seconds = _SHORTEST_TURN_SECONDS - (clock.monotonic() - turn_started)
    if left_seconds > 0:
        clock.sleep(left_seconds)


def _read(document: object) -> Rollout:
    if not isinstance(document, dict):
        raise CliError("the control plane's answer is not a rollout")
    return read_rollout(document)
