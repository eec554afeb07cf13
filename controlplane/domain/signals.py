"""The four signals of a site's health: process, versions, golden answers, freshness; each its own.

Decides when a signal is good, bad, stale or unknown; stale is what was true when the site was last
heard, and never the same as bad. It must not know how reports travel or where they are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class SignalName(StrEnum):
    PROCESS = "process"
    VERSIONS = "versions"
    GOLDEN = "golden"
    FRESHNESS = "freshness"


class SignalState(StrEnum):
    GOOD = "good"
    BAD = "bad"
    STALE = "stale"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One word and the sentence that says why."""

    name: SignalName
    state: SignalState
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """One model as wished and as last reported. `serving` is the version that is READY; `settled`:
    no switch is under way; `healthy`: what serves passed its last golden requests."""

    model: str
    wished: int | None
    reported: bool
    serving: int | None
    healthy: bool | None
    settled: bool


def site_signals(
    *,
    last_seen_at: datetime | None,
    triton_live: bool | None,
    models: Sequence[ModelState],
    now: datetime,
    fresh_within: timedelta,
) -> tuple[Signal, ...]:
    """In the order of `SignalName`."""
    freshness = _freshness(last_seen_at, now, fresh_within)
    # Sentences of the past would be taken for the present: what is stale says since when.
    told = [_process(triton_live), _versions(models), _golden(models)]
    if freshness.state is SignalState.STALE:
        told = [_aged(signal) for signal in told]
    return (*told, freshness)


def _aged(signal: Signal) -> Signal:
    if signal.state is SignalState.UNKNOWN:
        return signal
    return Signal(
        name=signal.name,
        state=SignalState.STALE,
        reason=f"when last heard: {signal.reason}",
    )


def _freshness(last_seen_at: datetime | None, now: datetime, fresh_within: timedelta) -> Signal:
    limit = f"{fresh_within.total_seconds():.0f} s"
    if last_seen_at is None:
        state, reason = SignalState.UNKNOWN, "it has never reported"
    elif now - last_seen_at > fresh_within:
        silent = (now - last_seen_at).total_seconds()
        state, reason = SignalState.STALE, f"silent for {silent:.0f} s (limit {limit})"
    else:
        state, reason = SignalState.GOOD, f"heard within the last {limit}"
    return Signal(name=SignalName.FRESHNESS, state=state, reason=reason)


def _process(live: bool | None) -> Signal:
    state, reason = {
        None: (SignalState.UNKNOWN, "not reported"),
        True: (SignalState.GOOD, "Triton answers"),
        False: (SignalState.BAD, "Triton does not answer"),
    }[live]
    return Signal(name=SignalName.PROCESS, state=state, reason=reason)


def _versions(models: Sequence[ModelState]) -> Signal:
    wished = [model for model in models if model.wished is not None]
    wrong = [_not_ready(m) for m in wished if m.reported and not _ready(m)]
    untold = [m.model for m in wished if not m.reported]
    return _verdict(
        SignalName.VERSIONS,
        wrong=wrong,
        untold=untold,
        well=f"{_counted(len(wished))} ready" if wished else "nothing is wished here",
    )


def _ready(model: ModelState) -> bool:
    """While a switch is under way, the version before may be what is ready."""
    return model.serving == model.wished or (model.serving is not None and not model.settled)


def _not_ready(model: ModelState) -> str:
    seen = "nothing" if model.serving is None else f"version {model.serving}"
    return f"{model.model}: version {model.wished} is wished, {seen} is ready"


def _golden(models: Sequence[ModelState]) -> Signal:
    serving = [model for model in models if model.reported and model.serving is not None]
    return _verdict(
        SignalName.GOLDEN,
        wrong=[
            f"{m.model}: version {m.serving} did not answer its golden requests"
            for m in serving
            if m.healthy is False
        ],
        untold=[m.model for m in serving if m.healthy is None],
        well=f"{_counted(len(serving))} answering as recorded" if serving else "nothing serves",
    )


def _verdict(name: SignalName, *, wrong: Sequence[str], untold: Sequence[str], well: str) -> Signal:
    if wrong:
        return Signal(name=name, state=SignalState.BAD, reason="; ".join(wrong))
    if untold:
        reason = f"not reported: {', '.join(untold)}"
        return Signal(name=name, state=SignalState.UNKNOWN, reason=reason)
    return Signal(name=name, state=SignalState.GOOD, reason=well)


def _counted(count: int) -> str:
    return "1 version" if count == 1 else f"{count} versions"
