"""What a version asks of the machine and the server that are to serve it: the minimums its manifest
names. Pure; whether they are met, `preflight` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 1 << 50
MAX_BACKENDS = 32
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]{1,2}")
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}")
# TensorRT and drivers have up to four numbers.
_LONG_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_BACKEND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Requires:
    """Each a minimum, but for `compute_capability_exact` and `tensorrt`, which are what a plan was
    built for; None and empty ask for nothing."""

    accelerator_memory_bytes: int | None = None
    memory_bytes: int | None = None
    compute_capability: str | None = None
    compute_capability_exact: str | None = None
    driver: str | None = None
    tensorrt: str | None = None
    triton: str | None = None
    backends: tuple[str, ...] = ()


def parse_requires(document: object) -> Requires:
    """Raises `ValueError` naming the key and what would be right. Unknown keys are ignored."""
    if document is None:
        return Requires()
    if not isinstance(document, Mapping):
        raise ValueError("requires must be an object")
    backends = document.get("backends", [])
    if (
        not isinstance(backends, list)
        or len(backends) > MAX_BACKENDS
        or not all(isinstance(name, str) and _BACKEND.fullmatch(name) for name in backends)
    ):
        raise ValueError(f"requires.backends must be a list of at most {MAX_BACKENDS} names")
    return Requires(
        accelerator_memory_bytes=_bytes(document, "accelerator_memory_bytes"),
        memory_bytes=_bytes(document, "memory_bytes"),
        compute_capability=_text(document, "compute_capability", _CAPABILITY, "8.0"),
        compute_capability_exact=_text(document, "compute_capability_exact", _CAPABILITY, "8.9"),
        driver=_text(document, "driver", _LONG_VERSION, "550.54"),
        tensorrt=_text(document, "tensorrt", _LONG_VERSION, "10.3"),
        triton=_text(document, "triton", _VERSION, "2.51.0"),
        backends=tuple(backends),
    )


def numbers(version: str) -> tuple[int, ...]:
    """A version as something that compares. Raises `ValueError`."""
    return tuple(int(part) for part in version.split("."))


def _bytes(document: Mapping[str, Any], key: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_BYTES:
        raise ValueError(f"requires.{key} must be a whole number of bytes, it is {value!r:.40}")
    return value


def _text(
    document: Mapping[str, Any], key: str, pattern: re.Pattern[str], example: str
) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f'requires.{key} must be a text such as "{example}", it is {value!r:.40}')
    return value
