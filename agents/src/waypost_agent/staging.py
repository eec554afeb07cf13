"""Versions on their way: their files by manifest, finished or not, outside Triton's repository.

Decides what is still missing and what may go. A file gets its name here only after it was verified.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from waypost_agent.chunk_maps import MAPS_FOLDER, read_map
from waypost_agent.durable import make_folder, write_durably
from waypost_agent.errors import AnswerError, Permanent
from waypost_agent.held import Place
from waypost_agent.manifest import (
    RECORD_FILES,
    Manifest,
    ManifestFile,
    digest_of,
    parse_manifest,
)
from waypost_agent.protocol import parse_json
from waypost_agent.trees import entries, has_size, remove

MANIFEST_FILE = "manifest.json"
_PARTIAL = "partial"
_PAYLOAD = "payload"
_RECORD = "record"


class Staging:
    """`root` is a folder on the file system of Triton's repository."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def prepare(self) -> None:
        make_folder(self._root)

    def folder(self, model: str, version: str, manifest: Manifest) -> Path:
        return self._root / model / staging_name(version, manifest)

    def payload(self, model: str, version: str, manifest: Manifest) -> Path:
        return self.folder(model, version, manifest) / _PAYLOAD

    def record(self, model: str, version: str, manifest: Manifest) -> Path:
        return self.folder(model, version, manifest) / _RECORD

    def partial_path(self, model: str, version: str, manifest: Manifest, sha256: str) -> Path:
        return self.folder(model, version, manifest) / _PARTIAL / sha256

    def maps(self, model: str, version: str, manifest: Manifest) -> Path:
        return self.folder(model, version, manifest) / MAPS_FOLDER

    def staged_path(self, model: str, version: str, manifest: Manifest, file: ManifestFile) -> Path:
        return _staged(self.folder(model, version, manifest), file)

    def begin(self, model: str, version: str, manifest: Manifest) -> None:
        """Make the folders, and take over what other downloads left of the same files."""
        folder = self.folder(model, version, manifest)
        for name in (_PARTIAL, _PAYLOAD, _RECORD):
            make_folder(folder / name)
        for file in manifest.files:
            make_folder(_staged(folder, file).parent)
        if not (folder / MANIFEST_FILE).exists():
            write_durably(folder / MANIFEST_FILE, encode_manifest(manifest))
        wanted = {file.sha256 for file in manifest.files}
        for other in list(self._root.glob(f"*/*/{_PARTIAL}/*")):
            mine = folder / _PARTIAL / other.name
            if other.name in wanted and not mine.exists():
                os.rename(other, mine)

    def missing(self, model: str, version: str, manifest: Manifest) -> tuple[ManifestFile, ...]:
        """Files not yet staged. A staged file was verified before it got its name."""
        folder = self.folder(model, version, manifest)
        return tuple(f for f in manifest.files if not has_size(_staged(folder, f), f.size))

    def is_whole(self, model: str, version: str, manifest: Manifest) -> bool:
        return not self.missing(model, version, manifest)

    def bytes_needed(self, model: str, version: str, manifest: Manifest) -> int:
        """What the disk must still give; room that was taken for unfinished files counts as had,
        and chunk maps are there twice until the version is installed."""
        needed = sum(file.size for file in self.missing(model, version, manifest))
        for path in entries(self.folder(model, version, manifest) / _PARTIAL):
            needed -= path.lstat().st_blocks * 512
        maps = sum(path.lstat().st_size for path in entries(self.maps(model, version, manifest)))
        return max(needed, 0) + maps

    def names(self, model: str) -> frozenset[str]:
        """What is on its way or left over for a model."""
        return frozenset(entry.name for entry in entries(self._root / model))

    def places(self) -> Iterator[Place]:
        """What is staged of any model, and where."""
        for path in self._root.glob(f"*/*/{MANIFEST_FILE}"):
            manifest = read_manifest(path)
            if manifest is not None:
                yield Place(
                    manifest=manifest,
                    locate=partial(_staged, path.parent),
                    map_of=partial(read_map, path.parent / MAPS_FOLDER),
                )

    def remove(self, model: str, version: str, manifest: Manifest) -> None:
        remove(self.folder(model, version, manifest))

    def remove_others(self, model: str, keep: frozenset[str]) -> None:
        for entry in list(entries(self._root / model)):
            if entry.name not in keep:
                remove(entry)
        if not self.names(model):
            remove(self._root / model)


def encode_manifest(manifest: Manifest) -> bytes:
    return json.dumps(manifest.document, ensure_ascii=False, indent=1).encode()


def read_manifest(path: Path) -> Manifest | None:
    """A kept manifest, None where there is none that can be read."""
    try:
        document = parse_json(path.read_bytes())
        return parse_manifest(document, digest_of(document))
    except (OSError, AnswerError, Permanent, AttributeError):
        return None


def staging_name(version: str, manifest: Manifest) -> str:
    return f"{version}-{manifest.digest.removeprefix('sha256:')[:16]}"


def _staged(folder: Path, file: ManifestFile) -> Path:
    return folder / (_RECORD if file.path in RECORD_FILES else _PAYLOAD) / file.path
