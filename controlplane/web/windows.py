"""The windows of a site in words: when it may be changed, and whether that is now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.policy import span
from controlplane.domain.windows import (
    DAYS,
    Window,
    WindowKind,
    closes_at,
    is_open,
    next_opening,
    of_kind,
)


@dataclass(frozen=True, kw_only=True)
class WindowLine:
    """All windows of one kind. `turns_at` is when it closes, or opens; None: not soon."""

    kind: str
    hours: tuple[str, ...]
    open: bool
    turns_at: datetime | None


def window_lines(windows: Iterable[Window], now: datetime) -> list[WindowLine]:
    """Kinds without a window are left out: nothing closes them."""
    windows = tuple(windows)
    lines = []
    for kind in WindowKind:
        same = of_kind(windows, kind)
        if same:
            open_now = is_open(same, now)
            turn = closes_at(same, now) if open_now else next_opening(same, now)
            hours = tuple(_hours(window) for window in same)
            lines.append(WindowLine(kind=kind.value, hours=hours, open=open_now, turns_at=turn))
    return lines


def _hours(window: Window) -> str:
    days = "every day" if len(window.days) == 7 else ", ".join(DAYS[d] for d in sorted(window.days))
    return f"{days} from {window.start:%H:%M} for {span(window.minutes * 60)}, {window.timezone}"
