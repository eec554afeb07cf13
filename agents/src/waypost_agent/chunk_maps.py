"""Chunk maps on this disk: one JSON file for each file that has one, beside the manifest.

Decides when the centre is asked for one. A map that cannot be read or had is as good as none, and
the first silence of the centre ends the asking for a while.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from waypost_agent import chunk_map
from waypost_agent.chunk_map import Chunk
from waypost_agent.clock import Clock
from waypost_agent.durable import make_folder, write_durably
from waypost_agent.errors import AnswerError, Paused, Retryable
from waypost_agent.manifest import ManifestFile
from waypost_agent.ports import MapSource
from waypost_agent.protocol import parse_json
from waypost_agent.trees import entries, remove

_log = logging.getLogger(__name__)

MAPS_FOLDER = "chunks"
LEAST_BYTES = 1 << 20  # of a smaller file the whole is one chunk
_ASK_AGAIN_SECONDS = 60.0  # the centre makes maps after a version was pushed


class ChunkMaps:
    """Asks `source` for the maps of files, not the same one again and again. `has_room` says
    whether the disk takes so many bytes and keeps its reserve: no map is a reason to go below."""

    def __init__(
        self,
        source: MapSource | None,
        clock: Clock,
        has_room: Callable[[int], bool] = lambda size: True,
    ) -> None:
        self._source = source
        self._clock = clock
        self._has_room = has_room
        self._asked_at: dict[str, float] = {}
        self._quiet_until: float | None = None

    def of(self, file: ManifestFile, folder: Path) -> tuple[Chunk, ...]:
        """The map kept in `folder`, else the centre's, which is then kept there. One without
        patches is asked for again, as they are made later."""
        if self._source is None or file.size < LEAST_BYTES:
            return ()
        kept = read_map(folder, file)
        now = self._clock.monotonic()
        asked_at = self._asked_at.get(file.sha256, now - _ASK_AGAIN_SECONDS)
        if any(chunk.patches for chunk in kept) or now - asked_at < _ASK_AGAIN_SECONDS:
            return kept
        if self._quiet_until is not None and now < self._quiet_until:
            return kept
        self._asked_at = {
            sha256: at for sha256, at in self._asked_at.items() if now - at < _ASK_AGAIN_SECONDS
        } | {file.sha256: now}
        try:
            document = self._source.chunk_map(file.sha256)
        except Retryable as error:
            # Each question may last as long as a call may wait: the next would find the same.
            _log.info("no chunk maps for %.0f s: %s", _ASK_AGAIN_SECONDS, error.reason)
            self._quiet_until = self._clock.monotonic() + _ASK_AGAIN_SECONDS
            return kept
        if document is None:
            return kept
        try:
            chunks = chunk_map.parse(document, file)
        except ValueError as error:
            _log.warning("the chunk map of %s is refused: %s", file.path, error)
            return kept
        # Not as it was sent: what no agent reads would take up this disk all the same.
        data = json.dumps(chunk_map.document_of(file, chunks)).encode()
        try:
            if not self._has_room(2 * len(data)):  # once here, and once with the version
                _log.warning("the chunk map of %s is not kept: the disk is full", file.path)
                return chunks
            make_folder(folder)
            write_durably(_path(folder, file), data)
        except OSError as error:
            _log.warning("the chunk map of %s is not kept: %s", file.path, error)
        return chunks

    def complete(
        self, files: Iterable[ManifestFile], folder: Path, should_pause: Callable[[], bool]
    ) -> None:
        """Get the maps that an installed version lacks, as it came before the centre had cut it or
        with an older agent: patches are told by the chunks that are held. Raises `Paused` before
        a question when something more urgent waits."""
        for file in files:
            if not read_map(folder, file):
                if should_pause():
                    raise Paused
                self.of(file, folder)


def read_map(folder: Path, file: ManifestFile) -> tuple[Chunk, ...]:
    """The map of a file that is kept in a folder, nothing where there is none that can be used."""
    try:
        return chunk_map.parse(parse_json(_path(folder, file).read_bytes()), file)
    except (OSError, AnswerError, ValueError):
        return ()


def copy_maps(source: Path, destination: Path) -> None:
    """Let the maps of one folder be those of another."""
    remove(destination)
    for path in sorted(entries(source)):
        make_folder(destination)
        write_durably(destination / path.name, path.read_bytes())


def _path(folder: Path, file: ManifestFile) -> Path:
    return folder / f"{file.sha256}.json"
