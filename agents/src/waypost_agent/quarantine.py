"""What was found damaged, set aside with the reason, to be looked at and not to fill the disk.

Decides what is dropped when there is too much. Knows nothing of manifests or servers.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from waypost_agent.durable import make_folder, sync_folder, write_durably
from waypost_agent.trees import bytes_in, entries, remove

_log = logging.getLogger(__name__)
_NOTE = ".reason.json"
MAX_ENTRIES = 16


class Quarantine:
    """One entry per (model, name), the newest; a file with the reason lies beside each."""

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes

    def prepare(self) -> None:
        make_folder(self._root)

    def place(self, model: str, name: str) -> Path:
        return self._root / model / name

    def take(self, path: Path, model: str, name: str, reason: str) -> int:
        """Move `path` here; returns how often in a row it had to be done for this name."""
        aside = self.place(model, name)
        times = self._times(aside) + 1
        remove(aside)
        make_folder(aside.parent)
        note = json.dumps({"reason": reason, "times": times}, ensure_ascii=False)
        # The reason first: a cut leaves a reason without its files, never files without a reason.
        write_durably(_note(aside), note.encode())
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)  # a folder without write permission cannot be moved
        os.rename(path, aside)
        sync_folder(path.parent)
        sync_folder(aside.parent)
        return times

    def forgive(self, model: str, name: str) -> None:
        """It was found sound: the count starts anew. The files may stay."""
        note = _note(self.place(model, name))
        if self._times(self.place(model, name)) > 0:
            kept = {**json.loads(note.read_bytes()), "times": 0}
            write_durably(note, json.dumps(kept, ensure_ascii=False).encode())

    def trim(self) -> None:
        """Drop the oldest until the rest is within its bounds."""
        notes = sorted(self._root.glob(f"*/*{_NOTE}"), key=lambda note: note.stat().st_mtime_ns)
        kept = 0
        for count, note in enumerate(reversed(notes)):
            aside = note.with_name(note.name.removesuffix(_NOTE))
            size = bytes_in(aside) if os.path.lexists(aside) else 0
            if count < MAX_ENTRIES and kept + size <= self._limit_bytes:
                kept += size
                continue
            _log.info("%s is dropped from what was set aside", aside)
            remove(aside)
            if count >= MAX_ENTRIES:
                note.unlink()

    def clear(self) -> None:
        """Give the room back; the reasons stay."""
        for model in entries(self._root):
            for entry in entries(model):
                if not entry.name.endswith(_NOTE):
                    remove(entry)

    def _times(self, aside: Path) -> int:
        try:
            times = json.loads(_note(aside).read_bytes())["times"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return times if isinstance(times, int) else 0


def _note(aside: Path) -> Path:
    return aside.with_name(aside.name + _NOTE)
