"""An agent at peace beside a real Triton, and the loss of the process that talks to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_triton import FakeClock
from real_site import Site, Users, wait_until
from versions import make_version
from waypost_agent.config import load_config
from waypost_agent.errors import Retryable
from waypost_agent.server import make_remote
from waypost_agent.triton_remote import LINGER_SECONDS, RemoteTriton

pytestmark = [pytest.mark.triton, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), timeouts="load_timeout_seconds = 20") as site:
        yield site


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def triton(site: Site, clock: FakeClock) -> Iterator[RemoteTriton]:
    config = load_config(site.config_path)
    triton = make_remote(config, config.servers[0], clock)
    yield triton
    triton.close()


def make_peace(triton: RemoteTriton, clock: FakeClock) -> None:
    clock.now += LINGER_SECONDS + 1
    triton.index()
    assert triton.is_at_peace


def test_both_ways_to_look_say_the_same_of_a_real_triton(
    site: Site, triton: RemoteTriton, clock: FakeClock
) -> None:
    with site.agent():
        first = site.centre.publish(make_version("1"))
        site.centre.wait_for_phase("succeeded", first)
        bad = site.centre.publish(make_version("2", raises=True), previous="1")
        site.centre.wait_for_phase("failed", bad)
    by_grpc = triton.facts(), triton.index()
    assert {entry.state for entry in by_grpc[1]["echo"].values()} >= {"READY"}
    make_peace(triton, clock)
    assert (triton.facts(), triton.index()) == by_grpc
    assert triton.is_at_peace
    site.control("echo", None)
    wait_until(lambda: triton.index()["echo"]["1"].state == "UNAVAILABLE", "HTTP shows the unload")
    assert triton.is_at_peace


def test_a_triton_that_goes_and_comes_back_is_seen_as_such(
    site: Site, triton: RemoteTriton, clock: FakeClock
) -> None:
    make_peace(triton, clock)
    site.triton.kill()
    with pytest.raises(Retryable, match="Triton does not answer"):
        triton.facts()
    site.triton.start()
    site.triton.wait_live()
    wait_until(lambda: is_live(triton), "the agent sees it")
    make_peace(triton, clock)


def is_live(triton: RemoteTriton) -> bool:
    try:
        return bool(triton.facts().version)
    except Retryable:
        return False


def test_the_death_of_the_process_in_the_midst_of_a_load_costs_nothing(site: Site) -> None:
    with site.agent() as agent:
        assert agent.pid is not None
        first = site.centre.publish(make_version("1", model="late"), model="late")
        site.centre.wait_for_phase("succeeded", first, model="late")
        slow = make_version("2", model="late", load_seconds=3.0)
        with Users(site, "late") as users:
            second = site.centre.publish(slow, model="late", previous="1")
            for phase in ("proving", "activating"):
                site.centre.wait_for_phase(phase, second, model="late")
                wait_until(lambda: "LOADING" in site.index_states().values(), "it loads")
                (process,) = children_of(agent.pid)
                os.kill(process, signal.SIGKILL)
                wait_until(lambda: "LOADING" not in site.index_states().values(), "it is loaded")
            entry = site.centre.wait_for_phase("succeeded", second, model="late")
    assert (entry["serving"], users.failures) == ("2", [])
    log = (site.folder / "agent.log").read_text()
    assert log.count("late--candidate version 2 is still loading") == 1
    assert log.count("late version 2 is still loading") == 1


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
