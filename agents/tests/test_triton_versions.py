"""Bad versions on a real Triton: what serves before, during and after, and what the centre is told.

Users ask over HTTP and over gRPC all the while. Who must not notice sees no failure at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from real_site import Site, Users, wait_until
from traffic import GrpcUsers
from versions import Version, make_streaming_version, make_version

pytestmark = [pytest.mark.triton, pytest.mark.timeout(180)]

PAUSE_SECONDS = 0.005


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all; each test brings a model of its own. A load call waits 0.5 s."""
    with (
        Site(tmp_path_factory.mktemp("site"), timeouts="load_timeout_seconds = 0.5") as site,
        site.agent(),
    ):
        yield site


def serve(site: Site, model: str) -> None:
    """Version 1 of the model serves."""
    generation = site.centre.publish(make_version("1", model=model), model=model)
    site.centre.wait_for_phase("succeeded", generation, model=model)


def bad_config(model: str, text: str) -> Version:
    good = make_version("2", model=model)
    return Version(number="2", files={**good.files, "config.pbtxt": text.encode()})


def one_of(model: str, **kind: Any) -> Version:
    return make_version("2", model=model, **kind)


# By name: the version, the code that reaches the centre, and words of its reason.
UNNOTICED = {
    "raises": (one_of("raises", raises=True), "load-failed", "this model cannot start"),
    "wrong": (one_of("wrong", answer=9.0, golden=2.0), "golden-mismatch", "is 9.0"),
    "slow": (
        one_of("slow", answer_seconds=0.2, max_latency_ms=100),
        "golden-mismatch",
        "the fastest of 3; at most 100 ms are allowed",
    ),
    "streamed-wrong": (
        make_streaming_version("2", model="streamed-wrong", answers=(1, 2, 4), golden=(1, 2, 3)),
        "golden-mismatch",
        "is 4.0",
    ),
    "streamed-less": (
        make_streaming_version("2", model="streamed-less", answers=(1, 2), golden=(1, 2, 3)),
        "golden-mismatch",
        "has the shape [2], expected is [3]",
    ),
    "streamed-nothing": (
        make_streaming_version("2", model="streamed-nothing", answers=(), golden=(1, 2, 3)),
        "candidate-failed",
        "ended its answer without a single response",
    ),
    "nobackend": (one_of("nobackend", backend="nonesuch"), "load-failed", "nonesuch"),
    "badconfig": (
        bad_config("badconfig", 'name: "badconfig"\nbackend: "python"\ninput [ oops\n'),
        "config-invalid",
        "config.pbtxt cannot be read",
    ),
    "badshape": (
        bad_config(
            "badshape",
            'name: "badshape"\nbackend: "python"\nmax_batch_size: 0\n'
            'input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
            'output [ { name: "z" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
            "instance_group [ { count: 1 kind: KIND_CPU } ]\n",
        ),
        "candidate-failed",
        "golden request 'one' was answered with an error",
    ),
    "slowbad": (
        one_of("slowbad", load_seconds=2.0, raises=True),
        "load-failed",
        "this model cannot start",
    ),
}


@pytest.mark.parametrize("model", UNNOTICED)
def test_a_bad_version_is_refused_and_no_user_notices(site: Site, model: str) -> None:
    version, code, words = UNNOTICED[model]
    serve(site, model)
    with (
        Users(site, model, PAUSE_SECONDS) as http,
        GrpcUsers(site.ports.grpc, model, PAUSE_SECONDS) as grpc,
    ):
        generation = site.centre.publish(version, model=model, previous="1", lease_required=True)
        entry = site.centre.wait_for_phase("failed", generation, model=model)
    assert (entry["reason_code"], entry["serving"], entry["healthy"]) == (code, "1", True)
    assert words in entry["reason"]
    for users in (http, grpc):
        assert users.failures == []
        assert users.answers == {("1", 1.0)}
        assert users.count > 10
    assert site.ask(model) == ("1", 1.0)


def test_a_version_that_answers_one_request_several_times_is_proven_and_serves(
    site: Site,
) -> None:
    serve(site, "streamed")
    version = make_streaming_version("2", model="streamed", answers=(1, 2, 3))
    generation = site.centre.publish(version, model="streamed", previous="1")
    entry = site.centre.wait_for_phase("succeeded", generation, model="streamed")
    assert (entry["serving"], entry["healthy"]) == ("2", True)
    assert "decoupled" in str(site.ask("streamed"))  # whoever asks for one answer


def test_a_version_whose_answer_never_ends_is_refused_by_time(tmp_path: Path) -> None:
    """Triton unloads it for ever, and so it waits on; what serves does not."""
    limits = "infer_timeout_seconds = 1\nunload_deadline_seconds = 4"
    with Site(tmp_path, timeouts=limits) as site, site.agent():
        serve(site, "endless")
        version = make_streaming_version("2", model="endless", answers=(1, 2, 3), ends=False)
        generation = site.centre.publish(version, model="endless", previous="1")
        entry = site.centre.wait_for_phase("failed", generation, model="endless")
        assert (entry["reason_code"], entry["serving"]) == ("candidate-failed", "1")
        assert "no end within 1 s" in entry["reason"]
        assert site.ask("endless") == ("1", 1.0)
        serve(site, "other")  # nothing else waits for it


def test_a_load_slower_than_its_call_takes_over_unnoticed(site: Site) -> None:
    serve(site, "late")
    with (
        Users(site, "late", PAUSE_SECONDS) as http,
        GrpcUsers(site.ports.grpc, "late", PAUSE_SECONDS) as grpc,
    ):
        version = make_version("2", model="late", load_seconds=2.0)
        generation = site.centre.publish(version, model="late", previous="1")
        entry = site.centre.wait_for_phase("succeeded", generation, model="late")
    assert entry["learned"]["load_seconds"] >= 2.0
    for users in (http, grpc):
        assert users.failures == []
        assert users.answers == {("1", 1.0), ("2", 2.0)}
    log = (site.folder / "triton.log").read_text()
    assert log.count("loading: late:2") == 1
    assert log.count("loading: late--candidate:2") == 1


