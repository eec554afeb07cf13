"""Going back by hand at a real site: with its agent, without one, and always without the centre."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_centre import Handler
from real_site import Site, Users, wait_until
from versions import make_version
from waypost_agent.cli import main

pytestmark = [pytest.mark.triton, pytest.mark.timeout(120)]


def cut(handler: Handler) -> bool:
    """The question arrives, and no answer gets back."""
    handler.close_connection = True
    return True


def test_it_goes_back_under_load_and_the_centre_hears_of_it_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Site(tmp_path) as site:
        command = ["rollback", "echo", "--reason", "users complain"]
        config = ["--config", str(site.config_path)]
        with site.agent():
            for number in ("1", "2"):
                wished = site.centre.publish(make_version(number), previous="1")
                site.centre.wait_for_phase("succeeded", wished)
            site.centre.sabotage["report"] = cut
            with Users(site, pause_seconds=0.005) as users:
                assert main([*command, *config]) == 0
            assert users.failures == []
            assert users.answers <= {("1", 1.0), ("2", 2.0)}
            assert site.ask() == ("1", 1.0)
            assert main([*command, *config]) == 1  # there is nothing behind it
            assert "no verified version of echo before 1" in capfd.readouterr().err
            del site.centre.sabotage["report"]
            entry = site.centre.wait_for_phase("failed", wished)
        assert (entry["reason_code"], entry["serving"]) == ("rolled-back-locally", "1")
        assert "users complain" in entry["reason"]

        with site.agent():  # and a newer wish ends it
            wished = site.centre.publish(make_version("2"), previous="1")
            site.centre.wait_for_phase("succeeded", wished)

        # Without an agent the command does it itself; the next agent reports it.
        site.centre.sabotage["desired"] = cut
        assert main([*command, *config]) == 0
        wait_until(lambda: site.ask() == ("1", 1.0), "version 1 serves")
        del site.centre.sabotage["desired"]
        with site.agent():
            entry = site.centre.wait_for_phase("failed", wished)
        assert (entry["reason_code"], entry["serving"]) == ("rolled-back-locally", "1")
