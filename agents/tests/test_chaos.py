"""A whole roll-out over a bad network: whatever the line does, what served goes on serving, nothing
unverified is ever loaded, and when the line is good again the wish is fulfilled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos_proxy import ChaosProxy, Fault
from fake_centre import AGENT, SITE, TOKEN, FakeCentre
from versions import make_version
from waypost_agent.centre import Blobs, Centre
from waypost_agent.config import Timeouts
from waypost_agent.identity import Identity, Membership
from waypost_agent.link import Link
from world import World

OLD = make_version("1", extra={"weights.bin": random.Random(1).randbytes(90_000)})
NEW = make_version("2", extra={"weights.bin": random.Random(2).randbytes(90_000)})
PLACES: tuple[str | int, ...] = (0, 1, 12, "head", "body", "middle", "last")
FAULTS = [
    *(Fault(kind=kind, place=place) for kind in ("cut", "reset", "stall") for place in PLACES),
    *(Fault(kind=kind) for kind in ("refuse", "deaf", "portal", "redirect", "slow")),
]


class Site:
    """The real link and the real downloads of one agent; one thread, a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.identity = Identity(folder / "state")
        self.lines: list[Centre] = []
        self.link: Link | None = None

    def connect(self, url: str) -> None:
        """Speak over this line from now on, as after a change of the network."""
        world = self.world
        self.download_over(url)
        self.link = Link(
            self._line(url),
            self.identity,
            Membership(centre_url=url, agent=AGENT, site=SITE, poll_seconds=5.0, token_sha256="0"),
            world.board,
            inventory=lambda: {"hostname": "h"},
            clock=world.clock,
            uniform=lambda low, high: high,
            timeouts=Timeouts(),
        )

    def download_over(self, url: str) -> None:
        """An agent that starts and fetches files over this line."""
        world = self.world
        world.blobs = Blobs(  # type: ignore[assignment]
            self._line(url),
            token=lambda: world.board.token(),
            reject_token=lambda token: world.board.reject_token(token),
        )
        world.start()

    def turn(self) -> None:
        """What both threads do in one moment, and then the time until the next."""
        assert self.link is not None
        pause = self.link.step()
        if self.world.loop.cycle() > 0:  # nothing left to do here until the line or time brings it
            self.world.clock.now += min(pause, 60.0)

    def join(self, centre: FakeCentre) -> None:
        body = {
            "token": TOKEN,
            "public_key": self.identity.public_key(),
            "agent_version": "0",
            "hostname": "h",
        }
        self._line(centre.url).post("enrol", body)

    def close(self) -> None:
        for line in self.lines:
            line.close()

    def _line(self, url: str) -> Centre:
        line = Centre(url, ca_file=None, connect_timeout_seconds=1.0, read_timeout_seconds=0.4)
        self.lines.append(line)
        return line


@contextmanager
def serving_old(folder: Path, centre: FakeCentre) -> Iterator[Site]:
    site = Site(folder)
    centre.poll_seconds = 5.0
    try:
        site.join(centre)
        site.connect(centre.url)
        centre.publish(OLD)
        settle(site, "1")
        yield site
    finally:
        site.close()


def settle(site: Site, version: str, turns: int = 400) -> None:
    for _ in range(turns):
        site.turn()
        report = site.world.report()
        if report is not None and report.serving == version and report.phase == "succeeded":
            return
    raise AssertionError(f"not settled: {site.world.loop.reports()}")


def go_through(site: Site, centre: FakeCentre, faults: list[Fault]) -> None:
    """Roll out version 2 while the first connections meet these faults."""
    triton = site.world.triton
    with ChaosProxy(centre.port, faults) as proxy:
        site.connect(proxy.url)
        centre.publish(NEW, previous="1")
        for _ in range(600):
            site.turn()
            assert triton.ready("echo") & {"1", "2"}, "a model of ours went dark"
            report = site.world.report()
            if report is not None and (report.phase, report.serving) == ("succeeded", "2"):
                break
        else:
            raise AssertionError(f"not settled, {proxy.left} faults left: {report}")
        assert proxy.left < len(faults), "no fault was met"
    assert triton.unproven == []
    for name, data in NEW.files.items():
        if name not in ("config.pbtxt", "golden.json"):
            installed = site.world.folder / "repository/echo/2" / name
            assert installed.read_bytes() == data


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.place}")
def test_a_roll_out_survives(tmp_path: Path, centre: FakeCentre, fault: Fault) -> None:
    """The same fault several times: in the session, the poll, the reports and the downloads. Where
    a wait in real time ends it, fewer; a slow line is kept, so there are only two."""
    times = {"stall": 3, "deaf": 3, "slow": 2}.get(fault.kind, 6)
    with serving_old(tmp_path, centre) as site:
        go_through(site, centre, [fault] * times)


@pytest.mark.parametrize("place", ["body", "middle", "last"])
def test_bytes_that_changed_on_the_way_are_never_installed(
    tmp_path: Path, centre: FakeCentre, place: str
) -> None:
    with serving_old(tmp_path, centre) as site:
        centre.publish(NEW, previous="1")
        assert site.link is not None
        site.link.poll()  # the wish is known; only files come over the bad line
        with ChaosProxy(centre.port, [Fault(kind="corrupt", place=place)]) as proxy:
            before = site.world.board
            held, token = before.desired(), before.token()
            assert held is not None
            site.download_over(proxy.url)
            site.world.board.offer(held)
            site.world.board.set_token(token)
            report = site.world.converge()
            assert proxy.left == 0
        assert report is not None
        assert (report.phase, report.serving) == ("succeeded", "2")
        assert site.world.triton.unproven == []


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_faults_ends_well(tmp_path: Path, centre: FakeCentre, seed: int) -> None:
    dice = random.Random(seed)
    with serving_old(tmp_path, centre) as site:
        go_through(site, centre, [dice.choice(FAULTS) for _ in range(15)])
