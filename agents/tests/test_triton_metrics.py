"""Triton's metrics as text: what it says, what it leaves out, what it should not say."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from waypost_agent.triton_metrics import (
    GpuGauges,
    Histogram,
    ModelCounts,
    TritonMetrics,
    parse_metrics,
)

TEXT = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="vad",version="1"} 40
nv_inference_request_success{model="vad",version="2"} 7
nv_inference_request_failure{model="vad",reason="OTHER",version="1"} 2
nv_inference_request_failure{model="vad",reason="BACKEND",version="1"} 3
nv_inference_request_failure{model="vad",reason="CANCELED",version="1"} 0
nv_inference_count{model="vad",version="1"} 80
nv_inference_exec_count{model="vad",version="1"} 20
nv_inference_request_duration_us{model="vad",version="1"} 123456
nv_inference_queue_duration_us{model="vad",version="1"} 1000
nv_inference_compute_input_duration_us{model="vad",version="1"} 200
nv_inference_compute_infer_duration_us{model="vad",version="1"} 3000
nv_inference_compute_output_duration_us{model="vad",version="1"} 100
nv_inference_pending_request_count{model="vad",version="1"} 4
nv_model_load_duration_secs{model="vad",version="1"} 1.25
nv_inference_first_response_histogram_ms_count{model="vad",version="1"} 42
nv_inference_first_response_histogram_ms_sum{model="vad",version="1"} 310.5
nv_inference_first_response_histogram_ms_bucket{model="vad",version="1",le="1"} 10
nv_inference_first_response_histogram_ms_bucket{model="vad",version="1",le="10"} 40
nv_inference_first_response_histogram_ms_bucket{model="vad",version="1",le="+Inf"} 42
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 2147483648
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 8589934592
nv_gpu_power_usage{gpu_uuid="GPU-1"} 71.5
nv_energy_consumption{gpu_uuid="GPU-1"} 12345.5
nv_cpu_memory_used_bytes 1000000
nv_something_new{model="vad",version="1"} 5
"""


def test_every_family_that_is_known_is_read() -> None:
    scrape = parse_metrics(TEXT)
    assert scrape.models["vad", "1"] == ModelCounts(
        succeeded=40,
        failures={"OTHER": 2, "BACKEND": 3, "CANCELED": 0},
        inference_count=80,
        exec_count=20,
        request_us=123456,
        queue_us=1000,
        compute_input_us=200,
        compute_infer_us=3000,
        compute_output_us=100,
        pending=4,
        load_seconds=1.25,
        latency_ms=Histogram(bounds=(1.0, 10.0), counts=(10, 30, 2), sum_ms=310.5),
    )
    assert scrape.gpus == {
        "GPU-1": GpuGauges(
            utilization=0.5,
            memory_used_bytes=2147483648,
            memory_total_bytes=8589934592,
            power_watts=71.5,
            energy_joules=12345.5,
        )
    }
    assert scrape.cpu_memory_used_bytes == 1000000


def test_what_is_not_reported_is_absent_and_not_zero() -> None:
    scrape = parse_metrics('nv_inference_request_success{model="vad",version="2"} 7\n')
    found = scrape.models["vad", "2"]
    assert (found.succeeded, found.pending, found.load_seconds) == (7, None, None)
    assert (found.latency_ms, scrape.gpus, scrape.cpu_memory_used_bytes) == (None, {}, None)


def test_a_version_that_was_unloaded_keeps_only_its_failures() -> None:
    text = 'nv_inference_request_failure{model="vad",reason="BACKEND",version="1"} 3\n'
    assert parse_metrics(text).models["vad", "1"] == ModelCounts(failures={"BACKEND": 3})


def test_labels_that_nobody_asked_for_are_added_up() -> None:
    text = (
        'nv_inference_request_success{model="vad",namespace="a",version="1"} 2\n'
        'nv_inference_request_success{model="vad",namespace="b",version="1"} 3\n'
    )
    assert parse_metrics(text).models["vad", "1"].succeeded == 5


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        'nv_inference_request_success{model="vad",version="1"}',
        'nv_inference_request_success{model="vad",version="1"} NaN',
        'nv_inference_request_success{model="vad",version="1"} -5',
        'nv_inference_request_success{model="vad",version="1"} +Inf',
        'nv_inference_request_success{model="vad",version="1"} many',
        'nv_inference_request_success{model="vad"} 5',
        "nv_inference_request_success 5",
        'nv_inference_first_response_histogram_ms_bucket{model="vad",version="1",le="x"} 5',
        'nv_gpu_utilization{gpu_uuid=""} 1',
        "{}" * 100,
    ],
)
def test_a_line_that_makes_no_sense_is_passed_over(line: str) -> None:
    scrape = parse_metrics(f"{line}\n")
    assert scrape.models == {}
    assert scrape.gpus == {}


def test_a_quote_or_a_comma_in_a_label_does_not_shift_the_others() -> None:
    text = 'nv_inference_request_success{model="a\\"b,version=\\"9",version="1"} 5 1700000000\n'
    assert list(parse_metrics(text).models) == [('a"b,version="9', "1")]


@contextmanager
def serving(status: int, body: bytes) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_is_asked_over_http() -> None:
    with serving(200, TEXT.encode()) as url:
        scrape = TritonMetrics(url).scrape()
    assert scrape is not None
    assert scrape.models["vad", "2"].succeeded == 7


def test_a_server_that_refuses_or_is_gone_has_no_counts() -> None:
    with serving(500, b"no") as url:
        metrics = TritonMetrics(url)
        assert metrics.scrape() is None
    assert metrics.scrape() is None
