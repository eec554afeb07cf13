"""Decides whether a Triton is too old to be safe: known critical faults are mended from here on.

NVIDIA's containers are numbered by year and month, the server in them by its own version."""

import re

FLOOR_VERSION = (2, 70)
FLOOR_RELEASE = "26.06"
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.|$|\D)")


def floor_warning(version: str) -> str:
    """One sentence for an operator; empty where there is nothing to warn of or to tell by."""
    match = _VERSION.match(version)
    if match is None or (int(match[1]), int(match[2])) >= FLOOR_VERSION:
        return ""
    return (
        f"Triton {version} has known critical faults; run {FLOOR_RELEASE} "
        f"({FLOOR_VERSION[0]}.{FLOOR_VERSION[1]}) or newer"
    )
