"""Facts about this host for reports. What cannot be learned is None, never a guess."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Any


def describe_host(folder: Path) -> dict[str, Any]:
    """The inventory of a report; `folder` is where models are kept."""
    return {
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "disk_free_bytes": _disk_free_bytes(folder),
        "accelerators": None,
        "python": platform.python_version(),
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _disk_free_bytes(folder: Path) -> int | None:
    try:
        usage = os.statvfs(folder)
    except OSError:
        return None
    return usage.f_bavail * usage.f_frsize