@pytest.mark.parametrize("link", ["up", "down"])
def test_a_version_that_dies_under_its_users_is_taken_back_on_probation(
    site: Site, link: str
) -> None:
    """Triton calls it ready on; only its requests show it. What it costs is told with numbers."""
    model = f"mortal-{link}"
    serve(site, model)
    version = make_version("2", model=model, dies_after=100)
    rules = {"seconds": 60, "max_error_rate": 0.05, "min_requests": 20}
    with Users(site, model, 0.03) as users:  # slow enough that its golden requests come first
        generation = site.centre.publish(
            version, model=model, previous="1", lease_required=True, also={"probation": rules}
        )
        entry = site.centre.wait_for_phase("verifying", generation, model=model)
        assert (entry["serving"], entry["healthy"]) == ("2", True) or entry["healthy"] is None
        if link == "down":
            site.centre.sabotage.update(dict.fromkeys(("desired", "report"), cut))
        wait_until(lambda: site.ask(model) == ("1", 1.0), "version 1 is back", 60)
        site.centre.sabotage.clear()
        entry = site.centre.wait_for_phase("failed", generation, model=model, timeout_seconds=60)
        served = users.count
        wait_until(lambda: users.count > served + 20, "users go on")
    assert (entry["reason_code"], entry["serving"], entry["healthy"]) == (
        "probation-failed",
        "1",
        True,
    )
    assert "requests failed" in entry["reason"]
    assert "at most 5.0% may" in entry["reason"]
    assert users.answers == {("1", 1.0), ("2", 2.0)}
    assert site.ask(model) == ("1", 1.0)


def cut(handler: Any) -> bool:
    """The centre is there and answers nothing of use."""
    handler.send_json(503, {"code": "away"})
    return True


def test_a_version_that_dies_after_its_probation_is_reported_unhealthy(site: Site) -> None:
    """Nothing local takes it back then: the centre judges by health and error rate."""
    serve(site, "later")
    version = make_version("2", model="later", dies_after=30)
    generation = site.centre.publish(
        version, model="later", previous="1", also={"probation": {"seconds": 0}}
    )
    site.centre.wait_for_phase("succeeded", generation, model="later")
    with Users(site, "later", PAUSE_SECONDS) as users:
        wait_until(lambda: len(users.failures) > 5, "it dies")
    assert users.answers == {("2", 2.0)}
    assert isinstance(site.ask("later"), str)


def test_a_slow_answer_under_users_is_taken_back_on_probation(site: Site) -> None:
    serve(site, "dull")
    version = make_version("2", model="dull", answer_seconds=0.05)
    rules = {"seconds": 60, "max_mean_latency_ms": 20, "min_requests": 20}
    with (
        Users(site, "dull") as http,
        GrpcUsers(site.ports.grpc, "dull") as grpc,
    ):
        generation = site.centre.publish(
            version, model="dull", previous="1", also={"probation": rules}
        )
        entry = site.centre.wait_for_phase("failed", generation, model="dull")
    assert (entry["reason_code"], entry["serving"]) == ("probation-failed", "1")
    assert "ms on average, at most 20 ms" in entry["reason"]
    for users in (http, grpc):
        assert users.failures == []
        assert users.answers == {("1", 1.0), ("2", 2.0)}


def test_in_its_place_users_wait_no_longer_than_is_told(site: Site) -> None:
    serve(site, "placed")
    with Users(site, "placed", PAUSE_SECONDS) as users:
        generation = site.centre.publish(
            make_version("2", model="placed", load_seconds=0.5),
            model="placed",
            previous="1",
            also={"switch": "replace"},
        )
        entry = site.centre.wait_for_phase("succeeded", generation, model="placed")
        wait_until(lambda: ("2", 2.0) in users.answers, "it answers")
    assert "it did not answer for" in entry["reason"]
    told = float(entry["reason"].split("did not answer for ")[1].split(" s")[0])
    assert 1.0 < told < 30.0
    assert users.failures  # declared downtime is downtime
    assert users.answers == {("1", 1.0), ("2", 2.0)}


def test_what_somebody_loaded_by_hand_is_undone(site: Site) -> None:
    serve(site, "handmade")
    generation = site.centre.publish(make_version("2", model="handmade"), model="handmade",
                                     previous="1")  # fmt: skip
    site.centre.wait_for_phase("succeeded", generation, model="handmade")
    site.control("handmade", "1")
    wait_until(lambda: site.ask("handmade") == ("2", 2.0), "version 2 is back")
    site.control("handmade", None)
    wait_until(lambda: site.ask("handmade") == ("2", 2.0), "version 2 is back again")


def test_a_wrong_backend_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    backends = tmp_path / "backends"
    (backends / "python").mkdir(parents=True)
    with Site(tmp_path, triton=f'backend_directory = "{backends}"') as site, site.agent():
        serve(site, "plain")
        wrong = make_version("2", model="plain", backend="nonesuch")
        generation = site.centre.publish(wrong, model="plain", previous="1")
        entry = site.centre.wait_for_phase("failed", generation, model="plain")
        assert (entry["reason_code"], entry["serving"]) == ("backend-missing", "1")
        assert "it needs the backend nonesuch; this server has python" in entry["reason"]
        assert "loading: plain--candidate:2" not in (site.folder / "triton.log").read_text()
