"""The chunks of a file that its manifest itself gives: fixed pieces, or the whole as one.

Pure. A chunk map (`chunk_map`) may cut the same file otherwise; these are trusted as the manifest
is, a map is not.
"""

from __future__ import annotations

from waypost_agent.chunk_map import Chunk
from waypost_agent.manifest import CHUNK_BYTES, ManifestFile


def pieces_of(file: ManifestFile) -> tuple[Chunk, ...]:
    """In order, together exactly the file; nothing for an empty one."""
    if file.size == 0:
        return ()
    if not file.chunks:
        return (Chunk(offset=0, length=file.size, sha256=file.sha256),)
    return tuple(
        Chunk(
            offset=index * CHUNK_BYTES,
            length=min(CHUNK_BYTES, file.size - index * CHUNK_BYTES),
            sha256=sha256,
        )
        for index, sha256 in enumerate(file.chunks)
    )
