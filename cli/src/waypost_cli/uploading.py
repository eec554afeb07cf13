"""How one file gets to the control plane: a small one whole, a large one in pieces that go on where
they stopped, or in parts straight into a bucket. Decides what a failure costs: at most a piece."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass

from waypost_cli.bundle import PIECE_BYTES, LocalFile, file_changed
from waypost_cli.errors import ApiError, CliError, LinkExpiredError, UnavailableError
from waypost_cli.transport import ATTEMPTS
from waypost_cli.upload_api import BlobPlace, PartLink, UploadApi

# Begun anew after bytes that were no longer the file's, or after an upload that ended.
_ROUNDS = 3
# Of a second each, for another push that sends the same file.
_LONGEST_WAITS = 600


class StoppedError(CliError):
    """Another upload failed; that one's error is the one to show."""


class Meter:
    """Counts one file's bytes. Safe for several threads."""

    def __init__(self, sent: Callable[[int], None], stopped: threading.Event) -> None:
        self._sent = sent
        self._stopped = stopped
        self._lock = threading.Lock()
        self._total_bytes = 0

    def add(self, size_bytes: int) -> None:
        if self._stopped.is_set():
            raise StoppedError("another upload failed")
        with self._lock:
            self._total_bytes += size_bytes
        self._sent(size_bytes)

    def set(self, total_bytes: int) -> None:
        """So many are there, whatever was counted; the difference is told."""
        with self._lock:
            difference, self._total_bytes = total_bytes - self._total_bytes, total_bytes
        if difference:
            self._sent(difference)

    def start(self) -> Callable[[int], None]:
        self.set(0)
        return self.add


@dataclass(frozen=True, kw_only=True)
class Sending:
    """What the transfers of a push share: `slot` lets only so many bodies out at once."""

    uploads: UploadApi
    slot: AbstractContextManager[object]
    parallel: int


def send_large(sending: Sending, place: BlobPlace, file: LocalFile, meter: Meter) -> None:
    """Raises `FileChangedError`, and what the calls raise."""
    progress = sending.uploads.progress(place)
    if progress.done:
        meter.set(file.size)
    elif progress.in_parts:
        _send_parts(sending, place, file, meter)
    else:
        _send_pieces(sending, place, file, meter, progress.offset)


def _send_pieces(
    sending: Sending, place: BlobPlace, file: LocalFile, meter: Meter, offset: int
) -> None:
    uploads, failures, waits = sending.uploads, 0, 0
    while True:
        meter.set(offset)
        end = min(offset + PIECE_BYTES, file.size)
        try:
            with sending.slot:
                content = file.chunks(meter.add, offset, end - offset)
                progress = uploads.put_piece(
                    place, start=offset, end=end, total=file.size, content=content
                )
            failures = 0
        except UnavailableError as error:
            failures += 1
            uploads.pause_after(error, failures)
            progress = uploads.progress(place)
        except ApiError as error:
            if error.code not in ("upload-offset", "upload-busy"):
                raise _explained(error, file) from error
            # Another push of the same file is at it: its pieces are as good as ours.
            if error.code == "upload-busy":
                waits += 1
                if waits > _LONGEST_WAITS:
                    raise
                uploads.pause_after(_busy(error), 1)
            progress = uploads.progress(place)
            if error.code == "upload-offset" and progress.offset == offset and not progress.done:
                raise
        if progress.done:
            meter.set(file.size)
            return
        offset = progress.offset
        if offset >= file.size:
            raise CliError(f"the control plane has all of {file.path} and does not take it in")


def _send_parts(sending: Sending, place: BlobPlace, file: LocalFile, meter: Meter) -> None:
    for attempt in range(1, _ROUNDS + 1):
        try:
            _send_round(sending, place, file, meter)
            return
        except LinkExpiredError:
            if attempt == _ROUNDS:
                raise
        except ApiError as error:
            if attempt == _ROUNDS or error.code not in (
                "parts-missing",
                "parts-changed",
                "upload-unknown",
            ):
                raise _explained(error, file) from error
            if error.code == "parts-changed":
                upload = sending.uploads.parts(place, size=file.size).upload
                sending.uploads.abort(place, upload)


def _send_round(sending: Sending, place: BlobPlace, file: LocalFile, meter: Meter) -> None:
    """Every part that is not there, a page of addresses at a time, then the last word."""
    first: int | None = 1
    etags: dict[int, str] = {}
    while first is not None:
        page = sending.uploads.parts(place, size=file.size, first=first)
        if page.done:
            meter.set(file.size)
            return
        if first == 1:
            meter.set(page.held_bytes)
            etags.update(page.held)
        etags.update(_send_page(sending, file, meter, page.links))
        first = page.following
    sending.uploads.complete(place, page.upload, etags)


def _send_page(
    sending: Sending, file: LocalFile, meter: Meter, links: tuple[PartLink, ...]
) -> Iterator[tuple[int, str]]:
    if not links:
        return
    with ThreadPoolExecutor(max_workers=sending.parallel, thread_name_prefix="part") as pool:
        futures = {pool.submit(_send_part, sending, file, meter, link): link for link in links}
        try:
            for future in as_completed(futures):
                yield futures[future].number, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _send_part(sending: Sending, file: LocalFile, meter: Meter, link: PartLink) -> str:
    for attempt in range(1, ATTEMPTS + 1):
        sent = 0

        def count(size_bytes: int) -> None:
            nonlocal sent
            sent += size_bytes
            meter.add(size_bytes)

        try:
            with sending.slot:
                content = file.chunks(count, link.offset, link.size)
                return sending.uploads.put_part(link.url, content, link.size)
        except UnavailableError as error:
            meter.add(-sent)
            sending.uploads.pause_after(error, attempt)
    raise AssertionError("pause_after raises at the last attempt")


def _busy(error: ApiError) -> UnavailableError:
    return UnavailableError(error.message, retry_after_seconds=1.0, answered=True)


def _explained(error: ApiError, file: LocalFile) -> CliError:
    return file_changed(file) if error.code in ("digest-mismatch", "size-mismatch") else error
