"""Tells the service manager how the agent is: ready, still turning, stopping, and in what state.

Decides when a sign of life is due. One datagram each, no library; without a service manager
nothing is sent. A datagram that cannot be sent is lost: it must never hold up the loop.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Collection, Mapping

from waypost_agent.clock import Clock


class Notifier:
    """`address` is the manager's socket, None without one; `watchdog_seconds` is how long it waits
    for a sign of life, None when it does not."""

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = address
        # Four signs per deadline: one that is lost or late does no harm.
        self._every_seconds = None if watchdog_seconds is None else watchdog_seconds / 4
        self._beat_at = float("-inf")

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, sentence: str) -> None:
        """Show this sentence where the manager shows the service's state."""
        self._send("STATUS=" + " ".join(sentence.split()))

    def beat(self, now: float) -> bool:
        """A sign of life, when one is due; whether it was. `now` is monotonic, in seconds."""
        if self._every_seconds is None or now < self._beat_at:
            return False
        self._beat_at = now + self._every_seconds
        self._send("WATCHDOG=1")
        return True

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), address)
        except OSError:
            return


def notifier_from(environment: Mapping[str, str]) -> Notifier:
    """The manager that started this process, as it says in the environment."""
    seconds = None
    microseconds = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if meant and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0:
        seconds = int(microseconds) / 1_000_000
    return Notifier(environment.get("NOTIFY_SOCKET") or None, seconds)


class Turning:
    """Several loops in one process: life is told when each of them turned since it was told last,
    so that one that hangs is silence however busy the others are."""

    def __init__(self, notifier: Notifier, names: Collection[str]) -> None:
        self._notifier = notifier
        self._names = frozenset(names)
        self._silent = set(names)
        self._lock = threading.Lock()

    def of(self, name: str) -> Callable[[float], None]:
        """What the loop of this name calls, with the monotonic time, as often as it turns."""

        def turned(now: float) -> None:
            with self._lock:
                self._silent.discard(name)
                if not self._silent and self._notifier.beat(now):
                    self._silent.update(self._names)

        return turned


class TurningClock:
    """The clock of a loop's thread. Whoever asks it the time is turning: the loop does between its
    looks, in each wait for Triton and between the pieces of a download. A step that hangs does
    not ask, and its silence is what the manager waits for."""

    def __init__(self, clock: Clock, turned: Callable[[float], object]) -> None:
        self._clock = clock
        self._turned = turned

    def monotonic(self) -> float:
        now = self._clock.monotonic()
        self._turned(now)
        return now

    def boottime(self) -> float:
        return self._clock.boottime()

    def boot_id(self) -> str:
        return self._clock.boot_id()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    def utc_text(self) -> str:
        return self._clock.utc_text()
