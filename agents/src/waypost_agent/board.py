"""What the two threads tell each other, behind one lock: wishes one way, states the other.

Decides nothing. The main thread writes statuses, the link thread writes wishes and the session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from waypost_agent.protocol import Desired, ModelReport, Pair


@dataclass(frozen=True, kw_only=True)
class TritonStatus:
    live: bool
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer of the centre that was refused; `report` says so where a model is to blame."""

    code: str
    reason: str
    report: ModelReport | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a report is made of. `changes` counts up with each change worth a report."""

    changes: int
    observed: Pair | None
    triton: TritonStatus
    models: tuple[ModelReport, ...]
    refusal: Refusal | None


class Board:
    """Shared by the main thread and the link thread; each method takes the lock once."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # its lock may be taken again by its holder
        self._changes = 0
        self._held: Desired | None = None
        self._observed: Pair | None = None
        self._triton = TritonStatus(live=False)
        self._models: tuple[ModelReport, ...] = ()
        self._refusal: Refusal | None = None
        self._token: str | None = None
        self._token_rejected: str | None = None
        self._poll_called = False

    # What the main thread says and asks

    def show(
        self, *, observed: Pair | None, triton: TritonStatus, models: tuple[ModelReport, ...]
    ) -> None:
        """Put up the newest states; wakes the link thread only when they differ."""
        with self._condition:
            if (observed, triton, models) == (self._observed, self._triton, self._models):
                return
            self._observed, self._triton, self._models = observed, triton, models
            self._changes += 1
            self._condition.notify_all()

    def desired(self) -> Desired | None:
        """The newest accepted answer of the centre since this process started, or the kept one."""
        with self._condition:
            return self._held

    def token(self) -> str | None:
        with self._condition:
            return self._token

    def reject_token(self, token: str) -> None:
        """Say that the centre no longer takes `token`; the link thread makes a new session."""
        with self._condition:
            self._token_rejected = token
            self._condition.notify_all()

    def call_for_poll(self) -> None:
        """Say that the centre has a newer wish; the link thread asks for it at once."""
        with self._condition:
            self._poll_called = True
            self._condition.notify_all()

    # What the link thread says and asks

    def offer(self, desired: Desired) -> None:
        """Hand a checked answer to the main thread. Clears a refusal."""
        with self._condition:
            self._held = desired
            if self._refusal is not None:
                self._refusal = None
                self._changes += 1
            self._condition.notify_all()

    def refuse(self, refusal: Refusal | None) -> None:
        """Remember that the newest answer was refused, or (None) that it no longer is."""
        with self._condition:
            if refusal != self._refusal:
                self._refusal = refusal
                self._changes += 1

    def set_token(self, token: str | None) -> None:
        with self._condition:
            self._token = token
            self._condition.notify_all()

    def is_rejected(self, token: str) -> bool:
        with self._condition:
            return self._token_rejected == token

    def is_poll_called(self) -> bool:
        with self._condition:
            return self._poll_called

    def take_poll_call(self) -> bool:
        """Whether a poll was called for; the call counts once."""
        with self._condition:
            called, self._poll_called = self._poll_called, False
            return called

    def snapshot(self) -> Snapshot:
        with self._condition:
            return Snapshot(
                changes=self._changes,
                observed=self._observed,
                triton=self._triton,
                models=self._models,
                refusal=self._refusal,
            )

    # Waiting

    def wait_until(self, happened: Callable[[], bool], seconds: float) -> None:
        """Return when `happened()`, asked under the lock at each change, or after `seconds`."""
        with self._condition:
            self._condition.wait_for(happened, seconds)
