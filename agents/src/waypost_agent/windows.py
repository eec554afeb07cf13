"""When this site lets its link be used for downloads: hours of the week, by the site's own clock.

Pure. Decides whether a moment lies in a window and when the next one opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, kw_only=True)
class Window:
    """From `opens` to `closes` on `days` (0 is Monday), the day being that of the opening; a window
    that closes at or before the hour it opened at closes on the next day."""

    days: frozenset[int]
    opens: time
    closes: time

    def holds(self, moment: datetime) -> bool:
        at = moment.time().replace(tzinfo=None)
        today, yesterday = moment.weekday(), (moment.weekday() - 1) % 7
        if self.opens < self.closes:
            return today in self.days and self.opens <= at < self.closes
        return (today in self.days and at >= self.opens) or (
            yesterday in self.days and at < self.closes
        )


def opens_at(windows: Sequence[Window], moment: datetime) -> datetime | None:
    """When the next window opens, None when one is open or there are none. `moment` is the wall
    clock of the site; an hour that the clock skips in spring opens as late as the clock says."""
    if not windows or any(window.holds(moment) for window in windows):
        return None
    found = []
    for days_on in range(8):
        day = moment.date() + timedelta(days=days_on)
        for window in windows:
            opening = datetime.combine(day, window.opens, tzinfo=moment.tzinfo)
            if day.weekday() in window.days and opening > moment:
                found.append(opening)
        if found:
            break
    return min(found)


def parse_windows(value: object) -> tuple[Window, ...]:
    """From `[{days = ["mon"], from = "22:00", to = "06:00"}]`; days left out are all. Raises
    `ValueError` naming the place."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError('must be a list such as [{days = ["mon"], from = "22:00", to = "06:00"}]')
    return tuple(_parse(entry, f"[{number}]") for number, entry in enumerate(value))


def _parse(entry: dict[str, object], where: str) -> Window:
    unknown = sorted(set(entry) - {"days", "from", "to"})
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is unknown; known are days, from, to")
    days = entry.get("days", list(DAYS))
    if not isinstance(days, list) or not days or not all(day in DAYS for day in days):
        raise ValueError(f"{where}.days must be a list of {', '.join(DAYS)}, it is {days!r}")
    return Window(
        days=frozenset(DAYS.index(day) for day in days),
        opens=_time(entry.get("from"), f"{where}.from"),
        closes=_time(entry.get("to"), f"{where}.to"),
    )


def _time(value: object, where: str) -> time:
    try:
        if not isinstance(value, str) or len(value) != 5:
            raise ValueError
        return datetime.strptime(value, "%H:%M").time()  # noqa: DTZ007  # an hour of every day
    except ValueError:
        raise ValueError(f'{where} must be an hour such as "22:00", it is {value!r}') from None
