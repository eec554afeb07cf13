"""What the agent counts, and what it tells of it on loopback."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator

import pytest

from fake_centre import FakeCentre, Handler
from fake_triton import FakeClock
from waypost_agent import protocol as p
from waypost_agent.board import Snapshot, TritonStatus
from waypost_agent.centre import CentreProblem, CentreSilent
from waypost_agent.meter import MeasuredCentre, Meter
from waypost_agent.metrics import MetricsServer, metrics_text


def snapshot(*models: p.ModelReport, live: bool = True) -> Snapshot:
    return Snapshot(
        changes=1,
        observed=(1, 1),
        triton=TritonStatus(live=live, version="2.73.0"),
        models=models,
        refusal=None,
    )


def report(model: str, *, serving: str | None, healthy: bool | None) -> p.ModelReport:
    return p.ModelReport(
        model=model, generation=1, deployment=None, target="2", phase=p.VERIFYING,
        serving=serving, healthy=healthy, reason_code="golden-running", reason="why",
    )  # fmt: skip


def samples(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}


PHASE = 'model="vad",phase="verifying",reason_code="golden-running"'


def test_states_and_counts_are_told() -> None:
    meter = Meter(clock := FakeClock())
    meter.answered("report", 0.1)
    meter.answered("desired", 0.2)
    meter.downloaded(3 << 20, 2.0)
    meter.not_answered()
    meter.retried("vad", "download-failed")
    meter.retried("vad", "download-failed")
    clock.now += 7.0
    told = samples(metrics_text(snapshot(report("vad", serving="1", healthy=True)), meter.read()))
    expected = {
        "waypost_agent_last_contact_age_seconds": "7",
        "waypost_agent_round_trip_seconds": "0.2",
        "waypost_agent_download_bytes_per_second": "1572864",
        "waypost_agent_triton_live": "1",
        f"waypost_agent_model_phase{{{PHASE}}}": "1",
        'waypost_agent_model_serving{model="vad",version="1"}': "1",
        'waypost_agent_model_healthy{model="vad"}': "1",
        "waypost_agent_reports_total": "1",
        "waypost_agent_unanswered_calls_total": "1",
        'waypost_agent_retries_total{model="vad",reason_code="download-failed"}': "2",
        "waypost_agent_downloaded_bytes_total": "3145728",
    }
    assert {name: told.get(name) for name in expected} == expected
    assert [name for name in told if name.startswith("waypost_agent_up{")]


def test_what_is_not_known_has_no_line() -> None:
    text = metrics_text(
        snapshot(report("vad", serving=None, healthy=None), live=False), Meter(FakeClock()).read()
    )
    for name in ("contact_age", "round_trip", "bytes_per_second", "serving", "healthy"):
        assert name not in text
    assert samples(text)["waypost_agent_triton_live"] == "0"


def test_every_line_is_one_that_prometheus_reads() -> None:
    odd = report('a"b\\c\nd', serving="1", healthy=False)
    name, label = r"[a-z_]+", r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
    sample = re.compile(rf"{name}(?:\{{{label}(?:,{label})*\}})? [0-9.e+-]+")
    for line in metrics_text(snapshot(odd), Meter(FakeClock()).read()).splitlines():
        assert line.startswith("# ") or sample.fullmatch(line), line


def test_a_median_is_of_the_last_polls_alone() -> None:
    meter = Meter(FakeClock())
    for seconds in [90.0] * 20 + [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]:
        meter.answered("desired", seconds)
    assert meter.read().round_trip_seconds == 5.0


def test_a_short_download_says_nothing_of_the_link() -> None:
    meter = Meter(FakeClock())
    meter.downloaded(5000, 1.0)
    read = meter.read()
    assert (read.downloaded_bytes, read.download_bytes_per_second) == (5000, None)


# A centre whose answers are counted


@pytest.fixture
def meter() -> Meter:
    return Meter(FakeClock())


def measured(centre: FakeCentre, meter: Meter) -> MeasuredCentre:
    return MeasuredCentre(
        centre.url,
        ca_file=None,
        connect_timeout_seconds=5.0,
        read_timeout_seconds=5.0,
        meter=meter,
    )


def test_a_refusal_is_contact_and_silence_is_not(centre: FakeCentre, meter: Meter) -> None:
    client = measured(centre, meter)
    with pytest.raises(CentreProblem):
        client.post("report", {}, token="wps_wrong")
    assert meter.read().contact_age_seconds == 0.0

    def busy(handler: Handler) -> bool:
        handler.send(503, b"")
        return True

    centre.sabotage["desired"] = busy
    with pytest.raises(CentreSilent):
        client.get("desired", token="wps_wrong", headers={})
    read = meter.read()
    assert (read.unanswered, read.round_trip_seconds) == (1, None)


def test_the_bytes_of_a_download_are_counted_also_when_it_is_cut(
    centre: FakeCentre, meter: Meter
) -> None:
    client = measured(centre, meter)
    centre.session = "wps_1"
    centre.blobs["a" * 64] = b"x" * 500_000
    with client.stream("blobs/" + "a" * 64, token="wps_1", headers={}) as response:
        for _ in response.stream(100_000):
            pass
    assert meter.read().downloaded_bytes == 500_000
    with pytest.raises(InterruptedError):
        read_a_piece(client, "blobs/" + "a" * 64)
    assert 600_000 <= meter.read().downloaded_bytes < 1_000_000


def read_a_piece(client: MeasuredCentre, path: str) -> None:
    with client.stream(path, token="wps_1", headers={}) as response:
        next(response.stream(100_000))
        raise InterruptedError


# Loopback


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with MetricsServer(0, lambda: "waypost_agent_up 1\n") as server:
        yield server


def get(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.getheader("Content-Type")


def test_it_answers_for_metrics_and_nothing_else(server: MetricsServer) -> None:
    status, body, kind = get(server, "/metrics")
    assert (status, body) == (200, b"waypost_agent_up 1\n")
    assert (kind or "").startswith("text/plain; version=0.0.4")
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics", "POST")[0] == 501


def test_it_listens_on_loopback_alone(server: MetricsServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"
