"""Download windows: hours of the week by the site's clock, also over midnight and summer time."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from versions import Version, make_version
from waypost_agent.files import Fetching
from waypost_agent.windows import opens_at, parse_windows
from world import World

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = parse_windows([{"days": ["mon", "fri"], "from": "22:00", "to": "06:00"}])
NOON = parse_windows([{"from": "12:00", "to": "13:30"}])
MONDAY = datetime(2026, 11, 23, tzinfo=BERLIN)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """Days are counted from a Monday."""
    return MONDAY + timedelta(days=day, hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("moment", "opening"),
    [
        (at(0, 21, 59), at(0, 22)),
        (at(0, 22), None),
        (at(1, 0), None),
        (at(1, 5, 59), None),
        (at(1, 6), at(4, 22)),
        (at(4, 23), None),
        (at(5, 3), None),
        (at(6, 3), at(7, 22)),
        (at(0, 3), at(0, 22)),  # Sunday's night is not Monday's
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_it_opens_on(
    moment: datetime, opening: datetime | None
) -> None:
    assert opens_at(NIGHTS, moment) == opening


@pytest.mark.parametrize(
    ("moment", "opening"),
    [
        (at(2, 11), at(2, 12)),
        (at(2, 12), None),
        (at(2, 13, 29), None),
        (at(2, 13, 30), at(3, 12)),
    ],
)
def test_days_left_out_are_all(moment: datetime, opening: datetime | None) -> None:
    assert opens_at(NOON, moment) == opening


def test_no_window_is_every_hour_and_a_whole_day_is_a_whole_day() -> None:
    assert opens_at((), at(0, 3)) is None
    always = parse_windows([{"from": "00:00", "to": "00:00"}])
    assert all(opens_at(always, at(3, hour)) is None for hour in range(24))


def test_of_several_windows_the_next_one_counts() -> None:
    assert opens_at((*NIGHTS, *NOON), at(0, 13, 30)) == at(0, 22)


def test_an_opening_is_told_by_the_clock_on_the_wall_when_summer_time_begins() -> None:
    saturday = datetime(2026, 3, 28, 23, tzinfo=BERLIN)
    window = parse_windows([{"from": "03:00", "to": "04:00"}])
    opening = opens_at(window, saturday)
    assert opening is not None
    assert opening.isoformat() == "2026-03-29T03:00:00+02:00"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "must be a list"),
        (["22:00"], "must be a list"),
        ([{"from": "22:00", "to": "06:00", "day": []}], r"\[0\].day is unknown"),
        ([{"days": [], "from": "22:00", "to": "06:00"}], r"\[0\].days must be a list of mon"),
        ([{"days": ["Monday"], "from": "22:00", "to": "06:00"}], "it is"),
        ([{"from": "22:00"}], r'\[0\].to must be an hour such as "22:00", it is None'),
        ([{"from": "24:00", "to": "06:00"}], r"\[0\].from must"),
        ([{"from": 22, "to": "06:00"}], r"\[0\].from must"),
    ],
)
def test_a_wrong_window_is_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_windows(value)


# At a whole site


class Site:
    """A world whose wall clock stands at `hour` of a Monday; open from noon to 13:30."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.hour = 12
        self.world.fetching = Fetching(windows=NOON, wall_clock=lambda: at(0, self.hour))
        self.world.start()
        self.world.publish(make_version("1"), lease_required=True)
        self.world.converge()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_way_forward_waits_for_the_window_and_says_until_when(site: Site) -> None:
    world = site.world
    site.hour = 9
    before = len(world.blobs.opened)
    world.publish(make_version("2"), previous="1", lease_required=True)
    world.cycles(20)
    report = world.report()
    assert report is not None
    assert (report.phase, report.serving, report.reason_code) == ("pending", "1", "window-closed")
    assert "it opens Mon 2026-11-23 12:00" in report.reason
    assert len(world.blobs.opened) == before
    site.hour = 12
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_going_back_waits_for_no_window(site: Site) -> None:
    world = site.world
    site.hour = 9
    world.publish(make_version("2"), previous="1", lease_required=False)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_what_this_disk_holds_waits_for_no_window(site: Site) -> None:
    world = site.world
    site.hour = 9
    before = len(world.blobs.opened)
    twin = Version(number="2", files=make_version("1").files)
    world.publish(twin, previous="1", lease_required=True)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert len(world.blobs.opened) == before


def test_what_serves_is_repaired_at_any_hour(site: Site) -> None:
    world = site.world
    site.hour = 9
    folder = world.folder / "repository/echo/1"
    (target,) = (path for path in folder.rglob("model.py"))
    target.chmod(0o644)
    target.write_bytes(b"x" * target.stat().st_size)
    world.store.note_damage("echo", "1", "rotten")
    before = len(world.blobs.opened)
    world.cycles(10)
    assert len(world.blobs.opened) > before
    report = world.report()
    assert report is not None
    assert report.reason_code != "window-closed"
