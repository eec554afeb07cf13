"""When a site may be changed: windows in local time, open or closed, and until when.

A window opens at a local time of some weekdays and stays open for a number of minutes. Its length
is elapsed time, so no change of the clocks makes it longer or shorter. A start in the hour that the
clocks skip in spring opens that much later by the new time (02:30 becomes 03:30); a start in the
hour that is doubled in autumn opens once, the first time. Windows of one kind add up.

It must not know rows, sites or rollouts. Time zones are data here, looked up by name."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MAX_MINUTES = 7 * 24 * 60
EXAMPLE_ZONE = "Europe/Berlin"
# An agent waits up to a fifth longer than it is told, so that a fleet does not ask in step.
LONGEST_WAIT = 1.2
SHORTEST_WAIT_SECONDS = 1.0
# Every window opens at least once in eight days, whatever its zone does to its clocks.
_AHEAD = timedelta(days=9)
_DAY = timedelta(days=1)


class WindowKind(StrEnum):
    """What a window allows: to put a version to work, or to move its bytes."""

    ACTIVATION = "activation"
    DOWNLOAD = "download"


@dataclass(frozen=True, kw_only=True)
class Window:
    """Open for `minutes` from `start`, in `timezone`, on `days` (0 is Monday)."""

    kind: WindowKind
    days: frozenset[int]
    start: time
    minutes: int
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not self.days or not self.days <= frozenset(range(7)):
            raise ValueError(f"days must be some of 0 (Monday) to 6, not {sorted(self.days)}")
        if not 1 <= self.minutes <= MAX_MINUTES:
            raise ValueError(f"minutes must be 1 to {MAX_MINUTES}, not {self.minutes}")

    @property
    def length(self) -> timedelta:
        return timedelta(minutes=self.minutes)


def zone_fault(name: str) -> str:
    """What is wrong with the name of a time zone, as a sentence; empty when nothing is."""
    try:
        _zone(name)
    except ValueError as error:
        return str(error)
    return ""


def of_kind(windows: Iterable[Window], kind: WindowKind) -> tuple[Window, ...]:
    return tuple(window for window in windows if window.kind == kind)


# Each of these takes the windows of ONE kind at ONE site; without any, the site is always open.


def is_open(windows: Iterable[Window], at: datetime) -> bool:
    windows = tuple(windows)
    return not windows or bool(_open_at(windows, at))


def next_opening(windows: Iterable[Window], at: datetime) -> datetime | None:
    """When the closed time that holds `at` ends; None while it is open anyhow."""
    windows = tuple(windows)
    if is_open(windows, at):
        return None
    return min(opens for _, opens, _ in _spans(windows, at, at + _AHEAD))


def closes_at(windows: Iterable[Window], at: datetime) -> datetime | None:
    """When the open time that holds `at` ends; None while it is closed, or open for all of the
    next nine days. Windows that touch are one open time."""
    windows = tuple(windows)
    end = at
    while end < at + _AHEAD and (open_now := _open_at(windows, end)):
        end = max(closes for _, _, closes in open_now)
    return end if at < end < at + _AHEAD else None


def open_seconds_between(windows: Iterable[Window], begin: datetime, end: datetime) -> float:
    """How long it was open from `begin` to `end`: the time that counts for a deadline."""
    windows = tuple(windows)
    if end <= begin:
        return 0.0
    if not windows:
        return (end - begin).total_seconds()
    total, counted_until = timedelta(), begin
    for _, opens, closes in sorted(_spans(windows, begin, end), key=lambda span: span[1:]):
        opens, closes = max(opens, counted_until), min(closes, end)
        if closes > opens:
            total += closes - opens
            counted_until = closes
    return total.total_seconds()


def poll_after(
    windows: Iterable[Window], *, base_seconds: float, spread_seconds: float, at: datetime
) -> float:
    """In how many seconds a site with these windows, of any kind, should ask again.

    `base_seconds`, but sooner where that would miss a window: soon after the next opening (by
    `spread_seconds`, so that a fleet does not come at once), however the agent's wait is
    stretched, and several times while one is open.
    """
    windows = tuple(windows)
    seconds = base_seconds
    # What opens later than the longest wait is for a later poll to meet.
    horizon = at + timedelta(seconds=base_seconds * LONGEST_WAIT)
    for kind in WindowKind:
        near = list(_spans(of_kind(windows, kind), at, horizon))
        if not near:
            continue
        opening = min(opens for _, opens, _ in near)
        if opening <= at:
            shortest = min(window.length for window, opens, _ in near if opens <= at)
            # Two polls fit in, however the waits fall.
            limit = shortest.total_seconds() / 3
        else:
            shortest = min(window.length for window, opens, _ in near if opens == opening)
            until = (opening - at).total_seconds()
            latest = (until + shortest.total_seconds() / 3) / LONGEST_WAIT
            limit = min(until + spread_seconds, latest)
        seconds = min(seconds, max(SHORTEST_WAIT_SECONDS, limit))
    return seconds


_Span = tuple[Window, datetime, datetime]


def _open_at(windows: Iterable[Window], at: datetime) -> list[_Span]:
    return list(_spans(windows, at, at + timedelta.resolution))


def _spans(windows: Iterable[Window], begin: datetime, end: datetime) -> Iterator[_Span]:
    """Each time a window is open at some moment from `begin` up to `end`: it, from, until."""
    for window in windows:
        zone = _zone(window.timezone)
        # A day more on both sides: zones are at most a day apart, and clocks change by less.
        day = (begin - window.length).astimezone(zone).date() - _DAY
        last = end.astimezone(zone).date() + _DAY
        while day <= last:
            if day.weekday() in window.days:
                # `fold` is 0: the rule for skipped and doubled hours in the module's docstring.
                opens = datetime.combine(day, window.start, tzinfo=zone).astimezone(UTC)
                if opens < end and opens + window.length > begin:
                    yield window, opens, opens + window.length
            day += _DAY


def _zone(name: str) -> tzinfo:
    """Raises `ValueError` with a sentence."""
    if name == "UTC":  # needs no data
        return UTC
    if name == "localtime":  # a file of this machine, another zone on the next
        raise ValueError(f"must name a place's time zone, such as {EXAMPLE_ZONE}, or UTC")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        try:
            ZoneInfo(EXAMPLE_ZONE)
        except ZoneInfoNotFoundError:
            raise ValueError(
                f"{name!r} cannot be looked up: this machine has no time zone data; install the "
                "system's tzdata package, or use UTC"
            ) from error
        raise ValueError(
            f"{name!r} is not a known time zone; use a name such as {EXAMPLE_ZONE}, or UTC"
        ) from error
