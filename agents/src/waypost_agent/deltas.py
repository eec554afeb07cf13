"""What a Triton did between two looks at its counters.

Pure. Decides what a counter that fell means: its version was loaded anew and counts from 0. A
version that is there for the first time counted from 0 too, as the look before did not show it.
What was served between the last look and an unload was never seen, and is not guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from waypost_agent.protocol import CANDIDATE_SUFFIX
from waypost_agent.triton_metrics import Histogram, ModelCounts, Scrape

_TIMES = ("request_us", "queue_us", "compute_input_us", "compute_infer_us", "compute_output_us")
_COUNTS = ("succeeded", "exec_count", *_TIMES)


def model_deltas(server: str, before: Scrape, after: Scrape) -> list[dict[str, Any]]:
    """An entry of a measurement for each version that was asked something since it was loaded, or
    failed requests. Candidates are asked nothing but golden requests, so they are left out."""
    entries = []
    for (model, version), counts in sorted(after.models.items()):
        if model.endswith(CANDIDATE_SUFFIX) or not version.isdigit():
            continue
        delta = _delta(before.models.get((model, version), ModelCounts()), counts)
        # Its failures outlive a version that was unloaded, and are all that is left of it.
        if counts.succeeded or delta["requests"]:
            entries.append({"server": server, "model": model, "version": version, **delta})
    return entries


def _delta(before: ModelCounts, after: ModelCounts) -> dict[str, Any]:
    if any(getattr(after, name) < getattr(before, name) for name in _COUNTS):
        before = ModelCounts(failures=before.failures)
    failures = _failures(before.failures, after.failures)
    document: dict[str, Any] = {
        "requests": after.succeeded - before.succeeded + sum(failures.values()),
        "failures": failures,
        "batch_executions": after.exec_count - before.exec_count,
        **{name: getattr(after, name) - getattr(before, name) for name in _TIMES},
    }
    latency = _latency(before.latency_ms, after.latency_ms)
    return document if latency is None else {**document, "latency_ms": latency}


def _failures(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Failures outlive a load, so they fall only when the server started anew."""
    since = {
        reason: count - before.get(reason, 0) if count >= before.get(reason, 0) else count
        for reason, count in after.items()
    }
    return {reason: count for reason, count in since.items() if count}


def _latency(before: Histogram | None, after: Histogram | None) -> dict[str, Any] | None:
    if after is None:
        return None
    old = before.counts if before is not None and before.bounds == after.bounds else ()
    if not old or any(new < was for new, was in zip(after.counts, old, strict=True)):
        old = (0,) * len(after.counts)
    counts = [new - was for new, was in zip(after.counts, old, strict=True)]
    return {"bounds": list(after.bounds), "counts": counts}
