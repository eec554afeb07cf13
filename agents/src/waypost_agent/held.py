"""Where on this disk bytes lie that a manifest asks for: other versions, other models, leftovers.

Only says where to look. What is found there is copied and hashed like anything from the network,
since a file that was right once may have rotted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from waypost_agent.chunk_map import Chunk
from waypost_agent.manifest import Manifest, ManifestFile
from waypost_agent.pieces import pieces_of
from waypost_agent.trees import has_size

Chunks = tuple[Chunk, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The files of a manifest, where each should lie, and its chunk map where one is kept."""

    manifest: Manifest
    locate: Callable[[ManifestFile], Path]
    map_of: Callable[[ManifestFile], Chunks] = lambda file: ()


@dataclass(frozen=True, kw_only=True)
class Span:
    """`length` bytes of the file at `path`, from `offset` on."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class _Known:
    file: ManifestFile
    path: Path
    map_of: Callable[[ManifestFile], Chunks]


class Held:
    """What of `wanted` the places hold."""

    def __init__(self, wanted: Manifest, places: Iterable[Place]) -> None:
        self._files: dict[str, list[Path]] = {file.sha256: [] for file in wanted.files}
        self._known: list[_Known] = []
        self._spans: dict[str, list[Span]] = {}
        for place in places:
            for file in place.manifest.files:
                self.add(file, place.locate(file), place.map_of)

    def add(
        self,
        file: ManifestFile,
        path: Path,
        map_of: Callable[[ManifestFile], Chunks] = lambda file: (),
    ) -> None:
        """`path` should have the bytes of `file`."""
        if not has_size(path, file.size):
            return
        if file.sha256 in self._files:
            self._files[file.sha256].append(path)
        self._known.append(_Known(file=file, path=path, map_of=map_of))

    def take_file(self, file: ManifestFile) -> Path | None:
        """A file that should be this one; each is offered once."""
        paths = self._files.get(file.sha256)
        return paths.pop() if paths else None

    def look_for(self, chunks: Iterable[Chunk]) -> None:
        """Find where these chunks lie, and the bases of their patches. One file's at a time: what
        was looked for before is forgotten, since the lists of large files are long."""
        self._spans = {}
        for chunk in chunks:
            self._spans[chunk.sha256] = []
            for patch in chunk.patches:
                if patch.base is not None:
                    self._spans[patch.base] = []
        for known in self._known:
            for cut in (pieces_of(known.file), known.map_of(known.file)):
                self._note(known.path, cut)

    def _note(self, path: Path, chunks: Chunks) -> None:
        for chunk in chunks:
            spans = self._spans.get(chunk.sha256)
            if spans is not None:
                spans.append(Span(path=path, offset=chunk.offset, length=chunk.length))

    def find(self, sha256: str) -> Span | None:
        """Where a chunk that was looked for should lie."""
        spans = self._spans.get(sha256)
        return spans[-1] if spans else None

    def forget(self, sha256: str) -> None:
        """What `find` said was wrong; the next one is offered instead."""
        self._spans[sha256].pop()
