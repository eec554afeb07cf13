"""One site end to end: a real Triton, an agent as a process, a centre over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from real_site import Site, Users, wait_until
from versions import make_version
from waypost_agent.cli import main

pytestmark = [pytest.mark.triton, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that serves on; each test brings a model of its own."""
    with Site(tmp_path_factory.mktemp("site"), timeouts="load_timeout_seconds = 0.5") as site:
        yield site


def test_a_new_version_takes_over_without_a_failed_request(site: Site) -> None:
    one, two = make_version("1", model="smooth"), make_version("2", model="smooth")
    with site.agent():
        first = site.centre.publish(one, model="smooth")
        site.centre.wait_for_phase("succeeded", first, model="smooth")
        with Users(site, "smooth") as users:
            second = site.centre.publish(two, model="smooth", previous="1")
            entry = site.centre.wait_for_phase("succeeded", second, model="smooth")
    assert (entry["serving"], entry["healthy"], entry["reason_code"]) == ("2", True, "ok")
    assert users.failures == []
    assert users.answers == {("1", 1.0), ("2", 2.0)}
    assert users.count > 100
    assert users.longest_gap_seconds < 0.5
    config = (site.repository / "smooth" / "config.pbtxt").read_text()
    assert "versions: 2" in config


def test_wrong_answers_never_reach_a_user(site: Site) -> None:
    one = make_version("1", model="wrong")
    wrong = make_version("2", model="wrong", answer=9.0, golden=2.0)
    with site.agent():
        first = site.centre.publish(one, model="wrong")
        site.centre.wait_for_phase("succeeded", first, model="wrong")
        with Users(site, "wrong") as users:
            second = site.centre.publish(wrong, model="wrong", previous="1")
            entry = site.centre.wait_for_phase("failed", second, model="wrong")
    assert (entry["serving"], entry["healthy"]) == ("1", True)
    assert entry["reason_code"] == "golden-mismatch"
    assert "9.0" in entry["reason"]
    assert users.failures == []
    assert users.answers == {("1", 1.0)}


def test_a_version_that_cannot_start_fails_and_the_old_one_serves_on(site: Site) -> None:
    one = make_version("1", model="raising")
    raising = make_version("2", model="raising", raises=True)
    with site.agent():
        first = site.centre.publish(one, model="raising")
        site.centre.wait_for_phase("succeeded", first, model="raising")
        second = site.centre.publish(raising, model="raising", previous="1")
        entry = site.centre.wait_for_phase("failed", second, model="raising")
    assert (entry["reason_code"], entry["serving"]) == ("load-failed", "1")
    assert "this model cannot start" in entry["reason"]
    assert site.ask("raising") == ("1", 1.0)


def test_a_load_slower_than_the_call_is_watched_and_not_repeated(site: Site) -> None:
    slow = make_version("1", model="slow", load_seconds=2.0)  # the call itself waits 0.5 s
    with site.agent():
        wished = site.centre.publish(slow, model="slow")
        site.centre.wait_for_phase("succeeded", wished, model="slow")
    assert site.ask("slow") == ("1", 1.0)
    log = (site.folder / "triton.log").read_text()
    # Once as the candidate and once under its own name.
    assert log.count("successfully loaded 'slow--candidate'") == 1
    assert log.count("successfully loaded 'slow'") == 1


def test_a_first_version_that_fails_leaves_nothing_served(site: Site) -> None:
    two_faced = make_version("1", model="first", wrong_when_real=True)
    with site.agent():
        wished = site.centre.publish(two_faced, model="first")
        entry = site.centre.wait_for_phase("failed", wished, model="first")
    assert entry["serving"] is None
    assert isinstance(site.ask("first"), str)
    assert not (site.repository / "first" / "config.pbtxt").exists()


def test_a_rollback_needs_no_network(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        with site.agent():
            first = site.centre.publish(make_version("1"))
            site.centre.wait_for_phase("succeeded", first)
            second = site.centre.publish(make_version("2"), previous="1")
            site.centre.wait_for_phase("succeeded", second)
            site.centre.blobs.clear()
            asked = len(site.centre.requests)
            back = site.centre.publish(make_version("1"), with_blobs=False)
            site.centre.wait_for_phase("succeeded", back)
        assert site.ask() == ("1", 1.0)
        paths = [path for _, path, _ in site.centre.requests[asked:]]
        assert not [path for path in paths if path.startswith("blobs/")]


def test_a_site_without_its_centre_restores_what_it_served(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        with site.agent():
            site.centre.wait_for_phase("succeeded", site.centre.publish(make_version("1")))
        site.centre.close()
        site.triton.restart()
        assert isinstance(site.ask(), str)  # explicit mode: it starts empty
        with site.agent():
            wait_until(lambda: site.ask() == ("1", 1.0), "version 1 serves again")


def test_an_agent_waits_for_a_triton_that_is_not_running_yet(tmp_path: Path) -> None:
    with Site(tmp_path, start_triton=False) as site, site.agent():
        wished = site.centre.publish(make_version("1"))
        entry = site.centre.wait_for_phase("pending", wished)
        assert entry["reason_code"] == "triton-unreachable"
        assert (entry["serving"], entry["healthy"]) == (None, None)
        site.triton.start()
        site.triton.wait_live()
        site.centre.wait_for_phase("succeeded", wished)
        assert site.ask() == ("1", 1.0)


def test_a_triton_that_dies_while_loading_is_no_verdict_on_the_version(tmp_path: Path) -> None:
    with Site(tmp_path) as site, site.agent():
        first = site.centre.publish(make_version("1"))
        site.centre.wait_for_phase("succeeded", first)
        slow = make_version("2", load_seconds=3.0)
        second = site.centre.publish(slow, previous="1")
        wait_until(lambda: site.index_states().get("echo--candidate/2") == "LOADING", "it loads")
        site.triton.kill()
        entry = site.centre.wait_for_phase("pending", second)
        assert entry["reason_code"] == "triton-unreachable"
        site.triton.start()
        site.triton.wait_live()
        # The old version first: users must not wait for a proof.
        wait_until(lambda: site.ask() == ("1", 1.0), "version 1 serves while 2 is proven")
        site.centre.wait_for_phase("succeeded", second)
        assert site.ask() == ("2", 2.0)


def test_the_command_once_reconciles_and_status_tells(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(site.config_path)]
    site.centre.publish(make_version("1", model="manual"), model="manual")
    assert main(["once", "--dry-run", *config]) == 0
    assert re.search(r"^manual +1 +nothing +fetch version 1$", capfd.readouterr().out, re.MULTILINE)
    assert not (site.repository / "manual").exists()
    assert main(["once", *config]) in (0, 4)  # other tests' models may have failed here
    assert "manual: succeeded, serving 1" in capfd.readouterr().out
    assert main(["status", "--json", *config]) == 0
    (server,) = json.loads(capfd.readouterr().out)["servers"]
    told = {model["model"]: model for model in server["models"]}
    assert told["manual"]["serving"] == told["manual"]["committed"] == "1"
