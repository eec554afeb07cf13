"""Brings the files of a version to this disk, and keeps what is there right.

Decides in which order a version arrives and what a damaged one costs. Knows nothing of wishes,
journal or servers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from waypost_agent.chunk_maps import ChunkMaps, read_map
from waypost_agent.clock import Clock
from waypost_agent.download import Downloader
from waypost_agent.errors import (
    DIGEST_MISMATCH,
    WINDOW_CLOSED,
    Permanent,
    Retryable,
    WindowClosed,
)
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest
from waypost_agent.pace import Bucket
from waypost_agent.ports import BlobSource, Checkpoint, MapSource
from waypost_agent.scrub import Scrub
from waypost_agent.store import Store
from waypost_agent.windows import Window, opens_at

_log = logging.getLogger(__name__)

# A version found damaged more often in a row, each time just fetched: the disk is at fault.
MAX_DAMAGED = 3


@dataclass(frozen=True, kw_only=True)
class Fetching:
    """How this site fetches: over how many connections at most, with chunk maps from whom, under
    which cap shared with whom, and at which hours of `wall_clock`."""

    connections: int = 1
    maps: MapSource | None = None
    bucket: Bucket | None = None
    windows: tuple[Window, ...] = ()
    wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)


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
        fetching: Fetching,
    ) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._progress = progress
        self._should_pause = should_pause
        self._fetching = fetching
        self._maps = ChunkMaps(fetching.maps, clock, store.has_room)
        self._downloader = Downloader(
            source,
            clock=clock,
            limits=limits,
            should_pause=should_pause,
            connections=fetching.connections,
            bucket=fetching.bucket,
        )
        self._scrub = Scrub(store, clock=clock, limits=limits)

    def fetch(self, model: str, version: str, manifest: Manifest, *, may_wait: bool) -> None:
        """Put a version into Triton's repository. `may_wait` for an hour at which the site lets its
        link be used. Raises `Retryable`, `Permanent`, `Paused`."""
        self._stage(model, version, manifest, self._refuse_closed if may_wait else _any_hour)
        self._checkpoint("staged")
        self._install(model, version, manifest)

    def mend(self, model: str, version: str, manifest: Manifest, *, is_loaded: bool) -> None:
        """Fetch a sound copy. What is loaded is not touched: the copy takes its place before the
        next load, which hashes the files first. Raises as `fetch` does."""
        self._stage(model, version, manifest, _any_hour)
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

    def _refuse_closed(self) -> None:
        opening = opens_at(self._fetching.windows, self._fetching.wall_clock())
        if opening is not None:
            raise WindowClosed(
                WINDOW_CLOSED,
                f"the site's download window is closed; it opens {opening:%a %Y-%m-%d %H:%M %Z}",
            )

    def _stage(
        self, model: str, version: str, manifest: Manifest, refuse: Callable[[], None]
    ) -> None:
        """Bring every file of a version to this disk, beside what is installed."""
        store, staging = self._store, self._store.staging
        with store.disk_errors(f"making room for {model} {version}"):
            staging.begin(model, version, manifest)
        store.require_space(model, version, manifest)
        self._checkpoint("download-started")
        if not _is_refused(refuse):
            for installed, folder in store.map_folders(model):
                self._maps.complete(installed.files, folder, self._should_pause)
        held = store.held(manifest)
        total = sum(file.size for file in manifest.files)
        missing = staging.missing(model, version, manifest)
        here = total - sum(file.size for file in missing)

        def tell(received: int) -> None:
            self._progress(
                model,
                f"{here + received} of {total} bytes of version {version} are on this server",
            )

        maps = staging.maps(model, version, manifest)
        for file in missing:
            destination = staging.staged_path(model, version, manifest, file)
            self._downloader.fetch(
                file,
                partial=staging.partial_path(model, version, manifest, file.sha256),
                destination=destination,
                held=held,
                set_aside=lambda path, why: store.quarantine_download(model, path, why),
                progress=tell,
                chunk_map=read_map(maps, file)
                if _is_refused(refuse)
                else self._maps.of(file, maps),
                refuse=refuse,
            )
            here += file.size
            held.add(file, destination, partial(read_map, maps))
            self._checkpoint("file-verified")

    def _install(self, model: str, version: str, manifest: Manifest) -> None:
        self._store.record(model, version, manifest)
        self._checkpoint("recorded")
        self._store.install(model, version, manifest)
        self._checkpoint("installed")


def _is_refused(refuse: Callable[[], None]) -> bool:
    """Whether the link is not to be used now. That is no failure yet: the disk may hold it all."""
    try:
        refuse()
    except WindowClosed:
        return True
    return False


def _any_hour() -> None:
    """What serves is to be repaired, or somebody goes back: that waits for no window."""
