"""Reads Triton's metrics: what it counted for each version, and what it knows of GPUs.

Decides what a line means. What is not reported is None or absent, never 0: GPU families need DCGM
and are missing on Jetson and on builds without GPUs. Success and time series begin anew at each
load and vanish with an unload; failure series stay. What follows from a count is not known here.
"""

from __future__ import annotations

import http.client
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_log = logging.getLogger(__name__)

MAX_BYTES = 16 << 20
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

_COUNTS = {
    "nv_inference_request_success": "succeeded",
    "nv_inference_count": "inference_count",
    "nv_inference_exec_count": "exec_count",
    "nv_inference_request_duration_us": "request_us",
    "nv_inference_queue_duration_us": "queue_us",
    "nv_inference_compute_input_duration_us": "compute_input_us",
    "nv_inference_compute_infer_duration_us": "compute_infer_us",
    "nv_inference_compute_output_duration_us": "compute_output_us",
}
_FAILURES = "nv_inference_request_failure"
_PENDING = "nv_inference_pending_request_count"
_LOAD_SECONDS = "nv_model_load_duration_secs"
_LATENCY_BUCKETS = "nv_inference_first_response_histogram_ms_bucket"
_LATENCY_SUM = "nv_inference_first_response_histogram_ms_sum"
_GPU = {
    "nv_gpu_utilization": "utilization",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_gpu_power_usage": "power_watts",
    "nv_gpu_power_limit": "power_limit_watts",
    "nv_energy_consumption": "energy_joules",
}
_CPU_MEMORY = "nv_cpu_memory_used_bytes"


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Time to the first response. `counts` has one more than `bounds` (in ms): those above all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_ms: float


@dataclass(frozen=True, kw_only=True)
class ModelCounts:
    """One version since it was loaded, but `failures` (by reason) since the server started."""

    succeeded: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    inference_count: int = 0
    exec_count: int = 0
    request_us: int = 0
    queue_us: int = 0
    compute_input_us: int = 0
    compute_infer_us: int = 0
    compute_output_us: int = 0
    pending: int | None = None
    load_seconds: float | None = None
    latency_ms: Histogram | None = None


@dataclass(frozen=True, kw_only=True)
class GpuGauges:
    """`utilization` from 0 to 1; `energy_joules` since the driver started."""

    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """One look. `models` by (model, version), `gpus` by UUID."""

    models: Mapping[tuple[str, str], ModelCounts]
    gpus: Mapping[str, GpuGauges]
    cpu_memory_used_bytes: int | None = None


class TritonMetrics:
    """Asks one server. The answer is read whole, within a time and a size."""

    def __init__(self, url: str, *, timeout_seconds: float = 2.0) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path = parts.path or "/metrics"
        self._timeout_seconds = timeout_seconds
        self._was_told = False

    def scrape(self) -> Scrape | None:
        """What the server counts now, None when it cannot be read."""
        connection = http.client.HTTPConnection(
            self._host, self._port, timeout=self._timeout_seconds
        )
        try:
            connection.request("GET", self._path)
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES)
            if answer.status != 200:
                raise OSError(f"it answers {answer.status}")
        except (OSError, http.client.HTTPException) as error:
            if not self._was_told:
                address = f"{self._host}:{self._port}{self._path}"
                _log.warning("Triton's metrics at %s cannot be read: %s", address, error)
            self._was_told = True
            return None
        finally:
            connection.close()
        self._was_told = False
        return parse_metrics(body.decode(errors="replace"))


def parse_metrics(text: str) -> Scrape:
    """A whole answer. Lines that are not understood are passed over."""
    models: defaultdict[tuple[str, str], _Sums] = defaultdict(_Sums)
    gpus: defaultdict[str, dict[str, float]] = defaultdict(dict)
    cpu_memory: int | None = None
    for name, labels, value in _samples(text.splitlines()):
        if name in _GPU and (uuid := labels.get("gpu_uuid")):
            gpus[uuid][_GPU[name]] = value
        elif name == _CPU_MEMORY:
            cpu_memory = int(value)
        elif (model := labels.get("model")) and (version := labels.get("version")):
            models[model, version].add(name, labels, value)
    return Scrape(
        models={key: sums.counts() for key, sums in models.items() if sums.is_known},
        gpus={uuid: _gauges(values) for uuid, values in gpus.items()},
        cpu_memory_used_bytes=cpu_memory,
    )


class _Sums:
    """The series of one version, added up over labels that nobody asked for (`metric_tags`)."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, float] = defaultdict(float)
        self._failures: defaultdict[str, int] = defaultdict(int)
        self._buckets: defaultdict[float, int] = defaultdict(int)

    @property
    def is_known(self) -> bool:
        return bool(self._numbers or self._failures or self._buckets)

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        if name == _FAILURES:
            self._failures[labels.get("reason", "OTHER")] += int(value)
        elif name == _LATENCY_BUCKETS:
            if (bound := _number(labels.get("le", ""))) is not None:
                self._buckets[bound] += int(value)
        elif name in _COUNTS or name in (_PENDING, _LOAD_SECONDS, _LATENCY_SUM):
            self._numbers[name] += value

    def counts(self) -> ModelCounts:
        numbers = self._numbers
        return ModelCounts(
            failures=dict(self._failures),
            pending=int(numbers[_PENDING]) if _PENDING in numbers else None,
            load_seconds=numbers.get(_LOAD_SECONDS),
            latency_ms=self._histogram(),
            **{key: int(numbers[name]) for name, key in _COUNTS.items() if name in numbers},
        )

    def _histogram(self) -> Histogram | None:
        if math.inf not in self._buckets:
            return None
        bounds = sorted(self._buckets)
        total, counts = 0, []
        for bound in bounds:  # Prometheus counts each bucket with all below it
            counts.append(max(self._buckets[bound] - total, 0))
            total = max(self._buckets[bound], total)
        return Histogram(
            bounds=tuple(bounds[:-1]),
            counts=tuple(counts),
            sum_ms=self._numbers.get(_LATENCY_SUM, 0.0),
        )


def _gauges(values: Mapping[str, float]) -> GpuGauges:
    whole = {"memory_used_bytes", "memory_total_bytes"}
    return GpuGauges(
        **{key: int(value) if key in whole else value for key, value in values.items()}  # type: ignore[arg-type]
    )


def _samples(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in lines:
        if line.startswith("#") or (match := _SAMPLE.fullmatch(line)) is None:
            continue
        value = _number(match[3])
        if value is None or not math.isfinite(value) or value < 0:
            continue
        yield match[1], _labels(match[2] or ""), value


def _labels(text: str) -> dict[str, str]:
    return {
        name: re.sub(r'\\[\\"n]', lambda escape: _ESCAPES[escape[0]], value)
        for name, value in _LABEL.findall(text)
    }


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value
