"""Brings the versions that were asked for into the catalogue: fetches their files, makes of them
what Triton takes, and pushes that by the same services as a CI job.

Level-triggered, in turns: the rows say what is to be done, files that came wait on disk, and a
worker that is killed costs one turn. Alias and source count once; from the first byte on it is the
number, and in the end the digests."""

import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import structlog
from django.db import transaction

from controlplane.audit.services import record_event
from controlplane.catalog.models import ImportedVersion, ImportState, Version
from controlplane.catalog.registry import (
    Refused,
    RegistrySource,
    RemoteFile,
    RemoteVersion,
    Unavailable,
)
from controlplane.catalog.registry.bundles import Fetched, build, manifest_document
from controlplane.catalog.registry.claims import (
    OPEN,
    Renew,
    Renewing,
    Taken,
    claim,
    release,
    renew,
)
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.creating import ACTOR, create_imported
from controlplane.catalog.registry.fetching import Fetcher, KeepGoing
from controlplane.catalog.registry.flavors import FLAVOR_TAG, Recipe, choose
from controlplane.catalog.registry.mlmodel import (
    MAX_MLMODEL_BYTES,
    MLMODEL_FILE,
    Mlmodel,
    parse_mlmodel,
)
from controlplane.catalog.services import finalise_version, store_blob
from controlplane.catalog.store import StoreFull
from controlplane.domain.errors import WaypostError

_log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 10
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=15), timedelta(hours=1)
# What fetched files leave free on the disk.
RESERVE_BYTES = 2 << 30
_MAX_REASON = 1000

Free = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


