"""Windows are open when their own clock says so, over every change of the clocks; deadlines count
open time only, and whoever asks as he is told misses no opening."""

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from controlplane.domain.windows import (
    LONGEST_WAIT,
    MAX_MINUTES,
    Window,
    WindowKind,
    closes_at,
    is_open,
    next_opening,
    of_kind,
    open_seconds_between,
    poll_after,
    zone_fault,
)

HOUR, DAY = 3600.0, 86_400.0
EVERY_DAY = frozenset(range(7))
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(
    start: str = "22:00",
    minutes: int = 120,
    *,
    days: frozenset[int] = EVERY_DAY,
    zone: str = "UTC",
    kind: WindowKind = WindowKind.ACTIVATION,
) -> Window:
    return Window(
        kind=kind, days=days, start=time.fromisoformat(start), minutes=minutes, timezone=zone
    )


NIGHT = window("22:00", 480)  # 22:00 to 06:00
BERLIN_NIGHT = window("02:30", 60, zone="Europe/Berlin")
SUNDAY_LATE = window("23:00", 180, days=frozenset({6}))  # until Monday 02:00
TWO_DAYS = window("12:00", 2 * 24 * 60, days=frozenset({4}))  # Friday noon to Sunday noon
ALWAYS = window("00:00", MAX_MINUTES, days=frozenset({0}))


@pytest.mark.parametrize(
    ("windows", "at", "expected"),
    [
        pytest.param([], "2026-11-23 12:00", True, id="without a window it is always open"),
        pytest.param([NIGHT], "2026-11-23 21:59:59", False, id="closed a second before the start"),
        pytest.param([NIGHT], "2026-11-23 22:00", True, id="open from the start on"),
        pytest.param([NIGHT], "2026-11-24 03:00", True, id="open beyond midnight"),
        pytest.param([NIGHT], "2026-11-24 06:00", False, id="closed from its end on"),
        pytest.param([SUNDAY_LATE], "2026-11-23 01:59", True, id="open beyond the week's end"),
        pytest.param([SUNDAY_LATE], "2026-11-24 01:59", False, id="but not every night"),
        pytest.param([TWO_DAYS], "2026-11-29 11:59", True, id="open the day after the next"),
        pytest.param([TWO_DAYS], "2026-11-29 12:00", False, id="and no longer"),
        pytest.param([ALWAYS], "2026-11-29 23:59:59", True, id="a week is as long as a week"),
        pytest.param([NIGHT, TWO_DAYS], "2026-11-28 12:00", True, id="windows add up"),
        pytest.param(
            [window("22:00", 60, zone="Asia/Kolkata")],
            "2026-11-23 16:45",
            True,
            id="the window's clock is its own",
        ),
        pytest.param(
            [window("22:00", 60, zone="Pacific/Auckland", days=frozenset({0}))],
            "2026-11-23 09:30",
            True,
            id="and so is its weekday: still Monday there",
        ),
        pytest.param(
            [window("08:00", 60, zone="Pacific/Auckland", days=frozenset({0}))],
            "2026-11-22 19:30",
            True,
            id="Monday there while it is Sunday here",
        ),
        pytest.param(
            [BERLIN_NIGHT], "2026-03-29 01:29", False, id="02:30 does not exist: not before 03:30"
        ),
        pytest.param([BERLIN_NIGHT], "2026-03-29 01:30", True, id="02:30 does not exist: 03:30"),
        pytest.param([BERLIN_NIGHT], "2026-03-29 02:29", True, id="skipped hour: as long as ever"),
        pytest.param([BERLIN_NIGHT], "2026-03-29 02:30", False, id="skipped hour: and no longer"),
        pytest.param([BERLIN_NIGHT], "2026-10-25 00:30", True, id="02:30 comes twice: the first"),
        pytest.param([BERLIN_NIGHT], "2026-10-25 01:29", True, id="doubled hour: as long as ever"),
        pytest.param([BERLIN_NIGHT], "2026-10-25 01:30", False, id="02:30 comes twice: not again"),
        pytest.param(
            [window("23:00", 240, zone="America/New_York")],
            "2026-03-08 07:59",
            True,
            id="clocks that change inside a window do not shorten it",
        ),
        pytest.param(
            [window("23:00", 240, zone="America/New_York")],
            "2026-11-01 07:01",
            False,
            id="nor lengthen it",
        ),
    ],
)
def test_when_it_is_open(windows: list[Window], at: str, expected: bool) -> None:
    assert is_open(windows, utc(at)) is expected


