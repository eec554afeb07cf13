"""Makes what a site may fetch in place of a chunk, by what it may hold: bytes and their rows."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from controlplane.catalog.chunk_cutting import CutChunk, reader
from controlplane.catalog.models import ChunkMap, Patch
from controlplane.catalog.queries import blob_store, patch_store
from controlplane.domain.patches import PLANES_ZSTD, ZSTD, encode_planes, encode_zstd

# Below this a request costs more than the bytes.
MIN_CHUNK_BYTES = 16 << 10
# Of one chunk; keeps the largest map within what agents read.
MAX_PATCHES = 4
# A patch must save a tenth: it takes room in the store and work at every site.
_WORTH = 0.9


@dataclass(frozen=True, kw_only=True)
class BasePart:
    """A chunk that a site may hold, and where the store has it."""

    file_sha256: str
    offset: int
    length: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Bases:
    """The versions that a site may hold, the newest first: their chunks by key, and all digests."""

    by_key: tuple[Mapping[str, BasePart], ...]
    digests: frozenset[str]

    @classmethod
    def of(cls, versions: Iterable[Mapping[str, Iterable[CutChunk]]]) -> "Bases":
        """Each version as the chunks of its files, by the file's digest."""
        by_key: list[dict[str, BasePart]] = []
        digests: set[str] = set()
        for files in versions:
            parts: dict[str, BasePart] = {}
            for file_sha256, listed in files.items():
                chunks = list(listed)
                digests.update(chunk.sha256 for chunk in chunks)
                parts.update(_keyed(file_sha256, chunks))
            by_key.append(parts)
        return cls(by_key=tuple(by_key), digests=frozenset(digests))


def add_patches(chunk_map: ChunkMap, chunk: CutChunk, data: bytes, bases: Bases) -> None:
    """Stores the patches of a chunk with these bytes and writes their rows; again it changes
    nothing. A chunk that a base has as it is keeps the patches that were made for it there."""
    if chunk.length < MIN_CHUNK_BYTES:
        return
    if chunk.sha256 in bases.digests:
        patches = _inherited(chunk, bases)
    else:
        patches = _encoded(chunk, data, bases)
    Patch.objects.bulk_create(
        (
            Patch(
                chunk_map=chunk_map,
                chunk_sha256=chunk.sha256,
                codec=codec,
                base_sha256=base,
                sha256=sha256,
                size_bytes=size,
            )
            for codec, base, sha256, size in patches[:MAX_PATCHES]
        ),
        ignore_conflicts=True,
    )


_Made = tuple[str, str, str, int]  # codec, base or nothing, digest, size


def _inherited(chunk: CutChunk, bases: Bases) -> list[_Made]:
    rows = Patch.objects.filter(chunk_sha256=chunk.sha256).distinct().order_by("size_bytes")
    return [
        row
        for row in rows.values_list("codec", "base_sha256", "sha256", "size_bytes")
        if not row[1] or row[1] in bases.digests
    ]


def _encoded(chunk: CutChunk, data: bytes, bases: Bases) -> list[_Made]:
    patches = []
    limit = _WORTH * len(data)
    alone = encode_zstd(data)
    if len(alone) <= limit:
        patches.append(_stored(ZSTD, "", alone))
        limit = len(alone)
    for base in _parts(chunk, bases):
        encoded = encode_planes(data, _read(base), chunk.width)
        if len(encoded) <= limit:
            patches.append(_stored(PLANES_ZSTD, base.sha256, encoded))
    return patches


def _parts(chunk: CutChunk, bases: Bases) -> list[BasePart]:
    """What the bases have in the chunk's place, each once."""
    found = [by_key[chunk.key] for by_key in bases.by_key if chunk.key in by_key]
    fitting = {part.sha256: part for part in found if part.length == chunk.length}
    return list(fitting.values())


def _read(part: BasePart) -> bytes:
    with reader(blob_store(), part.file_sha256) as read:
        return read(part.offset, part.length)


def _stored(codec: str, base_sha256: str, data: bytes) -> _Made:
    digest = hashlib.sha256(data).hexdigest()
    store = patch_store()
    if not store.holds(digest, len(data)):
        store.put(stream=io.BytesIO(data), sha256=digest, size_bytes=len(data))
    return codec, base_sha256, digest, len(data)


def _keyed(file_sha256: str, chunks: list[CutChunk]) -> dict[str, BasePart]:
    offsets = accumulate((chunk.length for chunk in chunks), initial=0)
    return {
        chunk.key: BasePart(
            file_sha256=file_sha256, offset=offset, length=chunk.length, sha256=chunk.sha256
        )
        for offset, chunk in zip(offsets, chunks, strict=False)
        if chunk.key
    }
