"""Downloads over real HTTP and from a source that lies: cuts, wrong bytes, full disks."""

from __future__ import annotations

import errno
import hashlib
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from fake_centre import FakeCentre, Handler
from waypost_agent.centre import Blobs, Centre
from waypost_agent.download import MAX_MISMATCHES, download
from waypost_agent.errors import Paused, Permanent, Retryable
from waypost_agent.manifest import ManifestFile
from waypost_agent.ports import BlobPart

DATA = random.Random(1).randbytes(300_000)
FILE = ManifestFile(path="model.onnx", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


class Source:
    """Serves `data` from the asked offset, or whole; `cut` bytes in, it breaks off."""

    def __init__(
        self, data: bytes = DATA, *, ranges: bool = True, total: int | None = None
    ) -> None:
        self.data = data
        self.ranges = ranges
        self.total = len(data) if total is None else total
        self.cut: int | None = None
        self.offsets: list[int] = []

    @contextmanager
    def open_blob(self, sha256: str, offset: int) -> Iterator[BlobPart]:
        self.offsets.append(offset)
        start = offset if self.ranges else 0
        yield BlobPart(offset=start, total_bytes=self.total, chunks=self._chunks(start))

    def _chunks(self, start: int) -> Iterator[bytes]:
        end = len(self.data) if self.cut is None else self.cut
        for at in range(start, end, 64_000):
            yield self.data[at : min(at + 64_000, end)]
        if self.cut is not None:
            self.cut = None
            raise Retryable("download-failed", "the cable was pulled")


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., Path]:
    def fetch(source: object, file: ManifestFile = FILE, **options: object) -> Path:
        download(
            source,  # type: ignore[arg-type]  # any source of the right shape
            file,
            partial=tmp_path / "partial",
            destination=tmp_path / "done",
            should_pause=options.pop("should_pause", lambda: False),  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        return tmp_path / "done"

    return fetch


@pytest.mark.parametrize("cut", [0, 1, 63_999, 64_000, 64_001, len(DATA) - 1])
def test_a_cut_download_goes_on_where_it_was_cut(fetch: Callable[..., Path], cut: int) -> None:
    source = Source()
    source.cut = cut
    with pytest.raises(Retryable, match="cable"):
        fetch(source)
    assert fetch(source).read_bytes() == DATA
    assert source.offsets == [0, cut]


def test_a_source_without_ranges_sends_the_whole_again(fetch: Callable[..., Path]) -> None:
    source = Source(ranges=False)
    source.cut = 100_000
    with pytest.raises(Retryable):
        fetch(source)
    assert fetch(source).read_bytes() == DATA


def test_wrong_bytes_are_deleted_and_given_up_after_three_times(
    fetch: Callable[..., Path], tmp_path: Path
) -> None:
    source = Source(b"x" * len(DATA))
    with pytest.raises(Permanent, match="sha256") as caught:
        fetch(source)
    assert caught.value.code == "digest-mismatch"
    assert source.offsets == [0] * MAX_MISMATCHES
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_beginning_on_disk_heals(fetch: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "partial").write_bytes(b"y" * 1000)
    source = Source()
    assert fetch(source).read_bytes() == DATA
    assert source.offsets == [1000, 0]


@pytest.mark.parametrize("extra", [-1, 1, 5_000_000])
def test_a_length_that_is_not_the_manifests_is_refused(
    fetch: Callable[..., Path], tmp_path: Path, extra: int
) -> None:
    data = DATA[:extra] if extra < 0 else DATA + bytes(extra)
    with pytest.raises(Permanent, match="bytes where the manifest says"):
        fetch(Source(data))
    assert not (tmp_path / "done").exists()


def test_more_bytes_than_declared_never_reach_the_disk(
    fetch: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(Permanent, match="more bytes than the manifest says"):
        fetch(Source(DATA + bytes(5_000_000), total=len(DATA)))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_needs_no_request(fetch: Callable[..., Path]) -> None:
    empty = ManifestFile(path="empty", size=0, sha256=hashlib.sha256(b"").hexdigest())
    source = Source(b"")
    assert fetch(source, empty).read_bytes() == b""
    assert source.offsets == []


def test_a_pause_keeps_what_arrived(fetch: Callable[..., Path], tmp_path: Path) -> None:
    source = Source()
    with pytest.raises(Paused):
        fetch(source, should_pause=lambda: True)
    assert (tmp_path / "partial").stat().st_size == 64_000
    assert fetch(source).read_bytes() == DATA
    assert source.offsets == [0, 64_000]


class FullDisk(io.BytesIO):
    """A file on a disk with room for some bytes."""

    room = 100_000

    def write(self, data: object) -> int:
        FullDisk.room -= len(data)  # type: ignore[arg-type]  # bytes are written, nothing else
        if FullDisk.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return 0


def test_a_disk_that_fills_up_is_a_retryable_failure(fetch: Callable[..., Path]) -> None:
    def opener(path: Path, mode: str) -> BinaryIO:
        return FullDisk()

    with pytest.raises(Retryable) as caught:
        fetch(Source(), opener=opener)
    assert caught.value.code == "disk-full"
    assert "model.onnx" in caught.value.reason


# Over real HTTP


@pytest.fixture
def blobs(centre: FakeCentre) -> Iterator[Blobs]:
    client = Centre(centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0)
    centre.session = "wps_test"
    centre.blobs[FILE.sha256] = DATA
    rejected: list[str] = []
    yield Blobs(client, token=lambda: "wps_test", reject_token=rejected.append)
    client.close()


def test_http_resumes_with_range_and_if_range(
    fetch: Callable[..., Path], tmp_path: Path, centre: FakeCentre, blobs: Blobs
) -> None:
    (tmp_path / "partial").write_bytes(DATA[:1234])
    assert fetch(blobs).read_bytes() == DATA
    (_, _, headers) = centre.requests[-1]
    assert headers["Range"] == "bytes=1234-"
    assert headers["If-Range"] == f'"{FILE.sha256}"'


def test_http_answered_whole_instead_of_a_part_is_taken_from_the_start(
    fetch: Callable[..., Path], tmp_path: Path, centre: FakeCentre, blobs: Blobs
) -> None:
    def whole(handler: Handler) -> bool:
        handler.send(200, DATA, {"ETag": '"another"'})
        return True

    centre.sabotage["blobs"] = whole
    (tmp_path / "partial").write_bytes(b"z" * 1234)
    assert fetch(blobs).read_bytes() == DATA


def test_http_cut_in_mid_body_goes_on_from_there(
    fetch: Callable[..., Path], tmp_path: Path, centre: FakeCentre, blobs: Blobs
) -> None:
    def cut(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:100_000])
        handler.close_connection = True
        del centre.sabotage["blobs"]
        return True

    centre.sabotage["blobs"] = cut
    with pytest.raises(Retryable) as caught:
        fetch(blobs)
    assert caught.value.code == "download-failed"
    assert 0 < (tmp_path / "partial").stat().st_size <= 100_000
    assert fetch(blobs).read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": "bytes 7-9/10"}),
        (206, {"Content-Range": "nonsense"}),
        (206, {}),
        (302, {"Location": "http://169.254.169.254/"}),
        (404, {}),
        (500, {}),
        (503, {"Retry-After": "5"}),
    ],
    ids=str,
)
def test_http_answers_that_are_no_file_are_retryable(
    fetch: Callable[..., Path],
    tmp_path: Path,
    centre: FakeCentre,
    blobs: Blobs,
    status: int,
    headers: dict[str, str],
) -> None:
    def answer(handler: Handler) -> bool:
        handler.send(status, b"oops", headers)
        return True

    centre.sabotage["blobs"] = answer
    (tmp_path / "partial").write_bytes(DATA[:1000])
    with pytest.raises(Retryable):
        fetch(blobs)
    assert (tmp_path / "partial").read_bytes() == DATA[:1000]
