"""The centre gone for a week, a clock that is years off, a cable pulled for twenty minutes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from versions import make_version, wish
from waypost_agent.errors import Retryable
from whole_site import Site
from world import World

WEEK_MINUTES = 7 * 24 * 60
SOURCES = Path(__file__).resolve().parents[1] / "src" / "waypost_agent"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """It serves version 1, as the centre wishes at generation 1."""
    site = Site(tmp_path)
    site.start_link()
    wished = dict(site.world.wishes)

    def wishes() -> dict[str, Any]:
        return {"epoch": 1, "generation": 1, "site": "edge-1", "models": list(wished.values())}

    site.centre.wishes = wishes
    site.pass_minutes(1)
    return site


def wishes(site: Site, *, epoch: int, generation: int, number: str = "1") -> None:
    """From now on the centre wishes so."""
    entry = wish(make_version(number), generation=generation)
    document = {"epoch": epoch, "generation": generation, "site": "edge-1", "models": [entry]}
    site.centre.wishes = lambda: document
    site.centre.generation = generation


def test_after_a_week_of_silence_the_site_serves_and_was_no_burden(site: Site) -> None:
    site.centre.silent = True
    site.centre.asked.clear()
    site.pass_minutes(WEEK_MINUTES, at_least=300.0)
    site.check()
    assert len(site.centre.asked) <= 7 * 24 * 30 + 20  # every two minutes, after the first tries
    site.centre.silent = False
    site.pass_minutes(11)
    said = site.centre.reports[-1]["models"][0]
    assert (said["phase"], said["serving"], said["healthy"]) == ("succeeded", "1", True)


def test_a_centre_that_comes_back_from_an_old_backup_takes_nothing_back(site: Site) -> None:
    wishes(site, epoch=1, generation=7)
    site.pass_minutes(1)
    held = site.world.board.desired()
    assert held is not None
    assert held.pair == (1, 7)
    site.centre.silent = True
    site.pass_minutes(WEEK_MINUTES, at_least=300.0)
    wishes(site, epoch=1, generation=3, number="2")
    site.centre.silent = False

    site.pass_minutes(60)

    site.check()
    assert site.world.board.desired() is held
    said = site.centre.reports[-1]["models"][0]
    assert (said["reason_code"], said["serving"]) == ("server-behind", "1")
    assert "generation 3 of epoch 1, this site holds 7 of 1; was it restored?" in said["reason"]
    assert said["generation"] == 7

    wishes(site, epoch=2, generation=4)
    site.pass_minutes(1)
    assert site.world.board.desired() is not held
    assert site.centre.reports[-1]["models"][0]["reason_code"] == "ok"
    site.check()


def test_an_agent_that_starts_in_the_silence_serves_what_it_last_held(site: Site) -> None:
    site.centre.silent = True
    site.world.triton.restart()  # the power failed: nothing is loaded
    site.world.start()
    for _ in range(100):
        site.world.clock.now += site.world.loop.cycle()
    assert site.world.triton.ready("echo") == {"1"}


@pytest.mark.parametrize("utc", ["2024-11-23T13:12:00Z", "2028-11-23T13:12:00Z"])
def test_a_clock_that_is_two_years_off_changes_nothing(utc: str, site: Site) -> None:
    site.world.clock.utc = utc
    site.start_link()
    generation = 2
    two = make_version("2")
    site.world.publish(two)  # its files can be had
    document = {
        "epoch": 1, "generation": generation, "site": "edge-1",
        "models": list(site.world.wishes.values()),
    }  # fmt: skip
    site.centre.wishes = lambda: document
    for _ in range(200):
        site.link.step()
        site.world.clock.now += max(site.world.loop.cycle(), 0.1)
    assert site.world.triton.ready("echo") == {"2"}
    said = site.centre.reports[-1]
    assert (said["sent_at"], said["models"][0]["phase"]) == (utc, "succeeded")
    sessions = [path for _, path in site.centre.asked].count("session")
    assert sessions == 2  # the second by the new key that this centre asks for


def test_nothing_but_display_asks_for_the_time_of_day() -> None:
    """What is decided by it would go wrong with a dead battery. Each of these says why it may."""
    may = {
        "clock.py": "gives it",
        "systemd.py": "passes it on",
        "link.py": "`sent_at`, for people",
        "said.py": "what `status` shows",
        "measurement_queue.py": "how old a measurement of before a reboot is; else it is dropped",
        "downloads.py": "the hours of download windows, where a site has set some",
        "files.py": "the same",
    }
    asks = re.compile(r"time\.time\(|utc_text\(|datetime\.now|CLOCK_REALTIME|gmtime|localtime")
    # `doctor` decides nothing; it compares the two clocks.
    paths = {path for path in SOURCES.rglob("*.py") if path.parent.name != "doctor"}
    assert {path.name for path in paths if asks.search(path.read_text())} <= set(may)


class Cable:
    """Pulled after so many bytes of a file; whoever reads on finds nobody there."""

    def __init__(self, world: World, after_pieces: int) -> None:
        self.world = world
        self.left = after_pieces
        world.blobs.between_pieces = self.passes

    def passes(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.world.blobs.reachable = False
        if not self.world.blobs.reachable:
            raise Retryable("download-failed", "the centre stopped answering")


def test_a_cable_that_is_pulled_for_twenty_minutes_costs_no_more_than_that(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    big = make_version("2", extra={"weights.bin": bytes(range(256)) * 800})
    world.publish(big)
    Cable(world, after_pieces=100)
    until = world.clock.now + 20 * 60
    while world.clock.now < until:
        world.clock.now += max(world.loop.cycle(), 0.1)
        assert world.triton.ready("echo") == {"1"}
    report = world.report()
    assert report is not None
    assert (report.reason_code, report.serving) == ("download-failed", "1")

    world.blobs.reachable = True
    back_at = world.clock.now
    opened = len(world.blobs.opened)
    world.converge()

    assert world.triton.ready("echo") == {"2"}
    assert world.clock.now - back_at < 120.0
    offsets = [offset for _, offset in world.blobs.opened[opened:]]
    assert max(offsets) > 0  # it went on from where it was
