"""Facts about a host: what the driver does not say is left out, and never a 0."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from waypost_agent.accelerators import GpuReading, Gpus, load_nvml
from waypost_agent.config import ServerConfig, TritonConfig
from waypost_agent.inventory import booted_at, describe_host, reported_facts, server_facts
from waypost_agent.triton_floor import below_floor, floor_warning

REPORT = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "report-request.json"


class NoAnswer(Exception):
    """As the driver's binding raises."""


def say(value: Any) -> Callable[..., Any]:
    return lambda *_: value


def refuse(*_: object) -> Any:
    raise NoAnswer("Not Supported")


class FakeNvml:
    """One GPU that tells everything; `silent` names what it does not tell."""

    def __init__(self, *silent: str, gpus: int = 1) -> None:
        answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlDeviceGetCount": gpus,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=16 << 30, used=3 << 30),
            "nvmlDeviceGetCudaComputeCapability": (8, 9),
            "nvmlDeviceGetEnforcedPowerLimit": 72_000,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=62, memory=20),
            "nvmlDeviceGetPowerUsage": 51_500,
            "nvmlDeviceGetTotalEnergyConsumption": 7_200_000,
            "nvmlDeviceGetTemperature": 48,
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetName": b"NVIDIA L4",
        }
        for name, value in answers.items():
            setattr(self, name, refuse if name in silent else say(value))


def look(*silent: str, gpus: int = 1) -> Any:
    return Gpus(lambda: FakeNvml(*silent, gpus=gpus)).look()


def test_a_gpu_is_described_whole() -> None:
    assert look() == [
        {
            "uuid": "GPU-1",
            "name": "NVIDIA L4",
            "memory_bytes": 16 << 30,
            "compute_capability": "8.9",
            "driver_version": "580.65.06",
            "power_limit_watts": 72.0,
        }
    ]


