"""The three lengths of time over which sums are kept, and which of them cover a window of time.

Pure but for the settings that say how long each is kept. It must not know what is summed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from django.conf import settings


class Grain(StrEnum):
    """From the finest; hours and days are those of UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        return _LENGTHS[self]

    def floor(self, moment: datetime) -> datetime:
        """When the minute, hour or day of `moment` began: `[start, start + length)` holds it."""
        moment = moment.astimezone(UTC).replace(second=0, microsecond=0)
        if self is not Grain.MINUTE:
            moment = moment.replace(minute=0)
        return moment.replace(hour=0) if self is Grain.DAY else moment

    def ceiling(self, moment: datetime) -> datetime:
        start = self.floor(moment)
        return start if start == moment else start + self.length

    def kept_since(self, now: datetime) -> datetime:
        """Sums that begin earlier may be gone."""
        return self.ceiling(now - self.kept)

    @property
    def kept(self) -> timedelta:
        if self is Grain.MINUTE:
            return timedelta(hours=settings.WAYPOST_MINUTE_SUMS_HOURS)
        if self is Grain.HOUR:
            return timedelta(days=settings.WAYPOST_HOUR_SUMS_DAYS)
        return timedelta(days=settings.WAYPOST_DAY_SUMS_DAYS)


_LENGTHS = {
    Grain.MINUTE: timedelta(minutes=1),
    Grain.HOUR: timedelta(hours=1),
    Grain.DAY: timedelta(days=1),
}
_FINER = {Grain.DAY: Grain.HOUR, Grain.HOUR: Grain.MINUTE}


@dataclass(frozen=True, kw_only=True)
class Window:
    """From `start`, which belongs to it, to `end`, which does not."""

    start: datetime
    end: datetime


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Part of a window, to be read from the sums of one grain."""

    grain: Grain
    window: Window


def within_kept(window: Window, now: datetime) -> Window:
    """The part of a window whose sums are kept, to the finest grain that they are kept at: its ends
    move inwards, to a whole minute, hour or day. Nothing from outside the window is ever in it."""
    start = window.start
    for grain in Grain:
        start = grain.ceiling(window.start)
        if start >= grain.kept_since(now):
            break
    else:
        start = Grain.DAY.kept_since(now)
    end = window.end
    for grain in Grain:
        end = grain.floor(window.end)
        if end >= grain.kept_since(now):
            break
    return Window(start=start, end=max(start, end))


def cover(window: Window) -> Iterator[Piece]:
    """Pieces that together are exactly `window` (as `within_kept` gives it), in its order: days
    where whole days lie in it, then hours, then minutes, as that is the fewest rows."""
    return _cover(window.start, window.end, Grain.DAY)


def _cover(start: datetime, end: datetime, grain: Grain) -> Iterator[Piece]:
    if start >= end:
        return
    if (finer := _FINER.get(grain)) is None:
        yield Piece(grain=grain, window=Window(start=start, end=end))
        return
    first, last = grain.ceiling(start), grain.floor(end)
    if first >= last:
        yield from _cover(start, end, finer)
        return
    yield from _cover(start, first, finer)
    yield Piece(grain=grain, window=Window(start=first, end=last))
    yield from _cover(last, end, finer)
