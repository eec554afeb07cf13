"""Virtual time: what happens when, one thing after the other.

Things due at the same moment happen in the order they were asked for, so a seed is one history."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Any

_START = datetime(2030, 1, 1, tzinfo=UTC)
_REMEMBERED = 40


def moment(seconds: float) -> datetime:
    """Virtual seconds as the server's clock shows them."""
    return _START + timedelta(seconds=seconds)


def seconds_at(when: datetime) -> float:
    return (when - _START).total_seconds()


class Clock:
    """`now` in seconds since the beginning; `events` counts all that happened."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0
        self._story: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=_REMEMBERED)

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self._asked += 1
        heappush(self._due, (self.now + seconds, self._asked, call, arguments))

    def run_until(self, end: float) -> None:
        due = self._due
        while due and due[0][0] <= end:
            self.now, _, call, arguments = heappop(due)
            self.events += 1
            call(*arguments)
        self.now = end

    def note(self, sentence: str, *arguments: Any) -> None:
        """Remembers what happened; put into words only if somebody must read it."""
        self._story.append((self.now, sentence, arguments))

    def story(self) -> list[str]:
        """The last things that happened, the oldest first."""
        return [f"{moment(at):%d %H:%M:%S} {text.format(*args)}" for at, text, args in self._story]
