"""Brings the files of a version to this disk, and keeps what is there right.

Decides in which order a version arrives and what a damaged one costs. Knows nothing of wishes,
journal or servers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from waypost_agent.clock import Clock
from waypost_agent.download import Downloader
from waypost_agent.errors import DIGEST_MISMATCH, Permanent, Retryable
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest
from waypost_agent.ports import BlobSource, Checkpoint
from waypost_agent.scrub import Scrub
from waypost_agent.store import Store

_log = logging.getLogger(__name__)

# A version found damaged more often in a row, each time just fetched: the disk is at fault.
MAX_DAMAGED = 3


class Files:
    """`should_pause` is asked in the midst of long work; `progress` is told the model and how far
    its download is."""

    def __init__(
        self,
        store: Store,
        source: BlobSource,
        *,
        clock: Clock,
        limits: Limits,
        should_pause: Callable[[], bool],
        checkpoint: Checkpoint,
        progress: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._progress = progress
        self._downloader = Downloader(source, clock=clock, limits=limits, should_pause=should_pause)
        self._scrub = Scrub(store, clock=clock, limits=limits)

    def fetch(self, model: str, version: str, manifest: Manifest) -> None:
        """Put a version into Triton's repository. Raises `Retryable`, `Permanent`, `Paused`."""
        self._stage(model, version, manifest)
        self._checkpoint("staged")
        self._install(model, version, manifest)

    def mend(self, model: str, version: str, manifest: Manifest, *, is_loaded: bool) -> None:
        """Fetch a sound copy. What is loaded is not touched: the copy takes its place before the
        next load, which hashes the files first. Raises as `fetch` does."""
        self._stage(model, version, manifest)
        self._checkpoint("mended")
        if not is_loaded:
            self._install(model, version, manifest)

    def is_sound(self, model: str, version: str, manifest: Manifest) -> bool:
        """Hash the files again, as before every load. Damaged ones are set aside.

        Raises `Permanent` (`digest-mismatch`) when they were just fetched, again and again.
        """
        damage = self._store.find_damage(model, version, manifest)
        if damage is None:
            self._store.note_sound(model, version)
            return True
        _log.error("version %s of %s is damaged on disk: %s", version, model, damage)
        times = self._store.quarantine(model, version, damage)
        self._checkpoint("set-aside")
        if times > MAX_DAMAGED:
            raise Permanent(
                DIGEST_MISMATCH,
                f"version {version} was damaged on this disk {times} times in a row, each time "
                f"just fetched and verified: {damage}",
            )
        return False

    def scrub(self) -> None:
        """Read a little of what is installed; damage is written down. A disk that refuses costs
        this look only."""
        try:
            found = self._scrub.turn()
            if found is None:
                return
            _log.error("version %s of %s: %s", found.version, found.model, found.reason)
            self._store.note_damage(found.model, found.version, found.reason)
        except (OSError, Retryable) as error:
            _log.warning("the scrub could not go on: %s", error)
            return
        self._checkpoint("damage-noted")

    def _stage(self, model: str, version: str, manifest: Manifest) -> None:
        """Bring every file of a version to this disk, beside what is installed."""
        store, staging = self._store, self._store.staging
        with store.disk_errors(f"making room for {model} {version}"):
            staging.begin(model, version, manifest)
        store.require_space(model, version, manifest)
        self._checkpoint("download-started")
        held = store.held(manifest)
        total = sum(file.size for file in manifest.files)
        missing = staging.missing(model, version, manifest)
        here = total - sum(file.size for file in missing)

        def tell(received: int) -> None:
            self._progress(
                model,
                f"{here + received} of {total} bytes of version {version} are on this server",
            )

        for file in missing:
            destination = staging.staged_path(model, version, manifest, file)
            self._downloader.fetch(
                file,
                partial=staging.partial_path(model, version, manifest, file.sha256),
                destination=destination,
                held=held,
                set_aside=lambda path, why: store.quarantine_download(model, path, why),
                progress=tell,
            )
            here += file.size
            held.add(file, destination)
            self._checkpoint("file-verified")

    def _install(self, model: str, version: str, manifest: Manifest) -> None:
        self._store.record(model, version, manifest)
        self._checkpoint("recorded")
        self._store.install(model, version, manifest)
        self._checkpoint("installed")
