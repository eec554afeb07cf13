"""A socket for `http.client` with one deadline over all reads and writes: a peer that sends a byte
every few seconds outlasts any timeout of a single read.

It must not know what is spoken over it, nor who closes the socket."""

import io
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class OutOfTime(TimeoutError):
    """The deadline has passed; the message says what did not come within how long."""


@dataclass(kw_only=True)
class Deadline:
    """So many `seconds` from now on. With a `lot` of bytes they begin anew whenever so many have
    come: that is a least rate, whatever came before. `clock` counts seconds."""

    seconds: float
    lot: int | None = None
    clock: Callable[[], float] = time.monotonic
    _until: float = field(init=False)
    _came: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._until = self.clock() + self.seconds

    def left(self) -> float:
        """Seconds, more than none. Raises `OutOfTime`."""
        left = self._until - self.clock()
        if left <= 0:
            raise self.passed()
        return left

    def came(self, count: int) -> None:
        """Takes note of bytes that were read."""
        self._came += count
        if self.lot is not None and self._came >= self.lot:
            self._came, self._until = 0, self.clock() + self.seconds

    def passed(self) -> OutOfTime:
        what = "no whole answer" if self.lot is None else f"fewer than {self.lot} bytes"
        return OutOfTime(f"{what} within {self.seconds:g} s")


class TimedWire:
    """What `HTTPConnection` needs of a socket. Raises `OutOfTime`."""

    def __init__(self, wire: socket.socket, deadline: Deadline) -> None:
        self._wire = wire
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._wire.settimeout(self._deadline.left())
            try:
                rest = rest[self._wire.send(rest) :]
            except TimeoutError:
                raise self._deadline.passed() from None

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._wire, self._deadline))

    def close(self) -> None:
        """The socket is closed by who opened it."""


class _TimedReader(io.RawIOBase):
    def __init__(self, wire: socket.socket, deadline: Deadline) -> None:
        self._wire = wire
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.settimeout(self._deadline.left())
        try:
            count = self._wire.recv_into(buffer)
        except TimeoutError:
            raise self._deadline.passed() from None
        self._deadline.came(count)
        return count
