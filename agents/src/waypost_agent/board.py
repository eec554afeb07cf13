"""What the threads tell each other, behind one lock: wishes one way, states the other.

Decides how the states of several servers make one report, and what is said of a model that no
server takes. Each server's thread writes its states, the link thread the wishes and the session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from waypost_agent.errors import NO_SERVER, OK
from waypost_agent.protocol import (
    FAILED,
    MAX_REASON,
    SUCCEEDED,
    Desired,
    ModelReport,
    ModelWish,
    Pair,
)
from waypost_agent.servers import ALONE, Shares, owner, unclaimed


@dataclass(frozen=True, kw_only=True)
class TritonStatus:
    live: bool
    version: str | None = None
    http_url: str | None = None
    extensions: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer of the centre that was refused; `report` says so where a model is to blame."""

    code: str
    reason: str
    report: ModelReport | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a report is made of. `changes` counts up with each change worth a report;
    `observed` is what every server follows, `triton` the first that does not live, else the
    first, `servers` all of them by their names."""

    changes: int
    observed: Pair | None
    triton: TritonStatus
    models: tuple[ModelReport, ...]
    refusal: Refusal | None
    servers: tuple[tuple[str, TritonStatus], ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What one server's thread put up last."""

    observed: Pair | None = None
    triton: TritonStatus
    models: tuple[ModelReport, ...] = ()


class Board:
    """Shared by the threads of the servers and the link thread; each method takes the lock once.

    `shares` says which models each server takes, `http_urls` where it answers users."""

    def __init__(self, shares: Shares = ALONE, http_urls: Mapping[str, str] | None = None) -> None:
        self._condition = threading.Condition()  # its lock may be taken again by its holder
        self._shares = shares
        self._urls = http_urls or {}
        self._changes = 0
        self._held: Desired | None = None
        self._shown = {
            name: _Shown(triton=TritonStatus(live=False, http_url=self._urls.get(name)))
            for name in shares
        }
        self._refusal: Refusal | None = None
        self._token: str | None = None
        self._token_rejected: str | None = None
        self._poll_called = False

    # What the servers' threads say and ask

    def seat(self, name: str = "") -> Seat:
        """The end of the board at which one server's thread sits."""
        return Seat(self, name)

    def takes(self, name: str, model: str) -> bool:
        """Whether the model belongs to that server."""
        return owner(model, self._shares) == name

    def show(
        self,
        name: str,
        *,
        observed: Pair | None,
        triton: TritonStatus,
        models: tuple[ModelReport, ...],
    ) -> None:
        """Put up a server's newest states; wakes the link thread only when they differ."""
        named = tuple(replace(report, server=name) for report in models) if name else models
        triton = replace(triton, http_url=self._urls.get(name))
        shown = _Shown(observed=observed, triton=triton, models=named)
        with self._condition:
            if shown == self._shown[name]:
                return
            self._shown[name] = shown
            self._changes += 1
            self._condition.notify_all()

    def desired(self) -> Desired | None:
        """The newest accepted answer of the centre since this process started, or the kept one."""
        with self._condition:
            return self._held

    def offer_kept(self, desired: Desired) -> None:
        """The wishes as one server's journal kept them; the newest of all the servers' hold."""
        with self._condition:
            if self._held is None or desired.pair > self._held.pair:
                self.offer(desired)

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
            shown = list(self._shown.values())
            pairs = [each.observed for each in shown]
            known = [pair for pair in pairs if pair is not None]
            statuses = [each.triton for each in shown]
            return Snapshot(
                changes=self._changes,
                observed=min(known) if len(known) == len(pairs) else None,
                triton=next((each for each in statuses if not each.live), statuses[0]),
                models=tuple(report for each in shown for report in each.models)
                + tuple(self._unclaimed()),
                refusal=self._refusal,
                servers=tuple(zip(self._shown, statuses, strict=True)),
            )

    def _unclaimed(self) -> Iterator[ModelReport]:
        """Wishes that no server follows; they are told from the moment they are known."""
        for wish in () if self._held is None else self._held.models:
            if owner(wish.model, self._shares) is None:
                yield _report_unclaimed(wish, unclaimed(wish.model, self._shares))

    # Waiting

    def wait_until(self, happened: Callable[[], bool], seconds: float) -> None:
        """Return when `happened()`, asked under the lock at each change, or after `seconds`."""
        with self._condition:
            self._condition.wait_for(happened, seconds)


class Seat:
    """One server's end of the board."""

    def __init__(self, board: Board, name: str) -> None:
        self._board = board
        self._name = name

    def takes(self, model: str) -> bool:
        """Whether the model belongs to this server."""
        return self._board.takes(self._name, model)

    def show(
        self, *, observed: Pair | None, triton: TritonStatus, models: tuple[ModelReport, ...]
    ) -> None:
        self._board.show(self._name, observed=observed, triton=triton, models=models)

    def desired(self) -> Desired | None:
        return self._board.desired()

    def offer_kept(self, desired: Desired) -> None:
        self._board.offer_kept(desired)

    def wait_until(self, happened: Callable[[], bool], seconds: float) -> None:
        self._board.wait_until(happened, seconds)


def _report_unclaimed(wish: ModelWish, reason: str) -> ModelReport:
    nothing = wish.version is None  # then it is as wished
    return ModelReport(
        model=wish.model,
        generation=wish.generation,
        deployment=wish.deployment,
        target=wish.version,
        phase=SUCCEEDED if nothing else FAILED,
        serving=None,
        healthy=None,
        reason_code=OK if nothing else NO_SERVER,
        reason="nothing is served, as wished" if nothing else reason[:MAX_REASON],
    )
