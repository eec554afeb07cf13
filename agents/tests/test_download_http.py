"""Downloads over real HTTP on loopback: each way for an answer to be cut, false or foreign."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fake_centre import FakeCentre, Handler
from fake_triton import FakeClock
from waypost_agent.centre import Blobs, Centre
from waypost_agent.connection import MAX_MISMATCHES
from waypost_agent.download import Downloader
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.held import Held
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile
from waypost_agent.staging import Staging

DATA = random.Random(1).randbytes(300_000)
FILE = ManifestFile(path="model.onnx", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
TAG = {"ETag": f'"{FILE.sha256}"'}
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nETag: "
    + TAG["ETag"].encode()
    + b"\r\nConnection: close\r\n\r\n"
)
PORTAL = b"<html><body>Welcome! Please accept the terms of this hotel.</body></html>"


class Site:
    """One agent's downloads from one centre; `paused` is asked between two pieces."""

    def __init__(self, folder: Path, centre: FakeCentre) -> None:
        self.centre = centre
        self.file = FILE
        centre.session = "wps_test"
        centre.blobs[FILE.sha256] = DATA
        self.partial, self.done = folder / "partial", folder / "done"
        self.client = Centre(
            centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=0.5
        )
        self.rejected: list[str] = []
        self.set_aside: list[str] = []
        self.between: Callable[[], bool] = lambda: False
        self.downloader = Downloader(
            Blobs(self.client, token=lambda: "wps_test", reject_token=self.rejected.append),
            clock=FakeClock(),
            limits=Limits(),
            should_pause=lambda: self.between(),
        )

    def fetch(self) -> bytes:
        self.downloader.fetch(
            self.file,
            partial=self.partial,
            destination=self.done,
            held=Held(Manifest(files=(self.file,), document={}, digest=""), []),
            set_aside=self._set_aside,
        )
        return self.done.read_bytes()

    def fetch_until_done(self, limit: int = 5) -> tuple[bytes, list[str]]:
        """As the loop does: again after each failure; the bytes and the codes before."""
        failures: list[str] = []
        for _ in range(limit):
            try:
                return self.fetch(), failures
            except Retryable as error:
                failures.append(error.code)
        raise AssertionError(failures)

    def once(self, answer: Callable[[Handler], None]) -> None:
        """The next request for a file is answered so; those after it by the centre."""

        def sabotage(handler: Handler) -> bool:
            del self.centre.sabotage["blobs"]
            answer(handler)
            return True

        self.centre.sabotage["blobs"] = sabotage

    def always(self, answer: Callable[[Handler], None]) -> None:
        self.centre.sabotage["blobs"] = lambda handler: answer(handler) is None

    def asked(self) -> list[str | None]:
        """The ranges of all requests."""
        return [headers.get("Range") for _, _, headers in self.centre.requests]

    def _set_aside(self, path: Path, reason: str) -> None:
        self.set_aside.append(reason)
        path.unlink()


@pytest.fixture
def site(tmp_path: Path, centre: FakeCentre) -> Iterator[Site]:
    site = Site(tmp_path, centre)
    yield site
    site.client.close()


