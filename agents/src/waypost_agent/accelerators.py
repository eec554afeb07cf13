"""The GPUs of this machine as NVIDIA's driver tells them. What it does not tell is left out.

Without a driver nobody could look, which is None and not "no GPU". The binding is not imported
before it is asked for: most of what it holds is of no use here.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

_log = logging.getLogger(__name__)

Accelerators = list[dict[str, Any]]
_Found = TypeVar("_Found")


_TEMPERATURE_OF_THE_GPU = 0  # NVML_TEMPERATURE_GPU


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """How a GPU fares now; `utilization` from 0 to 1, `energy_joules` since the driver started."""

    uuid: str
    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    temperature_celsius: float | None = None


def load_nvml() -> Any:
    return importlib.import_module("pynvml")


class Gpus:
    """Looks anew each time; each kind of failure is logged once in a process."""

    def __init__(self, load: Callable[[], Any] = load_nvml) -> None:
        self._load = load
        self._told: set[str] = set()

    def look(self) -> Accelerators | None:
        """Every GPU with its `uuid` and `name`, and what else is known; None: could not look."""
        with self._opened() as nvml:
            return None if nvml is None else self._try(lambda: self._look(nvml))

    def read(self) -> list[GpuReading] | None:
        """How each GPU fares at this moment; None: could not look."""
        with self._opened() as nvml:
            return None if nvml is None else self._try(lambda: self._read_all(nvml))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            nvml = self._load()
            nvml.nvmlInit()
        except Exception as error:  # no driver, or one of another version
            self._tell(f"GPUs cannot be looked for: {error}")
            yield None
            return
        try:
            yield nvml
        finally:
            self._ask("its end", nvml.nvmlShutdown)

    def _try(self, look: Callable[[], _Found]) -> _Found | None:
        try:
            return look()
        except Exception as error:
            self._tell(f"the GPUs cannot be told: {error}")
            return None

    def _read_all(self, nvml: Any) -> list[GpuReading]:
        return [self._read_one(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]

    def _read_one(self, nvml: Any, index: int) -> GpuReading:
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = self._ask("GPU memory", lambda: nvml.nvmlDeviceGetMemoryInfo(device))
        rates = self._ask("GPU use", lambda: nvml.nvmlDeviceGetUtilizationRates(device))
        milliwatts = self._ask("GPU power", lambda: nvml.nvmlDeviceGetPowerUsage(device))
        millijoules = self._ask(
            "GPU energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device)
        )
        return GpuReading(
            uuid=_text(nvml.nvmlDeviceGetUUID(device), 80),
            utilization=None if rates is None else rates.gpu / 100,
            memory_used_bytes=None if memory is None else memory.used,
            memory_total_bytes=None if memory is None else memory.total or None,
            power_watts=None if milliwatts is None else milliwatts / 1000,
            energy_joules=None if millijoules is None else millijoules / 1000,
            temperature_celsius=self._ask(
                "GPU temperature",
                lambda: nvml.nvmlDeviceGetTemperature(device, _TEMPERATURE_OF_THE_GPU),
            ),
        )

    def _look(self, nvml: Any) -> Accelerators:
        driver = self._ask("the driver's version", nvml.nvmlSystemGetDriverVersion)
        return [self._describe(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())]

    def _describe(self, nvml: Any, index: int, driver: Any) -> dict[str, Any]:
        """Raises when it cannot even be named: a list without it would say it is not there."""
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = self._ask("GPU memory", lambda: nvml.nvmlDeviceGetMemoryInfo(device))
        capability = self._ask(
            "compute capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(device)
        )
        milliwatts = self._ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(device))
        known = {
            "memory_bytes": None if memory is None else memory.total or None,
            "compute_capability": None
            if capability is None
            else ".".join(str(part) for part in capability),
            "driver_version": None if driver is None else _text(driver, 32),
            "power_limit_watts": None if not milliwatts else milliwatts / 1000,
        }
        return {
            "uuid": _text(nvml.nvmlDeviceGetUUID(device), 80),
            "name": _text(nvml.nvmlDeviceGetName(device), 120),
            **{key: value for key, value in known.items() if value is not None},
        }

    def _ask(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:  # "not supported" is what many GPUs say to some questions
            self._tell(f"{what} is not reported: {error}")
            return None

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            _log.info("%s", sentence)


def _text(value: str | bytes, longest: int) -> str:
    """A longer one would have the whole report refused."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text[:longest]
