"""The work on chunk maps: which file is next, a turn of cutting or patching it, and what is kept.

Level-triggered: each turn looks at the rows for a file of a registered version without a finished
map. A turn ends when it is told to and the next one goes on from the rows, so that a killed worker
costs one turn. Reading and encoding happen outside transactions. Nothing waits for this: a site
without a map or a patch fetches the bytes themselves.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from controlplane.catalog.chunk_cutting import (
    CutChunk,
    StoredFile,
    Truncated,
    cut,
    find_regions,
    reader,
)
from controlplane.catalog.chunk_document import render
from controlplane.catalog.chunk_patches import Bases, add_patches
from controlplane.catalog.models import (
    ChunkMap,
    ChunkMapState,
    Patch,
    Version,
    VersionFile,
)
from controlplane.catalog.queries import blob_store, patch_store
from controlplane.domain.chunking import MAX_CHUNK_BYTES
from controlplane.domain.version_states import SOUND

_log = structlog.get_logger(__name__)

# Of a smaller file agents ask for no map: the whole is one chunk.
MIN_FILE_BYTES = 1 << 20
# What agents accept of one file.
MAX_CHUNKS = 1 << 14
# A worker that died, or failed on a file, leaves the file to others after this.
CLAIM = timedelta(minutes=10)
# Versions of the model, beside its own, that a site is likely to hold.
BASES = 2
# Of versions that a site may come to hold, or holds.
_SOUND = [state.value for state in SOUND]
# What patches leave free on the disk, for pushes.
RESERVE_BYTES = 2 << 30

KeepGoing = Callable[[], bool]


def make_chunk_maps(*, now: datetime, keep_going: KeepGoing) -> None:
    """Works on one file after another until nothing is left or `keep_going` says no."""
    forget_lost_maps()
    _list_new_files()
    while keep_going() and (chunk_map := _claim(now)) is not None:
        try:
            if chunk_map.state == ChunkMapState.CUTTING:
                _cut(chunk_map, keep_going)
            else:
                _patch(chunk_map, keep_going)
        except Exception:
            # The claim stays, so that one bad file does not keep the others from their turn.
            _log.exception("chunk_map_failed", sha256=chunk_map.sha256)


def forget_lost_maps() -> None:
    """Removes the maps of files that no version has any more, and their patches."""
    named = VersionFile.objects.filter(sha256=OuterRef("sha256"))
    for chunk_map in ChunkMap.objects.filter(~Exists(named)).defer("chunks", "document"):
        digests = set(chunk_map.patches.values_list("sha256", flat=True))
        chunk_map.delete()
        still_named = Patch.objects.filter(sha256__in=digests).values_list("sha256", flat=True)
        for digest in digests - set(still_named):
            # Whoever makes the same patch right now loses it: a site then fetches the chunk itself.
            patch_store().remove(digest)


def _list_new_files() -> None:
    listed = ChunkMap.objects.filter(sha256=OuterRef("sha256"))
    files = VersionFile.objects.filter(
        ~Exists(listed),
        version__state__in=_SOUND,
        size_bytes__gte=MIN_FILE_BYTES,
    )
    found = files.order_by("-version__registered_at").values_list(
        "sha256", "size_bytes", "version__registered_at"
    )
    ChunkMap.objects.bulk_create(
        (ChunkMap(sha256=a, size_bytes=b, registered_at=c) for a, b, c in found if c is not None),
        ignore_conflicts=True,
    )


def _claim(now: datetime) -> ChunkMap | None:
    """A map to work on that nobody works on: cutting before patching, which needs the cuts of other
    versions; then the newest."""
    free = Q(claimed_until=None) | Q(claimed_until__lt=now)
    for state in (ChunkMapState.CUTTING, ChunkMapState.PATCHING):
        rows = ChunkMap.objects.filter(free, state=state).order_by("-registered_at", "sha256")
        for row in rows[:10]:
            same = ChunkMap.objects.filter(pk=row.pk, claimed_until=row.claimed_until)
            if same.update(claimed_until=now + CLAIM):
                return row
    return None


def _cut(chunk_map: ChunkMap, keep_going: KeepGoing) -> None:
    place = _place_of(chunk_map)
    if place is None:
        return
    done = _chunks(chunk_map)
    store = blob_store()
    siblings = [_stored(file) for file in place.version.files.all()]
    try:
        parts = find_regions(store, _stored(place), siblings)
        with reader(store, chunk_map.sha256) as read:
            finished = cut(read, parts, done, keep_going)
    except (FileNotFoundError, Truncated) as error:
        _finish(chunk_map, ChunkMapState.NONE, f"the artifact store has lost its bytes: {error}")
        return
    least = len(done) + (chunk_map.size_bytes - sum(c.length for c in done)) // MAX_CHUNK_BYTES
    if least > MAX_CHUNKS:
        _finish(chunk_map, ChunkMapState.NONE, f"it has more than {MAX_CHUNKS} chunks")
        return
    chunk_map.chunks = [list(chunk) for chunk in done]
    if finished:
        _publish(chunk_map, ChunkMapState.PATCHING)
    else:
        _save(chunk_map, "chunks")


def _patch(chunk_map: ChunkMap, keep_going: KeepGoing) -> None:
    place = _place_of(chunk_map)
    if place is None:
        return
    if chunk_map.size_bytes > settings.WAYPOST_PATCH_MAX_FILE_BYTES:
        limit = settings.WAYPOST_PATCH_MAX_FILE_BYTES
        _finish(chunk_map, ChunkMapState.READY, f"no patches for files over {limit} bytes")
        return
    chunks = _chunks(chunk_map)
    bases = Bases.of(_cut_files(version) for version in _base_versions(place.version))
    offset = sum(chunk.length for chunk in chunks[: chunk_map.patched])
    try:
        with reader(blob_store(), chunk_map.sha256) as read:
            for chunk in chunks[chunk_map.patched :]:
                if not keep_going():
                    _save(chunk_map, "patched")
                    return
                if not _has_room():
                    _log.warning("no_room_for_patches", sha256=chunk_map.sha256)
                    return
                add_patches(chunk_map, chunk, read(offset, chunk.length), bases)
                offset += chunk.length
                chunk_map.patched += 1
    except FileNotFoundError as error:
        _finish(chunk_map, ChunkMapState.READY, f"the artifact store has lost a file: {error}")
        return
    _publish(chunk_map, ChunkMapState.READY)


def _place_of(chunk_map: ChunkMap) -> VersionFile | None:
    """The file in the newest version that may be used; None when each of them is quarantined."""
    files = VersionFile.objects.select_related("version").order_by("-version__registered_at")
    sound = files.filter(version__state__in=_SOUND)
    return sound.filter(sha256=chunk_map.sha256).first()


def _stored(file: VersionFile) -> StoredFile:
    return StoredFile(path=file.path, size=file.size_bytes, sha256=file.sha256)


def _base_versions(version: Version) -> list[Version]:
    others = Version.objects.filter(model_id=version.model_id, state__in=_SOUND)
    return list(others.exclude(pk=version.pk).order_by("-registered_at", "-number")[:BASES])


def _cut_files(version: Version) -> dict[str, list[CutChunk]]:
    digests = list(version.files.values_list("sha256", flat=True))
    states = (ChunkMapState.PATCHING, ChunkMapState.READY)
    maps = ChunkMap.objects.filter(sha256__in=digests, state__in=states).defer("document")
    return {chunk_map.sha256: _chunks(chunk_map) for chunk_map in maps}


def _chunks(chunk_map: ChunkMap) -> list[CutChunk]:
    return [CutChunk(*row) for row in chunk_map.chunks]


def _has_room() -> bool:
    return patch_store().has_room(RESERVE_BYTES)


def _publish(chunk_map: ChunkMap, state: ChunkMapState) -> None:
    chunk_map.document, chunk_map.document_digest = render(chunk_map, _chunks(chunk_map))
    chunk_map.state = state
    _save(chunk_map, "state", "chunks", "patched", "document", "document_digest")


def _finish(chunk_map: ChunkMap, state: ChunkMapState, reason: str) -> None:
    _log.info("chunk_map_ended_early", sha256=chunk_map.sha256, reason=reason)
    chunk_map.state, chunk_map.reason = state, reason[:500]
    _save(chunk_map, "state", "reason")


def _save(chunk_map: ChunkMap, *fields: str) -> None:
    chunk_map.claimed_until = None
    chunk_map.save(update_fields=[*fields, "claimed_until"])