def raw(data: bytes) -> Callable[[Handler], None]:
    """These bytes on the wire, and then the connection is cut."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(data)
        handler.wfile.flush()
        handler.close_connection = True

    return answer


def sent(status: int, body: bytes, headers: dict[str, str]) -> Callable[[Handler], None]:
    return lambda handler: handler.send(status, body, headers)


# What is asked


def test_a_resumed_download_asks_with_range_and_if_range(site: Site) -> None:
    site.partial.write_bytes(DATA[:1234])
    assert site.fetch() == DATA
    (_, _, headers) = site.centre.requests[-1]
    assert headers["Range"] == "bytes=1234-"
    assert headers["If-Range"] == TAG["ETag"]


def test_a_part_up_to_an_end_is_asked_for_and_the_connection_is_kept(site: Site) -> None:
    blobs = Blobs(site.client, token=lambda: "wps_test", reject_token=site.rejected.append)
    for start, end in ((0, 100), (100, 200_000), (200_000, None)):
        with blobs.open_blob(FILE.sha256, start, end) as part:
            assert (part.offset, part.total_bytes) == (start, len(DATA))
            assert b"".join(part.chunks) == DATA[start:end]
    assert site.asked() == ["bytes=0-99", "bytes=100-199999", "bytes=200000-"]


def test_a_body_left_in_the_middle_does_not_become_the_next_answer(site: Site) -> None:
    left = threading.Event()

    def slow(handler: Handler) -> None:
        handler.wfile.write(HEAD.replace(b"Connection: close\r\n", b"") + DATA[:10])
        handler.wfile.flush()
        left.wait(10)
        handler.close_connection = True

    site.once(slow)
    blobs = Blobs(site.client, token=lambda: "wps_test", reject_token=site.rejected.append)
    with blobs.open_blob(FILE.sha256, 0) as part:
        assert next(part.chunks) == DATA[:10]
    with blobs.open_blob(FILE.sha256, 0) as part:
        assert b"".join(part.chunks) == DATA
    left.set()


def test_what_arrives_is_given_on_without_waiting_for_more(site: Site) -> None:
    """Else a trickle would look like silence, and hold up what is more urgent."""
    go_on = threading.Event()

    def trickle(handler: Handler) -> None:
        handler.wfile.write(HEAD + DATA[:10])
        handler.wfile.flush()
        assert go_on.wait(10)
        handler.wfile.write(DATA[10:])
        handler.close_connection = True

    site.once(trickle)
    seen: list[int] = []

    def look() -> bool:
        seen.append(site.partial.stat().st_size)
        go_on.set()
        return False

    site.between = look
    assert site.fetch() == DATA
    assert seen[0] == 10


def test_what_came_in_small_records_before_a_cut_is_kept(site: Site) -> None:
    """Small reads are put together while more is there: a cut among them must lose none."""

    def dribble(handler: Handler) -> None:
        handler.wfile.write(HEAD)
        for at in range(0, 200_000, 1000):
            handler.wfile.write(DATA[at : at + 1000])
        handler.wfile.flush()
        handler.close_connection = True

    site.once(dribble)
    with pytest.raises(Retryable):
        site.fetch()
    assert site.partial.read_bytes() == DATA[:200_000]
    assert site.fetch() == DATA


# Cuts


@pytest.mark.parametrize(
    "length",
    [
        0,
        7,
        len(HEAD) - 40,
        len(HEAD) - 1,
        len(HEAD),
        len(HEAD) + 1,
        len(HEAD) + 65_536,
        len(HEAD) + len(DATA) // 2,
        len(HEAD) + len(DATA) - 1,
    ],
)
def test_an_answer_cut_anywhere_is_gone_on_with(site: Site, length: int) -> None:
    site.once(raw((HEAD + DATA)[:length]))
    data, failures = site.fetch_until_done()
    assert data == DATA
    assert failures == ["download-failed"]
    body = max(length - len(HEAD), 0)
    assert site.asked() == [None, f"bytes={body}-" if body else None]
    assert site.set_aside == []


def test_a_resumed_answer_cut_again_loses_nothing(site: Site) -> None:
    site.once(raw((HEAD + DATA)[: len(HEAD) + 100_000]))
    with pytest.raises(Retryable):
        site.fetch()
    part = (
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 200000\r\n"
        b"Content-Range: bytes 100000-299999/300000\r\n\r\n"
    )
    site.once(raw(part + DATA[100_000:250_000]))
    data, failures = site.fetch_until_done()
    assert (data, len(failures)) == (DATA, 1)
    assert site.asked() == [None, "bytes=100000-", "bytes=250000-"]


def test_a_connection_that_falls_silent_is_dropped(site: Site) -> None:
    quiet = threading.Event()

    def silent(handler: Handler) -> None:
        handler.wfile.write(HEAD + DATA[:1000])
        handler.wfile.flush()
        quiet.wait(10)
        handler.close_connection = True

    site.once(silent)
    with pytest.raises(Retryable):
        site.fetch()
    quiet.set()
    assert site.fetch() == DATA
    assert site.asked() == [None, "bytes=1000-"]


# Answers that are not what was asked for


FOREIGN: dict[str, Callable[[Handler], None]] = {
    "a captive portal": sent(200, PORTAL, {"Content-Type": "text/html"}),
    "a portal of the file's length": sent(200, PORTAL.ljust(300_000), {"ETag": '"portal"'}),
    "a portal without a length": raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PORTAL),
    "a portal in chunks": raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n<ht>\r\n0\r\n\r\n"
    ),
    "a redirect": sent(302, b"", {"Location": "http://169.254.169.254/"}),
    "another file": sent(200, DATA, {"ETag": '"' + "0" * 64 + '"'}),
    "another file's end": sent(
        206, DATA[1000:], {"ETag": '"1"', "Content-Range": "bytes 1000-299999/300000"}
    ),
    "a length that is one less": sent(200, DATA[:-1], TAG),
    "a length that is one more": sent(200, DATA + b"!", TAG),
    "a length that is no number": raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
    "an encoded body": sent(200, DATA, {**TAG, "Content-Encoding": "gzip"}),
    "a part from elsewhere": sent(206, DATA[7:], {"Content-Range": "bytes 7-299999/300000"}),
    "a part of another whole": sent(
        206, DATA[1000:], {"Content-Range": "bytes 1000-299999/400000"}
    ),
    "a part that is not as long as it says": sent(
        206, DATA[1000:2000], {"Content-Range": "bytes 1000-299999/300000"}
    ),
    "a part without a range": sent(206, DATA[1000:], {}),
    "a part with a strange range": sent(206, DATA[1000:], {"Content-Range": "nonsense"}),
    "not found": sent(404, b"oops", {}),
    "an error": sent(500, b"oops", {}),
    "no HTTP": raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "a flood of headers": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_an_answer_that_is_not_the_file_leaves_what_is_here_as_it_is(site: Site, name: str) -> None:
    """However often it comes: a portal must not make a version fail for good."""
    site.partial.write_bytes(DATA[:1000])
    site.always(FOREIGN[name])
    for _ in range(MAX_MISMATCHES + 1):
        with pytest.raises(Retryable) as caught:
            site.fetch()
        assert caught.value.code == "download-failed"
        assert site.partial.read_bytes() == DATA[:1000]
    del site.centre.sabotage["blobs"]
    assert site.fetch() == DATA


def test_the_whole_instead_of_a_part_is_read_past_what_is_here(site: Site) -> None:
    site.partial.write_bytes(DATA[:1234])
    site.once(sent(200, DATA, TAG))
    assert site.fetch() == DATA
    assert len(site.asked()) == 1


def test_a_refused_range_is_asked_for_as_a_whole(site: Site) -> None:
    site.partial.write_bytes(DATA[:1234])
    site.once(sent(416, b"", {"Content-Range": "bytes */1000"}))
    assert site.fetch() == DATA
    assert site.asked() == ["bytes=1234-", None]


def test_a_centre_that_is_busy_is_left_alone_for_as_long_as_it_says(site: Site) -> None:
    site.once(sent(503, b"", {"Retry-After": "120"}))
    with pytest.raises(Retryable) as caught:
        site.fetch()
    assert caught.value.after_seconds == 120.0


def test_a_session_that_ended_is_said_to_the_link(site: Site) -> None:
    site.centre.session = "wps_newer"
    with pytest.raises(Retryable):
        site.fetch()
    assert site.rejected == ["wps_test"]


# Wrong bytes


@pytest.mark.parametrize("at", [0, 1, 150_000, len(DATA) - 1])
def test_one_flipped_bit_costs_one_more_fetch(site: Site, at: int) -> None:
    flipped = bytearray(DATA)
    flipped[at] ^= 1
    site.once(sent(200, bytes(flipped), TAG))
    assert site.fetch() == DATA
    assert len(site.asked()) == 2
    assert len(site.set_aside) == 1


def test_a_centre_whose_file_is_another_fails_with_a_code_of_its_own(site: Site) -> None:
    site.always(sent(200, DATA[::-1], TAG))
    with pytest.raises(Permanent) as caught:
        site.fetch()
    assert caught.value.code == "digest-mismatch"
    assert len(site.asked()) == MAX_MISMATCHES


def test_garbage_after_the_end_is_not_part_of_the_file_nor_of_the_next_answer(site: Site) -> None:
    def garbage(handler: Handler) -> None:
        handler.wfile.write(HEAD.replace(b"Connection: close\r\n", b"") + DATA + b"garbage\r\n\r\n")

    site.once(garbage)
    assert site.fetch() == DATA
    site.done.unlink()
    data, _ = site.fetch_until_done()
    assert data == DATA


# Kill


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child runs no thread
def test_a_killed_download_is_gone_on_with_by_the_next_process(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_agent.centre._PIECE_BYTES", 100_000)  # not all in one read
    child = os.fork()
    if child == 0:
        try:
            site.between = lambda: os.kill(os.getpid(), signal.SIGKILL) is not None
            site.fetch()
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    here = site.partial.stat().st_size
    assert 0 < here < len(DATA)
    assert site.fetch() == DATA
    assert site.asked()[-1] == f"bytes={here}-"


def test_what_another_version_left_of_the_same_file_is_gone_on_with(
    site: Site, tmp_path: Path
) -> None:
    staging = Staging(tmp_path / "staging")
    staging.prepare()
    manifests = [
        Manifest(files=(FILE,), document={"schema": str(n)}, digest=f"sha256:{n}" * 3)
        for n in (1, 2)
    ]
    staging.begin("echo", "1", manifests[0])
    staging.partial_path("echo", "1", manifests[0], FILE.sha256).write_bytes(DATA[:9000])
    staging.begin("echo", "2", manifests[1])
    site.partial = staging.partial_path("echo", "2", manifests[1], FILE.sha256)
    assert site.fetch() == DATA
    assert site.asked() == ["bytes=9000-"]


# Several connections


@pytest.fixture
def wide(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two connections for a file of pieces of 20 kB."""
    for name in ("pieces.CHUNK_BYTES", "download.CHUNK_BYTES", "download._LEAST_JOB_BYTES"):
        monkeypatch.setattr(f"waypost_agent.{name}", 20_000)
    monkeypatch.setattr("waypost_agent.download._MOST_JOB_BYTES", 60_000)
    pieces = [DATA[at : at + 20_000] for at in range(0, len(DATA), 20_000)]
    digests = tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
    site.file = replace(FILE, chunks=digests)
    site.downloader = Downloader(
        Blobs(site.client, token=lambda: "wps_test", reject_token=site.rejected.append),
        clock=FakeClock(),
        limits=Limits(),
        should_pause=lambda: site.between(),
        connections=2,
    )
    return site


