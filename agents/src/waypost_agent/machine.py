"""Looks at this machine and its server's files for what a version may ask of them.

Changes nothing and decides nothing; what cannot be learned is None.
"""

from __future__ import annotations

import logging
from pathlib import Path

from waypost_agent.accelerators import Gpus
from waypost_agent.clock import Clock
from waypost_agent.preflight import Gpu, Machine

_log = logging.getLogger(__name__)

_MEMINFO = Path("/proc/meminfo")
_KEPT_SECONDS = 2.0  # several models may ask in one look


class MachineFacts:
    """`backend_directory` None: nobody said where the server's backends lie."""

    def __init__(
        self,
        clock: Clock,
        *,
        backend_directory: Path | None,
        gpus: Gpus | None = None,
        meminfo: Path = _MEMINFO,
    ) -> None:
        self._clock = clock
        self._backend_directory = backend_directory
        self._gpus = Gpus() if gpus is None else gpus
        self._meminfo = meminfo
        self._seen: tuple[float, Machine] | None = None
        self._hardware: str | None = None

    def look(self) -> Machine:
        """Everything but the server's own version."""
        now = self._clock.monotonic()
        if self._seen is not None and now - self._seen[0] < _KEPT_SECONDS:
            return self._seen[1]
        free, total = memory_bytes(self._meminfo)
        machine = Machine(
            backends=self._backends(),
            gpus=self._describe_gpus(),
            memory_free_bytes=free,
            memory_total_bytes=total,
        )
        self._seen = (now, machine)
        return machine

    def used_bytes(self) -> tuple[int | None, int | None]:
        """Memory in use now, of the host and of all its GPUs."""
        free, total = memory_bytes(self._meminfo)
        host = None if free is None or total is None else total - free
        readings = self._gpus.read()
        used = [each.memory_used_bytes for each in readings or []]
        known = [each for each in used if each is not None]
        return host, sum(known) if known and len(known) == len(used) else None

    def hardware(self) -> str:
        """What a load is measured on, by name; it stays the same while this process lives."""
        if self._hardware is None:
            names = sorted(gpu.name for gpu in self.look().gpus or ())
            self._hardware = ", ".join(names) or "cpu"
        return self._hardware

    def _backends(self) -> frozenset[str] | None:
        if self._backend_directory is None:
            return None
        try:
            return frozenset(each.name for each in self._backend_directory.iterdir())
        except OSError as error:
            _log.warning("the server's backends cannot be listed: %s", error)
            return None

    def _describe_gpus(self) -> tuple[Gpu, ...] | None:
        found = self._gpus.look()
        if found is None:
            return None
        readings = {each.uuid: each for each in self._gpus.read() or []} if found else {}
        return tuple(
            Gpu(
                name=str(each["name"]),
                compute_capability=each.get("compute_capability"),
                driver=each.get("driver_version"),
                free_bytes=None
                if (reading := readings.get(each["uuid"])) is None
                or reading.memory_total_bytes is None
                or reading.memory_used_bytes is None
                else reading.memory_total_bytes - reading.memory_used_bytes,
                total_bytes=each.get("memory_bytes"),
            )
            for each in found
        )


def memory_bytes(meminfo: Path = _MEMINFO) -> tuple[int | None, int | None]:
    """`(available, total)` as Linux counts them: what a process can have without swapping."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return tuple(int(lines[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))  # type: ignore[return-value]
    except (OSError, KeyError, ValueError, IndexError):
        return None, None
