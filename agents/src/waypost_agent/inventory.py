"""Facts about this host and its servers. What cannot be learned is None, never a guess nor a 0.

docs/agent-protocol.md names the keys.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from waypost_agent.accelerators import Accelerators, Gpus
from waypost_agent.config import ServerConfig

_MOST_NAMES = 64  # of extensions and of backends: a report has an end
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


def reported_facts(
    folders: Sequence[Path],
    *,
    download_bytes_per_second: float | None,
    round_trip_seconds: float | None,
) -> dict[str, Any]:
    """What a report carries; of several folders with models the fullest disk counts. The numbers
    are of the way to the centre, as measured."""
    facts = describe_host(min(folders, key=lambda folder: disk_bytes(folder)[1] or 0))
    network = {
        "download_bytes_per_second": download_bytes_per_second,
        "round_trip_seconds": round_trip_seconds,
    }
    return {**facts, "network": network}


def server_facts(
    server: ServerConfig, *, live: bool, version: str | None, extensions: frozenset[str] | None
) -> dict[str, Any]:
    """One Triton of the site. Its backends are known where its configuration says where they lie,
    its TensorRT where it says which one; its extensions while it answers."""
    return {
        "name": server.name,
        "live": live,
        "version": version,
        "http_url": server.triton.http_url,
        "models": None if server.models is None else list(server.models),
        "extensions": None if extensions is None else sorted(extensions)[:_MOST_NAMES],
        "backends": backends_in(server.triton.backend_directory),
        "tensorrt": server.triton.tensorrt_version,
    }


def backends_in(folder: Path | None) -> list[str] | None:
    """The folders of a backend directory, which are named as the backends are."""
    if folder is None:
        return None
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())[:_MOST_NAMES]
    except OSError:
        return None


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
