"""Decides whether a Triton is too old to be safe: known critical faults are mended from here on.

Pure. NVIDIA's containers are numbered by year and month, the server in them by its own version.
"""

from __future__ import annotations

import re

FLOOR_VERSION = (2, 70)
FLOOR_RELEASE = "26.06"
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.|$|\D)")


def below_floor(version: str | None) -> bool | None:
    """Whether this version has known critical faults; None where it cannot be told."""
    match = _VERSION.match(version or "")
    if match is None:
        return None
    return (int(match[1]), int(match[2])) < FLOOR_VERSION


def floor_warning(version: str | None) -> str | None:
    """One sentence for an operator, None where there is nothing to warn of."""
    if not below_floor(version):
        return None
    return (
        f"Triton {version} has known critical faults; run {FLOOR_RELEASE} "
        f"({FLOOR_VERSION[0]}.{FLOOR_VERSION[1]}) or newer"
    )
