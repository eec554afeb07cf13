"""Brings files of a registry onto the disk, in turns: what came stays, and the next turn goes on
from there if the registry still has the same file. Memory is bounded by one block. Before each is
written it is asked whether the files are this worker's still.

It must not know rows, nor what the files mean. Names on disk are made of digests: a registry's own
never reach the file system."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controlplane.catalog.registry import (
    Changed,
    RegistrySource,
    RemoteFile,
    RemoteVersion,
    Unavailable,
)

BLOCK_BYTES = 1 << 20
# Breaks without a single new byte after which the turn ends.
_IDLE_BREAKS = 3
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}", re.ASCII)

KeepGoing = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches files of one version into one folder. `still_mine` raises where another worker has
    the folder."""

    source: RegistrySource
    remote: RemoteVersion
    folder: Path
    still_mine: Callable[[], None]

    def place(self, path: str) -> Path:
        """Where a file of the registry lies, once it is here."""
        suffix = Path(path).suffix
        digest = hashlib.sha256(path.encode()).hexdigest()[:40]
        return self.folder / (digest + (suffix if _SUFFIX.fullmatch(suffix) else ""))

    def fetch(self, file: RemoteFile, keep_going: KeepGoing) -> bool:
        """Whether the file is here whole; False when the turn ended before. Raises `Refused`, and
        `Unavailable` when the registry breaks off again and again."""
        place = self.place(file.path)
        if place.exists() and place.stat().st_size == file.size:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        part, tag = place.with_name(place.name + ".part"), place.with_name(place.name + ".etag")
        idle = 0
        while keep_going():
            before = _size(part)
            try:
                if self._go_on(file, part, tag, keep_going):
                    part.replace(place)
                    tag.unlink(missing_ok=True)
                    return True
            except Changed:
                part.unlink(missing_ok=True)
                idle += 1
                if idle >= _IDLE_BREAKS:
                    raise
            except Unavailable:
                idle = 0 if _size(part) > before else idle + 1
                if idle >= _IDLE_BREAKS:
                    raise
        return False

    def _go_on(self, file: RemoteFile, part: Path, tag: Path, keep_going: KeepGoing) -> bool:
        etag = tag.read_text() if tag.exists() else ""
        offset = _size(part) if etag else 0  # without a tag nobody can say of what the bytes are
        stream = self.source.open(self.remote, file, offset=offset, etag=etag if offset else "")
        try:
            self.still_mine()
            if not offset:
                tag.write_text(stream.etag)
            left = file.size - offset
            with part.open("ab" if offset else "wb") as out:
                while block := stream.read(BLOCK_BYTES):
                    self.still_mine()
                    left -= len(block)
                    if left < 0:
                        raise Changed(f"{file.path[:128]} is longer than it was listed.")
                    out.write(block)
                    if left and not keep_going():
                        return False
        finally:
            stream.close()
        if left:
            raise Unavailable(f"The download broke off {left} bytes before its end.")
        return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