@pytest.mark.parametrize(
    ("windows", "at", "opens", "closes"),
    [
        pytest.param([], "2026-11-23 12:00", None, None, id="always open"),
        pytest.param([NIGHT], "2026-11-23 12:00", "2026-11-23 22:00", None, id="opens tonight"),
        pytest.param([NIGHT], "2026-11-23 23:00", None, "2026-11-24 06:00", id="closes tomorrow"),
        pytest.param(
            [SUNDAY_LATE], "2026-11-23 02:00", "2026-11-29 23:00", None, id="only in a week"
        ),
        pytest.param([ALWAYS], "2026-11-25 00:00", None, None, id="closes in no foreseeable time"),
        pytest.param(
            [NIGHT, window("06:00", 60), window("06:30", 90)],
            "2026-11-23 23:00",
            None,
            "2026-11-24 08:00",
            id="windows that touch are one",
        ),
        pytest.param(
            [NIGHT, SUNDAY_LATE], "2026-11-22 12:00", "2026-11-22 22:00", None, id="the first"
        ),
        pytest.param(
            [BERLIN_NIGHT], "2026-03-28 12:00", "2026-03-29 01:30", None, id="the skipped hour"
        ),
    ],
)
def test_when_it_opens_and_closes(
    windows: list[Window], at: str, opens: str | None, closes: str | None
) -> None:
    assert next_opening(windows, utc(at)) == (utc(opens) if opens else None)
    assert closes_at(windows, utc(at)) == (utc(closes) if closes else None)


@pytest.mark.parametrize(
    ("windows", "begin", "end", "hours"),
    [
        pytest.param([], "2026-11-23 12:00", "2026-11-24 12:00", 24, id="all of it, without any"),
        pytest.param([NIGHT], "2026-11-23 12:00", "2026-11-26 12:00", 24, id="three nights"),
        pytest.param([NIGHT], "2026-11-23 23:00", "2026-11-24 00:30", 1.5, id="within one"),
        pytest.param([NIGHT], "2026-11-23 12:00", "2026-11-23 20:00", 0, id="none"),
        pytest.param([NIGHT], "2026-11-24 12:00", "2026-11-23 12:00", 0, id="backwards is nothing"),
        pytest.param(
            [NIGHT, NIGHT, window("21:00", 120)],
            "2026-11-23 12:00",
            "2026-11-24 12:00",
            9,
            id="what overlaps counts once",
        ),
        pytest.param(
            [window("23:00", 240, zone="America/New_York")],
            "2026-02-20 00:00",
            "2026-03-20 00:00",
            4 * 28,
            id="as much in the month the clocks change as in any other",
        ),
    ],
)
def test_how_long_it_was_open(windows: list[Window], begin: str, end: str, hours: float) -> None:
    assert open_seconds_between(windows, utc(begin), utc(end)) == hours * HOUR


def test_windows_of_the_other_kind_are_another_matter() -> None:
    both = [NIGHT, window(kind=WindowKind.DOWNLOAD)]
    assert of_kind(both, WindowKind.ACTIVATION) == (NIGHT,)


@pytest.mark.parametrize("minutes", [0, -1, MAX_MINUTES + 1])
def test_a_length_that_cannot_be(minutes: int) -> None:
    with pytest.raises(ValueError, match="minutes must be 1 to 10080"):
        window(minutes=minutes)


@pytest.mark.parametrize("days", [set[int](), {7}, {-1, 0}])
def test_days_that_cannot_be(days: set[int]) -> None:
    with pytest.raises(ValueError, match="days must be some of 0"):
        window(days=frozenset(days))


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "America/Argentina/Salta", "Etc/GMT+5"])
def test_names_of_time_zones(name: str) -> None:
    assert zone_fault(name) == ""


@pytest.mark.parametrize(
    "name",
    ["", "europe/berlin", "CET+1", "Europe", "../zone", "/etc/hosts", "\0", "localtime", "x" * 300],
)
def test_what_names_no_time_zone_is_told_a_right_one(name: str) -> None:
    assert "Europe/Berlin" in zone_fault(name)


@pytest.fixture
def _no_zone_data() -> Iterator[None]:
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    yield
    zoneinfo.reset_tzpath(to=before)
    zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("_no_zone_data")
def test_a_machine_without_zone_data_says_what_to_install_and_knows_utc() -> None:
    assert "install the system's tzdata package" in zone_fault("Europe/Berlin")
    assert zone_fault("UTC") == ""
    assert is_open([NIGHT], utc("2026-11-23 23:00"))


