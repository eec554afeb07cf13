"""A chunk map as agents are given it (docs/agent-protocol.md, section 4)."""

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from controlplane.catalog.chunk_cutting import CutChunk
from controlplane.catalog.models import ChunkMap, Patch

SCHEMA = "waypost.chunks/1"


def render(chunk_map: ChunkMap, chunks: Iterable[CutChunk]) -> tuple[bytes, str]:
    """The JSON, gzipped, and the SHA-256 of the JSON. The same rows give the same bytes."""
    patches: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for patch in Patch.objects.filter(chunk_map=chunk_map).order_by("size_bytes", "sha256"):
        patches[patch.chunk_sha256].append(
            {
                "base": patch.base_sha256 or None,
                "codec": patch.codec,
                "blob": patch.sha256,
                "size": patch.size_bytes,
            }
        )
    document = {
        "schema": SCHEMA,
        "file": chunk_map.sha256,
        "size": chunk_map.size_bytes,
        "chunks": [
            {
                "length": chunk.length,
                "sha256": chunk.sha256,
                "patches": patches.get(chunk.sha256, []),
            }
            for chunk in chunks
        ],
    }
    data = json.dumps(document, separators=(",", ":")).encode()
    return gzip.compress(data, mtime=0), hashlib.sha256(data).hexdigest()