def test_two_connections_ask_for_parts_that_together_are_the_file(wide: Site) -> None:
    assert wide.fetch() == DATA
    asked = sorted(wide.asked(), key=lambda text: int(text[6:].partition("-")[0]))  # type: ignore[index]
    assert asked == [*(f"bytes={at}-{at + 59_999}" for at in range(0, 240_000, 60_000)),
                     "bytes=240000-"]  # fmt: skip
    assert all(headers["If-Range"] == TAG["ETag"] for _, _, headers in wide.centre.requests)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_answer_to_one_of_two_connections_harms_nothing(wide: Site, name: str) -> None:
    wide.once(FOREIGN[name])
    data, failures = wide.fetch_until_done()
    assert data == DATA
    assert failures in ([], ["download-failed"])
    assert wide.set_aside == []


def test_a_centre_that_ignores_ranges_serves_two_connections_as_one(wide: Site) -> None:
    wide.always(sent(200, DATA, TAG))
    assert wide.fetch() == DATA


@pytest.mark.parametrize("at", [0, 100_000, 150_001, 299_999])
def test_a_flipped_bit_costs_its_piece_alone(wide: Site, at: int) -> None:
    flipped = bytearray(DATA)
    flipped[at] ^= 1
    wide.centre.blobs[FILE.sha256] = bytes(flipped)
    wrong = at // 20_000 * 20_000

    def heal(handler: Handler) -> bool:
        if (handler.headers["Range"] or "").startswith(f"bytes={wrong}-") and seen:
            wide.centre.blobs[FILE.sha256] = DATA
        seen.append(1)
        return False

    seen: list[int] = []
    wide.centre.sabotage["blobs"] = heal
    data, _ = wide.fetch_until_done()
    assert data == DATA
    assert wide.set_aside == []
