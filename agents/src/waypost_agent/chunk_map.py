"""A file's chunk map: where its chunks lie, their digests, what may be fetched in their place.

Checks a map as the centre gave it and chooses the cheapest way to a chunk. A map is a hint: every
chunk is hashed when it is there, so one that lies costs bytes and never correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from waypost_agent.manifest import ManifestFile, is_sha256
from waypost_agent.patches import CODECS, MAX_CHUNK_BYTES, WITH_BASE

SCHEMA = "waypost.chunks/1"
MAX_DOCUMENT_BYTES = 16 << 20  # as JSON; a longer answer is not read to its end
MAX_CHUNKS = 1 << 14
MAX_PATCHES = 8  # of one chunk


@dataclass(frozen=True, kw_only=True)
class Patch:
    """`size` encoded bytes with the SHA-256 `blob`; `base` is the chunk that must be held, if any.
    The base is as long as the chunk."""

    base: str | None
    codec: str
    blob: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """`length` bytes of a file from `offset` on, and other ways to come by them."""

    offset: int
    length: int
    sha256: str
    patches: tuple[Patch, ...] = ()


def parse(document: object, file: ManifestFile) -> tuple[Chunk, ...]:
    """The chunks of `file` in order, together exactly its size. Raises `ValueError`."""
    if not isinstance(document, Mapping):
        raise ValueError("it is not a JSON object")
    if document.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {document.get('schema')!r:.80}, not {SCHEMA!r}")
    if document.get("file") != file.sha256 or document.get("size") != file.size:
        raise ValueError(f"it is not the map of {file.sha256} with {file.size} bytes")
    entries = document.get("chunks")
    if not isinstance(entries, list) or len(entries) > MAX_CHUNKS:
        raise ValueError(f"its chunks are not a list of at most {MAX_CHUNKS}")
    chunks: list[Chunk] = []
    end = 0
    for index, entry in enumerate(entries):
        chunks.append(_chunk(entry, end, f"chunk {index}"))
        end += chunks[-1].length
    if end != file.size:
        raise ValueError(f"its chunks have {end} bytes together, the file has {file.size}")
    if len(chunks) == 1 and chunks[0].sha256 != file.sha256:
        raise ValueError("its one chunk has another sha256 than the file")
    return tuple(chunks)


def document_of(file: ManifestFile, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """The map that `parse` reads these chunks from, and nothing beside them."""
    return {
        "schema": SCHEMA,
        "file": file.sha256,
        "size": file.size,
        "chunks": [
            {
                "length": chunk.length,
                "sha256": chunk.sha256,
                "patches": [asdict(patch) for patch in chunk.patches],
            }
            for chunk in chunks
        ],
    }


def cheapest(chunk: Chunk, holds: Callable[[str], bool]) -> Patch | None:
    """The patch with the fewest bytes whose base `holds`; None when the chunk itself is no more."""
    usable = [
        patch
        for patch in chunk.patches
        if patch.size < chunk.length and (patch.base is None or holds(patch.base))
    ]
    return min(usable, key=lambda patch: patch.size, default=None)


def _chunk(entry: object, offset: int, where: str) -> Chunk:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is not an object")
    length = _size(entry.get("length"), MAX_CHUNK_BYTES, f"the length of {where}")
    patches = entry.get("patches", [])
    if not isinstance(patches, list) or len(patches) > MAX_PATCHES:
        raise ValueError(f"the patches of {where} are not a list of at most {MAX_PATCHES}")
    return Chunk(
        offset=offset,
        length=length,
        sha256=_digest(entry.get("sha256"), f"the sha256 of {where}"),
        patches=tuple(p for each in patches if (p := _patch(each, length, where)) is not None),
    )


def _patch(entry: object, length: int, where: str) -> Patch | None:
    """None for one whose codec this agent does not know."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"a patch of {where} is not an object")
    codec = entry.get("codec")
    if not isinstance(codec, str):
        raise ValueError(f"a patch of {where} names no codec")
    if codec not in CODECS:
        return None
    base = entry.get("base")
    if (base is not None) != (codec in WITH_BASE):
        raise ValueError(f"a patch of {where} by {codec} has {'a' if base else 'no'} base")
    return Patch(
        base=None if base is None else _digest(base, f"the base of {where}"),
        codec=codec,
        blob=_digest(entry.get("blob"), f"the blob of {where}"),
        size=_size(entry.get("size"), length, f"the size of a patch of {where}"),
    )


def _size(value: object, most: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise ValueError(f"{what} is {value!r:.40}, not a number from 1 to {most}")
    return value


def _digest(value: object, what: str) -> str:
    if not isinstance(value, str) or not is_sha256(value):
        raise ValueError(f"{what} is not 64 lower-case hex digits")
    return value
