"""The golden requests of a version as a table: what is asked, what must come back, how near.

Read from the file as it was pushed. It was judged when the version came in; one that is still being
pushed may hold anything, so nothing here relies on its form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.catalog.models import Version
from controlplane.catalog.queries import blob_store
from controlplane.domain.errors import WaypostError
from controlplane.domain.golden_document import MAX_GOLDEN_BYTES
from controlplane.domain.manifest import DEFAULT_VARIANT, GOLDEN_FILE

REQUESTS_SHOWN = 100
_TEXT = 200


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    latency: str


@dataclass(frozen=True, kw_only=True)
class GoldenFile:
    """Of one build. `fault` says why it cannot be shown; `total` counts what is not shown too."""

    build: str
    size_bytes: int
    requests: tuple[GoldenRequest, ...] = ()
    total: int = 0
    fault: str = ""


def golden_files(version: Version) -> list[GoldenFile]:
    """One per build, by name."""
    rows = version.files.filter(path__endswith=GOLDEN_FILE).order_by("path")
    found = []
    for row in rows:
        build, _, name = row.path.rpartition("/")
        if name == GOLDEN_FILE:
            found.append(_read(build or DEFAULT_VARIANT, row.sha256, row.size_bytes))
    return found


def _read(build: str, sha256: str, size: int) -> GoldenFile:
    if size > MAX_GOLDEN_BYTES:
        return GoldenFile(build=build, size_bytes=size, fault="It is too large to be shown.")
    try:
        with blob_store().open(sha256) as file:
            document = json.loads(file.read(MAX_GOLDEN_BYTES))
    except FileNotFoundError:
        return GoldenFile(build=build, size_bytes=size, fault="Its bytes are not here yet.")
    except (OSError, WaypostError):
        fault = "The artifact store cannot be read now; try again."
        return GoldenFile(build=build, size_bytes=size, fault=fault)
    except (ValueError, RecursionError):
        return GoldenFile(build=build, size_bytes=size, fault="It is not JSON that can be read.")
    entries = document.get("requests") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return GoldenFile(build=build, size_bytes=size, fault="It holds no list of requests.")
    requests = [_request(entry) for entry in entries[:REQUESTS_SHOWN] if isinstance(entry, dict)]
    return GoldenFile(build=build, size_bytes=size, requests=tuple(requests), total=len(entries))


def _request(entry: Mapping[str, Any]) -> GoldenRequest:
    latency = entry.get("max_latency_ms")
    return GoldenRequest(
        name=str(entry.get("name", ""))[:_TEXT],
        inputs=_tensors(entry.get("inputs")),
        outputs=_tensors(entry.get("outputs"), tolerated=True),
        latency=f"within {latency} ms"[:_TEXT] if latency is not None else "",
    )


def _tensors(entries: object, *, tolerated: bool = False) -> tuple[str, ...]:
    listed = entries if isinstance(entries, list) else []
    found = []
    for entry in listed:
        if isinstance(entry, dict):
            text = f"{entry.get('name')} {entry.get('datatype')} {entry.get('shape')}"
            near = f", {_tolerance(entry.get('tolerance'))}" if tolerated else ""
            found.append(f"{text[:_TEXT]}{near}")
    return tuple(found)


def _tolerance(tolerance: object) -> str:
    if not isinstance(tolerance, dict) or not tolerance:
        return "equal"
    words = [
        "the same bits" if key == "exact" else f"{str(key).replace('_', '-')} {value}"
        for key, value in tolerance.items()
    ]
    return ", ".join(words)[:_TEXT]
