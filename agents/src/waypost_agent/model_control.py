"""Loads, waits and asks, each to its end: what a model server leaves to its caller.

Decides when a load has failed, when it takes too long, and what a golden request proves. Knows
nothing of what a version is for, nor of disk and journal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from waypost_agent import errors as e
from waypost_agent.clock import Clock
from waypost_agent.config import Timeouts
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.golden import GoldenRequest, compare, require_speed
from waypost_agent.ports import (
    Config,
    InferenceRefused,
    LoadRefused,
    LoadTimedOut,
    ModelServer,
    VersionState,
)
from waypost_agent.situation import LOADING, READY, UNLOADING

_log = logging.getLogger(__name__)

_BUSY = (LOADING, UNLOADING)
# A load whose call timed out may stand in the server's queue before the index shows it.
_QUEUE_GRACE_SECONDS = 5.0
# The first answers of a version may be slow: libraries are loaded, kernels compiled.
_SPEED_TRIES = 3


class ModelControl:
    """One server, watched until each thing asked of it is done."""

    def __init__(
        self,
        triton: ModelServer,
        *,
        clock: Clock,
        timeouts: Timeouts,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._triton = triton
        self._clock = clock
        self._timeouts = timeouts
        self._is_stopping = is_stopping

    def load(self, name: str, version: str, config: Config) -> None:
        """Load once and wait for the outcome. Raises `Permanent` when there is a bad one."""
        timeout_seconds = self._timeouts.load_timeout_seconds
        deadline = self._clock.monotonic() + self._timeouts.load_deadline_seconds
        try:
            self._triton.load(name, config, timeout_seconds=timeout_seconds)
        except LoadTimedOut:
            # Triton goes on loading: to ask again would only queue a second load behind it.
            _log.info("%s version %s is still loading; watching the index", name, version)
        except LoadRefused as error:
            raise Permanent(e.LOAD_FAILED, f"version {version} does not load: {error}") from error
        self._await_loaded(name, version, deadline)

    def _await_loaded(self, name: str, version: str, deadline: float) -> None:
        started = self._clock.monotonic()
        seen_loading = False
        while True:
            entry = self._state(name, version)
            now = self._clock.monotonic()
            seen_loading = seen_loading or entry.state == LOADING
            if entry.state == READY:
                return
            judged = seen_loading or now - started > _QUEUE_GRACE_SECONDS
            if entry.state not in _BUSY and judged:
                said = " ".join(entry.reason.split())[:300]
                raise Permanent(e.LOAD_FAILED, f"version {version} does not load: {said}")
            if now > deadline:
                seconds = self._timeouts.load_deadline_seconds
                raise Permanent(
                    e.LOAD_TIMEOUT, f"version {version} did not load within {seconds:g} seconds"
                )
            self._pause_briefly()

    def await_gone(self, name: str) -> None:
        """Return once nothing of the model is loaded. Raises `Retryable` at the deadline."""
        deadline = self._clock.monotonic() + self._timeouts.unload_deadline_seconds
        while True:
            states = {entry.state for entry in self._triton.index().get(name, {}).values()}
            if not states & {READY, *_BUSY}:
                return
            if self._clock.monotonic() > deadline:
                raise Retryable(e.UNLOAD_TIMEOUT, f"Triton has not let go of {name} yet")
            self._pause_briefly()

    def _state(self, name: str, version: str) -> VersionState:
        return self._triton.index().get(name, {}).get(version, VersionState(state=""))

    def _pause_briefly(self) -> None:
        if self._is_stopping():
            raise Retryable(e.STOPPING, "the agent was asked to stop")
        self._clock.sleep(self._timeouts.busy_poll_seconds)

    def replay(
        self,
        request: GoldenRequest,
        name: str,
        version: str | None,
        code: str,
        expected: str | None = None,
    ) -> None:
        """Send one golden request, one with a bound on its time as often as it may take for the
        server to get warm. Raises `Permanent` (`code`, `golden-mismatch`) when the answer is wrong
        or each time late, `Retryable` when another version than `expected` gave it."""
        fastest = math.inf
        tries = 1 if request.max_latency_ms is None else _SPEED_TRIES
        for _ in range(tries):
            began = self._clock.monotonic()
            measured = self._ask(request, name, version, code, expected)
            took = self._clock.monotonic() - began if measured is None else measured
            fastest = min(fastest, took)
            if request.max_latency_ms is None or fastest * 1000 <= request.max_latency_ms:
                return
        require_speed(request, fastest, tries)

    def _ask(
        self,
        request: GoldenRequest,
        name: str,
        version: str | None,
        code: str,
        expected: str | None,
    ) -> float | None:
        """In how many seconds it answered well, where the client measured that."""
        outputs = [output.tensor.name for output in request.outputs]
        try:
            answer = self._triton.infer(name, version, request.inputs, outputs)
        except InferenceRefused as error:
            raise Permanent(
                code, f"golden request {request.name!r} was answered with an error: {error}"
            ) from error
        if expected is not None and answer.version != expected:
            raise Retryable(
                e.WORKING, f"version {answer.version} answered where {expected} is ready"
            )
        compare(request, answer.outputs)
        return answer.seconds
