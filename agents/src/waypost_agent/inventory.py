"""Facts about this host. What cannot be learned is None, never a guess and never 0.

Decides which of them a report carries; docs/agent-protocol.md names those keys.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from waypost_agent.accelerators import Accelerators, Gpus

_REPORTED = (
    "hostname",
    "cpu_count",
    "memory_bytes",
    "disk_free_bytes",
    "accelerators",
    "python",
)
_gpus = Gpus()


def describe_host(
    folder: Path, look_for_gpus: Callable[[], Accelerators | None] = _gpus.look
) -> dict[str, Any]:
    """Everything known of this host; `folder` is where models are kept."""
    total, free = disk_bytes(folder)
    return {
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "disk_total_bytes": total,
        "disk_free_bytes": free,
        "booted_at": booted_at(),
        "accelerators": look_for_gpus(),
        "python": platform.python_version(),
    }


def reported_facts(folder: Path) -> dict[str, Any]:
    """What of it a report carries."""
    facts = describe_host(folder)
    return {key: facts[key] for key in _REPORTED}


def _memory_bytes() -> int | None:
    """The machine's; Triton's share of it is not this process's to know."""
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    return size if size > 0 else None


def disk_bytes(folder: Path) -> tuple[int | None, int | None]:
    """`(total, free for an ordinary user)` of the file system of `folder`."""
    try:
        usage = os.statvfs(folder)
    except OSError:
        return None, None
    return usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize


def booted_at(stat: Path = Path("/proc/stat")) -> str | None:
    """By this machine's clock of the day, for display only."""
    try:
        lines = dict(line.split(" ", 1) for line in stat.read_text().splitlines() if " " in line)
        moment = datetime.fromtimestamp(int(lines["btime"]), UTC)
    except (OSError, KeyError, ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
