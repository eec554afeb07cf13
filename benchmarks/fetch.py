"""One download by the agent's own downloader, in a process of its own; prints what it took.

The plan on stdin: url, token, path, folder, size, sha256, chunks, connections.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waypost_agent.centre import Blobs, Centre
from waypost_agent.clock import SystemClock
from waypost_agent.download import Downloader
from waypost_agent.held import Held
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile

from benchmarks.processes import peak_mib


def fetch(plan: dict[str, Any]) -> dict[str, float]:
    """Wall and CPU seconds of the download alone, and the most memory of this process."""
    file = ManifestFile(
        path="model.bin", size=plan["size"], sha256=plan["sha256"], chunks=tuple(plan["chunks"])
    )
    folder = Path(plan["folder"])
    line = Centre(plan["url"], ca_file=None, connect_timeout_seconds=5.0, read_timeout_seconds=30.0)
    downloader = Downloader(
        Blobs(line, token=lambda: plan["token"], reject_token=lambda token: None),
        clock=SystemClock(),
        limits=Limits(),
        should_pause=lambda: False,
        connections=plan["connections"],
    )
    held = Held(Manifest(files=(file,), document={}, digest=""), [])
    return _timed(
        lambda: downloader.fetch(
            file,
            partial=folder / "partial",
            destination=folder / "whole",
            held=held,
            set_aside=lambda path, why: sys.exit(why),
        )
    )


def _timed(work: Callable[[], None]) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mib": peak_mib(os.getpid()),
    }


if __name__ == "__main__":
    json.dump(fetch(json.load(sys.stdin)), sys.stdout)
