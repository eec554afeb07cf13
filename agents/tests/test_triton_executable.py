"""The opt-in to code in versions at a real site: given, taken away, and what that does to a Triton
that serves and is started anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from real_site import Site, Users, wait_until
from versions import make_version

pytestmark = [pytest.mark.triton, pytest.mark.timeout(120)]


def say(site: Site, allow: bool) -> None:
    """The operator of the site writes it into agent.toml."""
    said, other = (f"allow_executable = {str(word).lower()}" for word in (not allow, allow))
    text = site.config_path.read_text()
    site.config_path.write_text(text.replace(said, other))


def reported(site: Site) -> list[Any]:
    """What reports said of the opt-in, in their order."""
    said = [
        report["inventory"]["policy"] for report in site.centre.reports if "inventory" in report
    ]
    return [policy["allow_executable"] for policy in said]


def test_code_runs_only_while_the_site_says_so_and_what_serves_goes_on(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        say(site, allow=False)
        with site.agent():
            wished = site.centre.publish(make_version("1"))
            entry = site.centre.wait_for_phase("failed", wished)
        assert (entry["reason_code"], entry["serving"]) == ("executable-refused", None)
        assert site.index_states() == {}
        assert list(site.repository.iterdir()) == []
        assert set(reported(site)) == {False}

        say(site, allow=True)
        with site.agent():
            wished = site.centre.publish(make_version("1"))
            site.centre.wait_for_phase("succeeded", wished)
        assert reported(site)[-1] is True

        say(site, allow=False)
        with site.agent(), Users(site, pause_seconds=0.005) as users:
            refused = site.centre.publish(make_version("2"), previous="1")
            entry = site.centre.wait_for_phase("failed", refused)
        assert users.failures == []
        assert users.answers == {("1", 1.0)}
        assert (entry["reason_code"], entry["serving"]) == ("executable-refused", "1")

        with site.agent():
            site.triton.restart()
            wait_until(lambda: site.ask() == ("1", 1.0), "version 1 serves again")
