"""Sends a bundle: the manifest first, then only the bytes the control plane lacks, then the last
word. Decides what is sent and what a refusal means; it must not know what is printed."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

from waypost_cli.api import Api, Document
from waypost_cli.bundle import PIECE_BYTES, Bundle, LocalFile, file_changed
from waypost_cli.errors import ApiError, CliError
from waypost_cli.upload_api import BlobPlace
from waypost_cli.uploading import Meter, Sending, send_large

PARALLEL_UPLOADS = 4
_FINALISE_ROUNDS = 2


class PushObserver(Protocol):
    """Is told what happens, from several threads at once."""

    def uploading(self, files: int, size_bytes: int) -> None: ...

    def sent(self, size_bytes: int) -> None:
        """`size_bytes` more went out; negative when an attempt starts over."""

    def uploaded(self, file: LocalFile) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """`document`: the version as the API shows it; `already`: there was nothing to do."""

    document: Document
    already: bool
    uploaded_files: int
    uploaded_bytes: int


def push(
    api: Api,
    *,
    model: str,
    version: str | None,
    bundle: Bundle,
    labels: Mapping[str, str],
    lineage: Document | None = None,
    parallel: int = PARALLEL_UPLOADS,
    observer: PushObserver,
) -> Pushed:
    """Repeating it with the same bytes changes nothing and is no error."""
    document = api.create_version(
        model=model,
        version=version,
        manifest=bundle.manifest(),
        labels=labels,
        lineage=lineage,
    )
    number = document.get("version")
    if not isinstance(number, str | int):
        raise CliError("the control plane did not say which version it made")
    if document.get("state") != "uploading":
        return Pushed(document=document, already=True, uploaded_files=0, uploaded_bytes=0)
    missing: object = document.get("missing")
    files_sent, bytes_sent = 0, 0
    for attempt in range(1, _FINALISE_ROUNDS + 1):
        files = _files_for(bundle, missing)
        upload_all(
            api,
            model=model,
            version=str(number),
            files=files,
            observer=observer,
            parallel=parallel,
        )
        files_sent, bytes_sent = files_sent + len(files), bytes_sent + sum(f.size for f in files)
        try:
            document = api.finalise_version(model=model, version=str(number))
            break
        except ApiError as error:
            # A blob may be gone again, swept or refused at another push of the same bytes.
            if error.code != "blobs-missing" or attempt == _FINALISE_ROUNDS:
                raise
            missing = error.extra.get("missing")
    return Pushed(
        document=document, already=False, uploaded_files=files_sent, uploaded_bytes=bytes_sent
    )


def upload_all(
    api: Api,
    *,
    model: str,
    version: str,
    files: Sequence[LocalFile],
    observer: PushObserver,
    parallel: int = PARALLEL_UPLOADS,
) -> None:
    """Up to `parallel` at once, each streamed from disk. The first failure stops the others."""
    if not files:
        return
    observer.uploading(len(files), sum(file.size for file in files))
    stopped = threading.Event()
    sending = Sending(
        uploads=api.uploads, slot=threading.BoundedSemaphore(parallel), parallel=parallel
    )

    def upload(file: LocalFile) -> None:
        if stopped.is_set():
            return
        meter = Meter(observer.sent, stopped)
        place = BlobPlace(model=model, version=version, sha256=file.sha256)
        if file.size > PIECE_BYTES:
            send_large(sending, place, file, meter)
        else:
            _send_whole(api, place, file, meter)
        observer.uploaded(file)

    with ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="push") as pool:
        futures = [pool.submit(upload, file) for file in files]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _send_whole(api: Api, place: BlobPlace, file: LocalFile, meter: Meter) -> None:
    try:
        api.put_blob(
            model=place.model,
            version=place.version,
            sha256=file.sha256,
            size_bytes=file.size,
            content=lambda: file.chunks(meter.start()),
        )
    except ApiError as error:
        if error.code in ("digest-mismatch", "size-mismatch"):
            raise file_changed(file) from error
        raise


def _files_for(bundle: Bundle, missing: object) -> list[LocalFile]:
    """One file for each digest asked for; equal files share their bytes."""
    if not isinstance(missing, list):
        raise CliError("the control plane did not say which files it lacks")
    by_digest = {file.sha256: file for file in bundle.files}
    strangers = [digest for digest in missing if digest not in by_digest]
    if strangers:
        raise CliError(f"the control plane asks for bytes that are not in the folder: {strangers}")
    return [by_digest[digest] for digest in dict.fromkeys(missing)]
