"""How often a site's agent is told to ask, so that it misses no maintenance window.

It must stay cheap: every poll of the fleet comes through here."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from controlplane.domain.windows import Window, poll_after
from controlplane.fleet.queries import windows_by_site

# A fleet comes back within this long after an opening, not at once.
SPREAD_SECONDS = 10.0
# The advice may rest on windows and sites as they were this long ago; no decision ever does.
SNAPSHOT_LIFETIME = timedelta(seconds=30)


def poll_seconds_of(*, site_id: int, own: int | None, windows_exist: bool, now: datetime) -> float:
    """In how many seconds this site's agent should ask again. Costs no query, but for the
    snapshot of all windows that each process takes at most every 30 s while there are any."""
    base: float = settings.WAYPOST_POLL_SECONDS if own is None else own
    if not windows_exist:
        return base
    return poll_after(
        _snapshot.windows_of(site_id, now=now),
        base_seconds=base,
        # Multiples of the golden ratio: neighbours' ids lie far apart, any number lies evenly.
        spread_seconds=site_id * 0.618_034 % 1 * SPREAD_SECONDS,
        at=now,
    )


@dataclass(frozen=True, kw_only=True)
class _Taken:
    at: datetime
    windows: Mapping[int, list[Window]]


class _Snapshot:
    """The windows of all sites as this process last read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: _Taken | None = None

    def windows_of(self, site_id: int, *, now: datetime) -> list[Window]:
        taken = self._fresh(now)
        if taken is None:
            with self._lock:  # one reads for all that wait
                taken = self._fresh(now)
                if taken is None:
                    taken = self._taken = _Taken(at=now, windows=windows_by_site())
        return taken.windows.get(site_id, [])

    def _fresh(self, now: datetime) -> _Taken | None:
        taken = self._taken
        return taken if taken and abs(now - taken.at) < SNAPSHOT_LIFETIME else None

    def forget(self) -> None:
        self._taken = None


_snapshot = _Snapshot()


def forget_windows() -> None:
    """So that a change shows at once, at least in the process that made it."""
    _snapshot.forget()