class TestPolls:
    def test_without_windows_a_site_asks_at_its_own_pace(self) -> None:
        assert poll_after([], base_seconds=600, spread_seconds=5, at=MONDAY) == 600

    def test_far_from_a_window_too(self) -> None:
        noon = utc("2026-11-23 12:00")
        assert poll_after([NIGHT], base_seconds=600, spread_seconds=5, at=noon) == 600

    def test_before_an_opening_it_asks_just_after_it(self) -> None:
        soon = utc("2026-11-23 21:58")
        assert poll_after([NIGHT], base_seconds=600, spread_seconds=5, at=soon) == 125

    def test_sooner_where_a_stretched_wait_would_miss_a_short_window(self) -> None:
        short = window("22:00", 10)
        day_before = utc("2026-11-22 22:10")
        seconds = poll_after([short], base_seconds=DAY, spread_seconds=5, at=day_before)
        assert seconds * LONGEST_WAIT <= DAY - 600 + 200

    def test_even_where_only_a_stretched_wait_reaches_the_window(self) -> None:
        short, before = window("22:00", 1), utc("2026-11-23 21:49")
        seconds = poll_after([short], base_seconds=600, spread_seconds=5, at=before)
        assert seconds * LONGEST_WAIT < 11 * 60 + 60  # when it closes

    def test_a_later_short_window_does_not_hurry_the_first(self) -> None:
        later, soon = window("22:30", 1), utc("2026-11-23 21:50")
        assert poll_after([NIGHT, later], base_seconds=DAY, spread_seconds=5, at=soon) == 605

    def test_inside_a_window_it_asks_three_times(self) -> None:
        inside = utc("2026-11-23 22:01")
        assert poll_after([NIGHT], base_seconds=DAY, spread_seconds=5, at=inside) == 480 * 60 / 3

    def test_never_more_than_once_a_second_unless_the_fleet_does(self) -> None:
        just = utc("2026-11-23 21:59:59.9")
        assert poll_after([NIGHT], base_seconds=60, spread_seconds=0, at=just) == 1
        assert poll_after([NIGHT], base_seconds=0.2, spread_seconds=0, at=just) == 0.2

    def test_windows_of_both_kinds_are_met(self) -> None:
        noon = utc("2026-11-23 12:00")
        download = window("12:01", 300, kind=WindowKind.DOWNLOAD)
        both = [NIGHT, download]
        assert poll_after(both, base_seconds=DAY, spread_seconds=2, at=noon) == 62


zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
windows_drawn = st.lists(
    st.builds(
        Window,
        kind=st.just(WindowKind.ACTIVATION),
        days=st.frozensets(st.integers(0, 6), min_size=1),
        start=st.times().map(lambda at: at.replace(second=0, microsecond=0)),
        minutes=st.one_of(st.integers(1, 600), st.integers(1, MAX_MINUTES)),
        timezone=zones,
    ),
    min_size=1,
    max_size=3,
)
# Around nights when the clocks of one of the zones change, as well as anywhere in the year.
moments = st.one_of(
    st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-04", "2026-10-25", "2026-11-01"]).map(
        utc
    ),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)).map(  # noqa: DTZ001  # given UTC below
        lambda at: at.replace(second=0, microsecond=0, tzinfo=UTC)
    ),
)
spans = st.timedeltas(timedelta(0), timedelta(days=20))


@settings(max_examples=150, deadline=None)
@given(windows=windows_drawn, begin=moments, first=spans, second=spans)
def test_open_time_adds_up_and_is_never_more_than_the_time(
    windows: list[Window], begin: datetime, first: timedelta, second: timedelta
) -> None:
    middle, end = begin + first, begin + first + second
    parts = open_seconds_between(windows, begin, middle) + open_seconds_between(
        windows, middle, end
    )
    whole = open_seconds_between(windows, begin, end)
    assert whole == pytest.approx(parts, abs=1e-3)
    assert 0 <= whole <= (end - begin).total_seconds()


@settings(max_examples=25, deadline=None)
@given(windows=windows_drawn, begin=moments)
def test_open_time_is_the_sum_of_the_open_minutes(windows: list[Window], begin: datetime) -> None:
    minutes = [begin + timedelta(minutes=n) for n in range(24 * 60)]
    counted = 60.0 * sum(is_open(windows, at) for at in minutes)
    assert open_seconds_between(windows, begin, begin + timedelta(days=1)) == counted


@settings(max_examples=150, deadline=None)
@given(windows=windows_drawn, at=moments)
def test_the_next_opening_is_open_and_nothing_before_it_is(
    windows: list[Window], at: datetime
) -> None:
    opening = next_opening(windows, at)
    assert (opening is None) == is_open(windows, at)
    if opening is not None:
        assert is_open(windows, opening)
        assert open_seconds_between(windows, at, opening) == 0
        assert not is_open(windows, opening - timedelta.resolution)


@settings(max_examples=150, deadline=None)
@given(windows=windows_drawn, at=moments)
def test_it_stays_open_until_it_closes(windows: list[Window], at: datetime) -> None:
    closing = closes_at(windows, at)
    if closing is None:
        assume(is_open(windows, at))
        assert open_seconds_between(windows, at, at + timedelta(days=9)) == 9 * DAY
    else:
        assert open_seconds_between(windows, at, closing) == (closing - at).total_seconds()
        assert not is_open(windows, closing)


@settings(max_examples=100, deadline=None)
@given(
    windows=windows_drawn,
    at=moments,
    base_seconds=st.sampled_from([5.0, 900.0, DAY]),
    spread_seconds=st.floats(0, 10),
    stretch=st.floats(0.8, LONGEST_WAIT),
)
def test_a_site_that_asks_as_it_is_told_asks_within_the_next_window(
    windows: list[Window],
    at: datetime,
    base_seconds: float,
    spread_seconds: float,
    stretch: float,
) -> None:
    opening = next_opening(windows, at)
    assume(opening is not None)
    assert opening is not None
    closing = closes_at(windows, opening) or opening + timedelta(days=1)
    asked = max(at, opening - 5 * timedelta(seconds=base_seconds))  # no need to walk for a week
    while asked < opening:
        asked += stretch * timedelta(
            seconds=poll_after(
                windows, base_seconds=base_seconds, spread_seconds=spread_seconds, at=asked
            )
        )
    assert asked < closing
