"""Where on this disk bytes lie that a manifest asks for: other versions, other models, leftovers.

Only says where to look. What is found there is copied and hashed like anything from the network,
since a file that was right once may have rotted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from waypost_agent.manifest import CHUNK_BYTES, Manifest, ManifestFile
from waypost_agent.trees import has_size

Place = tuple[Manifest, Callable[[ManifestFile], Path]]


@dataclass(frozen=True, kw_only=True)
class Span:
    """`length` bytes of the file at `path`, from `offset` on."""

    path: Path
    offset: int
    length: int


class Held:
    """What of `wanted` the places hold; each place is a manifest and where its files lie."""

    def __init__(self, wanted: Manifest, places: Iterable[Place]) -> None:
        self._files: dict[str, list[Path]] = {file.sha256: [] for file in wanted.files}
        self._chunks: dict[str, list[Span]] = {
            chunk: [] for file in wanted.files for chunk in file.chunks
        }
        for manifest, locate in places:
            for file in manifest.files:
                if file.sha256 in self._files or any(c in self._chunks for c in file.chunks):
                    self.add(file, locate(file))

    def add(self, file: ManifestFile, path: Path) -> None:
        """`path` should have the bytes of `file`."""
        if not has_size(path, file.size):
            return
        if file.sha256 in self._files:
            self._files[file.sha256].append(path)
        for index, chunk in enumerate(file.chunks):
            if chunk in self._chunks:
                offset = index * CHUNK_BYTES
                length = min(CHUNK_BYTES, file.size - offset)
                self._chunks[chunk].append(Span(path=path, offset=offset, length=length))

    def take_file(self, file: ManifestFile) -> Path | None:
        """A file that should be this one; each is offered once."""
        paths = self._files.get(file.sha256)
        return paths.pop() if paths else None

    def find_chunk(self, file: ManifestFile, at: int) -> Span | None:
        """The rest, from byte `at` on, of the piece that `at` lies in."""
        spans = self._chunks.get(file.chunks[at // CHUNK_BYTES]) if file.chunks else None
        if not spans:
            return None
        inside = at % CHUNK_BYTES
        span = spans[-1]
        return Span(path=span.path, offset=span.offset + inside, length=span.length - inside)

    def forget_chunk(self, file: ManifestFile, at: int) -> None:
        """What `find_chunk` said there was wrong; the next one is offered instead."""
        self._chunks[file.chunks[at // CHUNK_BYTES]].pop()

    def end_of_gap(self, file: ManifestFile, at: int) -> int:
        """Where after `at` the next piece begins that is held, or the end of the file."""
        for index in range(at // CHUNK_BYTES + 1, len(file.chunks)):
            if self._chunks.get(file.chunks[index]):
                return index * CHUNK_BYTES
        return file.size
