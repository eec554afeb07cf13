"""The GPUs of this machine as NVIDIA's driver tells them. What it does not tell is left out.

The binding (`nvidia-ml-py`) is optional and not imported before it is asked for: without it, or
without a driver, nobody could look, which is None and not "no GPU".
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

Accelerators = list[dict[str, Any]]


def load_nvml() -> Any:
    """The binding. Raises `ImportError` without it."""
    return importlib.import_module("pynvml")


class Gpus:
    """Looks anew each time; each kind of failure is logged once in a process."""

    def __init__(self, load: Callable[[], Any] = load_nvml) -> None:
        self._load = load
        self._told: set[str] = set()

    def look(self) -> Accelerators | None:
        """Every GPU with its `uuid` and `name`, and what else is known; None: could not look."""
        try:
            nvml = self._load()
        except ImportError:
            self._tell("no GPU is looked for: nvidia-ml-py is not installed")
            return None
        try:
            nvml.nvmlInit()
        except Exception as error:  # a missing library, a driver of another version, no device
            self._tell(f"GPUs cannot be looked for: {error}")
            return None
        try:
            return self._look(nvml)
        except Exception as error:
            self._tell(f"the GPUs cannot be told: {error}")
            return None
        finally:
            self._ask("its end", nvml.nvmlShutdown)

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
