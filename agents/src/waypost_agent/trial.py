"""A version on probation: when its trial began, and how it goes by the server's own counts.

Reads the clock that it is given; decides nothing about what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from waypost_agent.clock import Clock
from waypost_agent.probation import Counts, breach_of, counted
from waypost_agent.situation import Record, Target, Trial, Watch, Wish
from waypost_agent.triton_metrics import ModelCounts, Scrape

# At its end a trial whose requests cannot be counted waits this long for one look at the metrics: a
# server that has none is judged by its golden requests.
GRACE_SECONDS = 30.0

_CANCELED = "CANCELED"  # Triton's word for requests that their caller gave up: not the version's


def trial_of(wish: Wish, record: Record, clock: Clock) -> Trial | None:
    """The trial under way for this wish, None when there is none or the machine was restarted."""
    trial = record.trial
    if trial is None or trial.boot_id != clock.boot_id():
        return None
    same = (trial.epoch, trial.generation, trial.target) == (*wish.pair, wish.target)
    return trial if same else None


def begin_trial(wish: Wish, target: Target, scrape: Scrape | None, clock: Clock) -> Trial:
    """From now on, with what the server had counted before."""
    return Trial(
        epoch=wish.epoch,
        generation=wish.generation,
        target=target,
        boot_id=clock.boot_id(),
        since=clock.boottime(),
        before=_counts(scrape, wish.model, target.version),
    )


def watch(wish: Wish, trial: Trial, scrape: Scrape | None, clock: Clock) -> Watch:
    """How the trial goes now."""
    now = _counts(scrape, wish.model, trial.target.version)
    counts = None if now is None or trial.before is None else _since(trial.before, now)
    seconds = clock.boottime() - trial.since
    rules = wish.probation
    is_judged = counts is not None or not rules.counts
    return Watch(
        sentence=(
            f"version {trial.target.version} serves on probation for {rules.seconds:g} s; "
            f"{counted(counts)}"
        ),
        breach="" if counts is None else breach_of(rules, counts),
        is_over=seconds >= rules.seconds + (0.0 if is_judged else GRACE_SECONDS),
        begins_anew=trial.before is None and now is not None,
    )


class Watcher:
    """Looks at trials. The sentence about one is renewed only every `tell_seconds`, since each new
    sentence is one more report to the centre; a breach is told at once."""

    def __init__(
        self, scrape: Callable[[], Scrape | None], clock: Clock, *, tell_seconds: float
    ) -> None:
        self._scrape = scrape
        self._clock = clock
        self._tell_seconds = tell_seconds
        self._told: dict[str, tuple[float, Trial, str]] = {}

    def look(self, wish: Wish, record: Record) -> Watch | None:
        """How the trial of this wish goes, None when there is none."""
        trial = trial_of(wish, record, self._clock)
        if trial is None:
            self._told.pop(wish.model, None)
            return None
        seen = watch(wish, trial, self._scrape(), self._clock)
        now, told = self._clock.monotonic(), self._told.get(wish.model)
        if told is not None and told[1] == trial and now - told[0] < self._tell_seconds:
            return replace(seen, sentence=told[2])
        self._told[wish.model] = (now, trial, seen.sentence)
        return seen


def _counts(scrape: Scrape | None, model: str, version: str) -> Counts | None:
    if scrape is None:
        return None
    found = scrape.models.get((model, version), ModelCounts())
    return Counts(
        succeeded=found.succeeded,
        failed=sum(count for reason, count in found.failures.items() if reason != _CANCELED),
        request_us=found.request_us,
    )


def _since(before: Counts, now: Counts) -> Counts:
    """A count that is lower than before began anew with the server."""
    failed = now.failed - before.failed if now.failed >= before.failed else now.failed
    if now.succeeded < before.succeeded or now.request_us < before.request_us:
        return Counts(succeeded=now.succeeded, failed=failed, request_us=now.request_us)
    return Counts(
        succeeded=now.succeeded - before.succeeded,
        failed=failed,
        request_us=now.request_us - before.request_us,
    )
