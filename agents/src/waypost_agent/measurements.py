"""Measures the site every so often: what its Tritons did, how its GPUs fared. Sends nothing.

Decides what an interval is: from one look to the next, by the clock since boot, or longer while
nothing happens. A server that could not be looked at begins anew with the next look, since its
share of the time is not known.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from waypost_agent.accelerators import GpuReading
from waypost_agent.clock import Clock
from waypost_agent.deltas import model_deltas
from waypost_agent.measurement_queue import MeasurementQueue
from waypost_agent.triton_metrics import GpuGauges, Scrape

_log = logging.getLogger(__name__)

Look = Callable[[], Scrape | None]
QUIET_SECONDS = 300.0


class Collector:
    """`servers` gives a look at each Triton by name; `gpus` reads the driver, None without one."""

    def __init__(
        self,
        servers: Mapping[str, Look],
        gpus: Callable[[], list[GpuReading] | None],
        clock: Clock,
    ) -> None:
        self._servers = servers
        self._gpus = gpus
        self._clock = clock
        self._quiet_since: float | None = None  # nothing happened from then to the last look
        self._looked_at: float | None = None
        self._seen: dict[str, Scrape] = {}
        self._energy: dict[str, float] = {}

    def measure(self) -> list[dict[str, Any]]:
        """The intervals that ended with this look, oldest first, as docs/agent-protocol.md has
        them. Nothing the first time, as nothing is known of the time before; while nothing happens
        one interval of `QUIET_SECONDS` stands for many."""
        now, before = self._clock.boottime(), self._looked_at
        seen = {
            name: scrape for name, look in self._servers.items() if (scrape := look()) is not None
        }
        models = [
            entry
            for name, after in seen.items()
            if (known := self._seen.get(name)) is not None
            for entry in model_deltas(name, known, after)
        ]
        accelerators = self._accelerators(seen)
        self._looked_at, self._seen = now, seen
        if before is None or now <= before:
            return []
        quiet_since, self._quiet_since = self._quiet_since, None
        idle = [entry for entry in models if not entry["requests"]]
        if len(idle) == len(models) and not accelerators:
            since = before if quiet_since is None else quiet_since
            if now - since < QUIET_SECONDS:
                self._quiet_since = since
                return []
            return [self._interval(since, now, models, [])]
        busy = self._interval(before, now, models, accelerators)
        if quiet_since is None:
            return [busy]
        return [self._interval(quiet_since, before, [], []), busy]

    def _interval(
        self,
        since: float,
        until: float,
        models: list[dict[str, Any]],
        accelerators: list[dict[str, Any]],
    ) -> dict[str, Any]:
        return {
            "boot_id": self._clock.boot_id(),
            # Rises with every interval since boot, also over a restart of the agent.
            "seq": int(until * 1000),
            "from_uptime": round(since, 3),
            "to_uptime": round(until, 3),
            "seconds": round(until - since, 3),
            "models": models,
            "accelerators": accelerators,
        }

    def _accelerators(self, seen: Mapping[str, Scrape]) -> list[dict[str, Any]]:
        """By the driver, else by what Triton says; what neither says is left out."""
        readings = {reading.uuid: reading for reading in self._gpus() or ()}
        gauges = {uuid: gauge for scrape in seen.values() for uuid, gauge in scrape.gpus.items()}
        energy: dict[str, float] = {}
        entries = []
        for uuid in sorted(readings.keys() | gauges.keys()):
            known = _known(readings.get(uuid), gauges.get(uuid))
            if (total := known.pop("energy_joules", None)) is not None:
                energy[uuid] = total
                before = self._energy.get(uuid)
                if before is not None and total >= before:
                    known["energy_joules"] = round(total - before, 1)
            entries.append({"uuid": uuid, **known})
        self._energy = energy
        return entries


def _known(reading: GpuReading | None, gauge: GpuGauges | None) -> dict[str, Any]:
    by_triton = {} if gauge is None else vars(gauge)
    by_driver = {} if reading is None else vars(reading)
    values: dict[str, Any] = {}
    for key in (
        "utilization",
        "memory_used_bytes",
        "memory_total_bytes",
        "power_watts",
        "energy_joules",
        "temperature_celsius",
    ):
        value = by_driver.get(key)
        if value is None:
            value = by_triton.get(key)
        if value is not None:
            values[key] = value
    return values


class Measuring:
    """Measures in a thread of its own: a server that hangs must hold up neither serving nor the
    talk with the centre."""

    def __init__(
        self, collector: Collector, queue: MeasurementQueue, *, every_seconds: float
    ) -> None:
        self._collector = collector
        self._queue = queue
        self._every_seconds = every_seconds
        self._stopping = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="measure", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def turn(self) -> None:
        """One measurement. Whatever is wrong with it is logged and costs this interval alone."""
        try:
            for interval in self._collector.measure():
                self._queue.put(interval)
        except Exception as error:
            _log.warning("an interval was not measured: %s", error, exc_info=True)

    def _run(self) -> None:
        self.turn()
        while not self._stopping.wait(self._every_seconds):
            self.turn()
