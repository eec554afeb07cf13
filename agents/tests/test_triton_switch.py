"""Switching under load on a real Triton: twenty times forward and back, and nobody notices; and why
model control goes over gRPC."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from real_site import Site, Users, wait_until
from traffic import GrpcUsers
from versions import make_version
from waypost_agent.model_config import overlay
from waypost_agent.triton import PbtxtCodec

pytestmark = [pytest.mark.triton, pytest.mark.timeout(300)]

SWITCHES = 20


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_twenty_switches_forward_and_back_fail_no_request(site: Site) -> None:
    versions = [make_version(number, model="busy") for number in ("1", "2")]
    with site.agent(), ExitStack() as stack:
        first = site.centre.publish(versions[0], model="busy")
        site.centre.wait_for_phase("succeeded", first, model="busy")
        users: list[Users | GrpcUsers] = []
        for _ in range(2):
            users.append(stack.enter_context(Users(site, "busy", 0.002)))
            users.append(stack.enter_context(GrpcUsers(site.ports.grpc, "busy", 0.002)))
        for turn in range(SWITCHES):
            version = versions[(turn + 1) % 2]
            wished = site.centre.publish(version, model="busy", lease_required=True)
            entry = site.centre.wait_for_phase("succeeded", wished, model="busy")
            assert entry["serving"] == version.number
        stack.close()
    for each in users:
        assert each.failures == []
        assert each.answers == {("1", 1.0), ("2", 2.0)}
        assert each.count > 10 * SWITCHES


def test_a_load_over_http_stalls_requests_over_http_and_one_over_grpc_does_not(
    site: Site,
) -> None:
    """What one connection waits at most while a version takes 2 s to load. If Triton's HTTP server
    ever loads beside its requests, this fails and the reason for gRPC can be looked at anew."""
    for number in ("1", "2", "3"):
        folder = site.repository / "stalled" / number
        folder.mkdir(parents=True)
        version = make_version(number, model="stalled", load_seconds=2.0)
        (folder / "model.py").write_bytes(version.files["model.py"])
    (site.repository / "stalled" / "config.pbtxt").write_bytes(version.files["config.pbtxt"])
    site.control("stalled", "1")

    over_grpc = longest_gap(site, lambda: site.control("stalled", "2"))
    over_http = longest_gap(site, lambda: load_over_http(site, "3"))

    assert over_http > 1.5
    assert over_grpc < 1.0


def longest_gap(site: Site, load: Callable[[], None]) -> float:
    # As many as make sure that some share a thread of the server with the load.
    with ExitStack() as stack:
        users = [stack.enter_context(Users(site, "stalled", 0.002)) for _ in range(8)]
        # A load that is there first would get a thread of its own.
        wait_until(lambda: all(each.count > 5 for each in users), "every user is answered")
        load()
        stack.close()
    assert [each.failures for each in users] == [[]] * len(users)
    return max(each.longest_gap_seconds for each in users)


def load_over_http(site: Site, version: str) -> None:
    text = (site.repository / "stalled" / "config.pbtxt").read_text()
    config = overlay(PbtxtCodec().parse(text), name="stalled", version=version)
    secret = (site.folder / "secret").read_text().strip()
    connection = http.client.HTTPConnection("127.0.0.1", site.ports.http, timeout=30)
    body = json.dumps({"parameters": {"config": json.dumps(config)}})
    connection.request(
        "POST", "/v2/repository/models/stalled/load", body, {"x-waypost-triton": secret}
    )
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
