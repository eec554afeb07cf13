"""What is measured of a real Triton is what users did, also over switches and restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_triton import FakeClock
from real_site import Site, Users, wait_until
from versions import make_version
from waypost_agent.clock import SystemClock
from waypost_agent.measurement_queue import MeasurementQueue
from waypost_agent.measurements import Collector
from waypost_agent.triton_metrics import TritonMetrics

pytestmark = [pytest.mark.triton, pytest.mark.timeout(120)]


class Meter:
    """Looks at the site's Triton as its agent would, whenever the test says so."""

    def __init__(self, site: Site) -> None:
        url = f"http://127.0.0.1:{site.ports.metrics}/metrics"
        self.collector = Collector({"": TritonMetrics(url).scrape}, lambda: None, SystemClock())
        self.collector.measure()

    def requests(self) -> dict[str, int]:
        """By `model/version`, since it was asked last; golden requests counted in."""
        entries = [e for interval in self.collector.measure() for e in interval["models"]]
        return {f"{e['model']}/{e['version']}": e["requests"] for e in entries}


def test_requests_are_counted_once_over_a_switch_back_and_a_restart(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        meter = Meter(site)
        with site.agent():
            first = site.centre.publish(make_version("1"))
            site.centre.wait_for_phase("succeeded", first)
            meter.requests()  # the golden requests of the proof

            with Users(site) as users:
                pass_some(users)
            assert meter.requests() == {"echo/1": users.count}
            assert meter.requests() == {}

            second = site.centre.publish(make_version("2"), previous="1")
            site.centre.wait_for_phase("succeeded", second)
            meter.requests()
            back = site.centre.publish(make_version("1"), previous="2")
            site.centre.wait_for_phase("succeeded", back)
            since_load = meter.requests()
            assert set(since_load) == {"echo/1"}
            assert since_load["echo/1"] < users.count  # it was loaded anew and counts from nothing

            site.triton.kill()
            assert meter.requests() == {}
            site.triton.start()
            site.triton.wait_live()
            # Not by a report: the last one from before the end may say the same.
            wait_until(lambda: site.index_states().get("echo/1") == "READY", "it serves again")
            meter.requests()
            with Users(site) as users:
                pass_some(users)
            assert meter.requests()["echo/1"] >= users.count - len(users.failures)


def pass_some(users: Users) -> None:
    wait_until(lambda: users.count >= 50, "50 requests")


def test_the_report_tells_what_triton_can_do(tmp_path: Path) -> None:
    with Site(tmp_path) as site, site.agent():
        report = site.centre.wait_for_report(
            lambda report: bool(report.get("inventory")) and bool(report["triton"]["live"])
        )
        (server,) = report["inventory"]["servers"]
        assert server["live"] is True
        assert server["version"] == report["triton"]["version"]
        assert "model_repository" in server["extensions"]
        assert set(report["inventory"]) >= {"disk_total_bytes", "booted_at", "network"}


def test_a_days_measurements_of_a_busy_site_stay_small(tmp_path: Path) -> None:
    """Ten versions and four GPUs, every minute: what is on the wire is what lies in the queue."""
    entry = json.loads(
        (Path(__file__).parents[2] / "docs/protocol/measurement-request.json").read_text()
    )
    clock = FakeClock()
    queue = MeasurementQueue(tmp_path, clock)
    queue.put(busy(entry, clock))
    (path,) = tmp_path.glob("*.gz")
    assert path.stat().st_size * 1440 < 2 << 20


def busy(entry: dict[str, Any], clock: FakeClock) -> dict[str, Any]:
    model, gpu = entry["models"][0], entry["accelerators"][0]
    models = [
        {**model, "model": f"m{n}", "requests": 614 * n + n, "queue_us": 61_017 * n, **{
            key: model[key] * n + 7919 * n for key in ("request_us", "compute_infer_us")
        }}
        for n in range(10)
    ]  # fmt: skip
    gpus = [{**gpu, "uuid": f"GPU-{n * 7919}", "power_watts": 51.5 + n} for n in range(4)]
    facts = {"boot_id": clock.boot_id(), "to_uptime": clock.boottime()}
    return {**entry, **facts, "models": models, "accelerators": gpus}