class Importer:
    """One worker's means: where versions come from, what converts them, where files wait. `clock`
    counts seconds: how long a turn goes on."""

    def __init__(
        self,
        *,
        source: RegistrySource,
        converter: Converter,
        folder: Path,
        free: Free = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._converter = converter
        self._folder = folder
        self._free = free
        self._clock = clock

    def run(self, *, now: datetime, keep_going: KeepGoing) -> None:
        """Works on one import after another until nothing is due or `keep_going` says no."""
        began = self._clock()

        def still_mine(row: ImportedVersion) -> None:
            renew(row, now + timedelta(seconds=self._clock() - began))

        while keep_going() and (row := claim(now)) is not None:
            self._turn(row, now, keep_going, partial(still_mine, row))

    def _turn(
        self, row: ImportedVersion, now: datetime, keep_going: KeepGoing, still_mine: Renew
    ) -> None:
        """One turn of one import. Nothing that goes wrong with it may keep the others waiting."""
        try:
            try:
                version = self._go_on(row, now, keep_going, still_mine)
            finally:
                still_mine()  # else what became of it is told by whoever has it now
        except Taken:
            _log.warning("import_taken", row=row.pk)
        except Refused as error:
            self._fail(row, str(error), now)
        except (Unavailable, StoreFull) as error:
            self._put_off(row, str(error), now)
        except WaypostError as error:
            if "retry_after" in error.extra:  # the store's trouble, not the version's
                self._put_off(row, error.detail, now)
            else:
                self._fail(row, _told(error), now)
        except Exception as error:
            _log.exception("import_failed", row=row.pk)
            self._put_off(row, f"The import broke off: {type(error).__name__}.", now)
        else:
            if version is None:
                release(row)
            else:
                _finish(row, version, now)
                self._forget_files(row)

    def _go_on(
        self, row: ImportedVersion, now: datetime, keep_going: KeepGoing, still_mine: Renew
    ) -> Version | None:
        """The version once it is in the catalogue; None when the turn ended before."""
        link = row.link
        remote = self._source.resolve(link.remote_name, version=row.remote_version)
        self._note_source(row, remote)
        fetcher = Fetcher(
            source=self._source, remote=remote, folder=self._place(row), still_mine=still_mine
        )
        files = {file.path: file for file in self._source.files(remote)}
        mlmodel = None
        if MLMODEL_FILE in files:
            mlmodel = self._read_mlmodel(files[MLMODEL_FILE], fetcher, keep_going)
            if mlmodel is None:
                return None
        recipe = choose(list(files.values()), mlmodel, wanted=remote.tags.get(FLAVOR_TAG, ""))
        needed = [files[path] for path in sorted(recipe.needed)]
        self._require_room(needed, fetcher)
        if not all(fetcher.fetch(file, keep_going) for file in needed):
            return None
        still_mine()
        return self._push(row, remote, recipe, mlmodel, fetcher, now)

    def _note_source(self, row: ImportedVersion, remote: RemoteVersion) -> None:
        if row.source_uri and row.source_uri != remote.source_uri[:1000]:
            raise Refused(
                f"Version {row.remote_version} lay at {row.source_uri[:120]!r} and is said to lie "
                f"at {remote.source_uri[:120]!r} now; register it anew in MLflow."
            )
        row.source_uri, row.run_id = remote.source_uri[:1000], remote.run_id[:64]
        row.save(update_fields=["source_uri", "run_id"])

    def _read_mlmodel(
        self, file: RemoteFile, fetcher: Fetcher, keep_going: KeepGoing
    ) -> Mlmodel | None:
        if file.size > MAX_MLMODEL_BYTES:
            raise Refused(f"{MLMODEL_FILE} has more than {MAX_MLMODEL_BYTES} bytes.")
        if not fetcher.fetch(file, keep_going):
            return None
        return parse_mlmodel(fetcher.place(file.path).read_bytes())

    def _require_room(self, files: list[RemoteFile], fetcher: Fetcher) -> None:
        """Twice the size: what waits here, and what the store gets."""
        waiting = [f for f in files if not fetcher.place(f.path).exists()]
        needed = sum(f.size for f in waiting) + sum(f.size for f in files) + RESERVE_BYTES
        free = self._free(self._folder)
        if needed > free:
            raise Unavailable(
                f"The import needs {needed} bytes on the disk of the worker of imports, which has "
                f"{free} free."
            )

    def _push(
        self,
        row: ImportedVersion,
        remote: RemoteVersion,
        recipe: Recipe,
        mlmodel: Mlmodel | None,
        fetcher: Fetcher,
        now: datetime,
    ) -> Version:
        places = {path: fetcher.place(path) for path in recipe.needed}
        fetched = Fetched(files=places, made=fetcher.folder / "made")
        link = row.link
        bundle = build(
            recipe, mlmodel, fetched, model_name=link.model.name, converter=self._converter
        )
        document = manifest_document(bundle)
        version = create_imported(row, document, remote, now)
        by_digest = {entry["sha256"]: bundle[entry["path"]] for entry in document["files"]}
        for sha256, local in by_digest.items():
            with local.open("rb") as stream:
                pieces = Renewing(stream=stream, renew=fetcher.still_mine)
                store_blob(version=version, sha256=sha256, stream=pieces, now=now)
        return finalise_version(version=version, actor=ACTOR, now=now)

    def _fail(self, row: ImportedVersion, reason: str, now: datetime) -> None:
        row.state, row.reason, row.finished_at = ImportState.FAILED, reason[:_MAX_REASON], now
        row.to_tell = {"waypost.state": "failed", "waypost.reason": reason[:500]}
        row.claimed_until = None
        with transaction.atomic():
            row.save(force_update=True)  # never to bring back what was unlinked meanwhile
            _note(row, "failed", now, reason=reason)
        self._forget_files(row)

    def _put_off(self, row: ImportedVersion, reason: str, now: datetime) -> None:
        row.attempts += 1
        if row.attempts >= MAX_ATTEMPTS:
            self._fail(row, f"After {row.attempts} attempts: {reason}", now)
            return
        pause = min(_FIRST_PAUSE * 2 ** (row.attempts - 1), _LONGEST_PAUSE)
        row.reason, row.not_before, row.claimed_until = reason[:_MAX_REASON], now + pause, None
        row.save(update_fields=["attempts", "reason", "not_before", "claimed_until"])

    def _place(self, row: ImportedVersion) -> Path:
        return self._folder / str(row.pk)

    def _forget_files(self, row: ImportedVersion) -> None:
        shutil.rmtree(self._place(row), ignore_errors=True)

    def forget_strangers(self) -> None:
        """Removes what was fetched for imports that were taken back."""
        if not self._folder.is_dir():
            return
        # The folders first: one that another worker makes in between belongs to an import.
        places = list(self._folder.iterdir())
        open_rows = ImportedVersion.objects.filter(state__in=OPEN).values_list("pk", flat=True)
        known = {str(pk) for pk in open_rows}
        for place in places:
            if place.name not in known:
                shutil.rmtree(place, ignore_errors=True)


@transaction.atomic
def _finish(row: ImportedVersion, version: Version, now: datetime) -> None:
    row.state, row.reason, row.finished_at = ImportState.IMPORTED, "", now
    row.to_tell = {"waypost.version": str(version.number), "waypost.state": version.state}
    row.claimed_until = row.not_before = None
    row.version = version
    row.save(force_update=True)
    _note(row, "finished", now, data={"version": version.number})


def _note(
    row: ImportedVersion,
    action: str,
    now: datetime,
    *,
    reason: str = "",
    data: dict[str, object] | None = None,
) -> None:
    remote = f"{row.link.remote_name}/{row.remote_version}"
    record_event(
        now=now,
        actor=ACTOR,
        action=f"import.{action}",
        object_type="model",
        object_id=row.link.model.name,
        reason=reason,
        data={"registry": row.link.registry, "remote": remote, **(data or {})},
    )


def _told(error: WaypostError) -> str:
    """An error of the catalogue as one sentence for the author in MLflow."""
    faults = "; ".join(f"{each.field}: {each.message}" for each in error.errors[:20])
    return f"{error.detail} {faults}".strip()