@pytest.mark.parametrize(
    ("silent", "key"),
    [
        ("nvmlDeviceGetMemoryInfo", "memory_bytes"),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability"),
        ("nvmlSystemGetDriverVersion", "driver_version"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
    ],
)
def test_what_a_gpu_does_not_tell_is_left_out(silent: str, key: str) -> None:
    (gpu,) = look(silent)
    assert key not in gpu
    assert len(gpu) == 5


def test_a_name_without_end_does_not_cost_the_report() -> None:
    nvml = FakeNvml()
    nvml.nvmlDeviceGetName = say("x" * 5000)  # type: ignore[attr-defined]
    seen = Gpus(lambda: nvml).look()
    assert seen is not None
    assert len(seen[0]["name"]) == 120


def test_no_gpu_is_another_thing_than_not_looking() -> None:
    def missing() -> Any:
        raise ImportError("No module named 'pynvml'")

    assert look(gpus=0) == []
    assert Gpus(missing).look() is None
    for silent in ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetUUID", "nvmlDeviceGetName"):
        assert look(silent) is None, silent


def test_a_gpu_is_read_whole() -> None:
    assert Gpus(FakeNvml).read() == [
        GpuReading(
            uuid="GPU-1",
            utilization=0.62,
            memory_used_bytes=3 << 30,
            memory_total_bytes=16 << 30,
            power_watts=51.5,
            energy_joules=7200.0,
            temperature_celsius=48,
        )
    ]


@pytest.mark.parametrize(
    ("silent", "keys"),
    [
        ("nvmlDeviceGetUtilizationRates", {"utilization"}),
        ("nvmlDeviceGetMemoryInfo", {"memory_used_bytes", "memory_total_bytes"}),
        ("nvmlDeviceGetPowerUsage", {"power_watts"}),
        ("nvmlDeviceGetTotalEnergyConsumption", {"energy_joules"}),
        ("nvmlDeviceGetTemperature", {"temperature_celsius"}),
    ],
)
def test_what_a_gpu_does_not_measure_is_unknown(silent: str, keys: set[str]) -> None:
    (reading,) = Gpus(lambda: FakeNvml(silent)).read() or []
    assert {key for key, value in vars(reading).items() if value is None} == keys


def test_without_a_driver_nothing_can_be_read() -> None:
    """With the real binding: this fails where the library that is asked for is another one."""
    for look in (Gpus(lambda: FakeNvml("nvmlInit")).read, Gpus(lambda: FakeNvml("nvmlInit")).look):
        assert look() is None
    assert load_nvml().NVML_TEMPERATURE_GPU == 0
    for name in vars(FakeNvml()):
        assert hasattr(load_nvml(), name), name


def test_each_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus(lambda: FakeNvml("nvmlInit", "nvmlShutdown"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            gpus.look()
    assert len(caplog.records) == 1


def test_a_host_is_described_and_a_report_carries_what_the_protocol_names(tmp_path: Path) -> None:
    facts = describe_host(tmp_path, lambda: None)
    assert facts["accelerators"] is None
    assert facts["disk_total_bytes"] > facts["disk_free_bytes"] > 0
    assert facts["memory_bytes"] > 1 << 20
    reported = reported_facts([tmp_path], download_bytes_per_second=2e6, round_trip_seconds=None)
    assert set(reported) == {*facts, "network"}
    assert reported["network"] == {"download_bytes_per_second": 2e6, "round_trip_seconds": None}


def test_a_triton_is_told_with_what_it_can_do(tmp_path: Path) -> None:
    for name in ("python", "onnxruntime"):
        (tmp_path / name).mkdir()
    (tmp_path / "README").write_text("no backend")
    triton = TritonConfig(
        repository=tmp_path, backend_directory=tmp_path, tensorrt_version="10.3.0"
    )
    server = ServerConfig(triton=triton, state_dir=tmp_path)
    seen = frozenset({"b", "a"})
    assert server_facts(server, live=True, version="2.51.0", extensions=seen) == {
        "name": "",
        "live": True,
        "version": "2.51.0",
        "http_url": triton.http_url,
        "models": None,
        "extensions": ["a", "b"],
        "backends": ["onnxruntime", "python"],
        "tensorrt": "10.3.0",
    }


def test_a_triton_is_told_in_the_documented_form() -> None:
    (documented,) = json.loads(REPORT.read_text())["inventory"]["servers"]
    triton = TritonConfig(repository=Path("/models"), tensorrt_version=documented["tensorrt"])
    server = ServerConfig(triton=triton, state_dir=Path("/state"))
    extensions = frozenset(documented["extensions"])
    assert server_facts(server, live=True, version="2.51.0", extensions=extensions) == documented


def test_what_a_triton_can_do_is_unknown_where_nobody_can_look(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "none"):
        triton = TritonConfig(repository=tmp_path, backend_directory=folder)
        server = ServerConfig(triton=triton, state_dir=tmp_path)
        told = server_facts(server, live=False, version=None, extensions=None)
        assert (told["extensions"], told["backends"], told["version"]) == (None, None, None)
        assert told["tensorrt"] is None


def test_a_disk_that_cannot_be_asked_is_unknown(tmp_path: Path) -> None:
    facts = describe_host(tmp_path / "none", lambda: None)
    assert (facts["disk_total_bytes"], facts["disk_free_bytes"]) == (None, None)


@pytest.mark.parametrize("text", ["", "btime x\n", "cpu 1 2\n", "btime 99999999999999999999\n"])
def test_an_unknown_start_of_the_machine_is_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    assert booted_at(tmp_path / "stat") is None
    assert booted_at(tmp_path / "none") is None


def test_the_start_of_this_machine_is_a_moment() -> None:
    moment = booted_at()
    assert moment is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment)


@pytest.mark.parametrize(
    ("version", "below"),
    [
        ("2.51.0", True),
        ("2.69.9", True),
        ("2.70.0", False),
        ("2.100.1", False),
        ("3.0.0", False),
        ("1.99.0", True),
        ("2.70.0dev", False),
        ("2.70dev", False),
        ("nightly", None),
        ("", None),
        (None, None),
    ],
)
def test_the_floor_is_compared_as_numbers(version: str | None, below: bool | None) -> None:
    assert below_floor(version) is below
    assert (floor_warning(version) is None) is (below is not True)
