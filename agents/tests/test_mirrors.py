"""Mirrors: asked in order before the centre, put off when they fail, cut or lie, never trusted; and
the serving side, which gives files only to who knows the secret."""

from __future__ import annotations

import hashlib
import logging
import random
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import urllib3

from fake_centre import FakeCentre
from fake_triton import FakeClock
from versions import make_version
from waypost_agent.centre import Blobs, Centre
from waypost_agent.config import parse_config
from waypost_agent.download import Downloader
from waypost_agent.downloads import make_mirrors, serving_mirror
from waypost_agent.errors import BlobUnknown, Retryable, WindowClosed
from waypost_agent.held import Held
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile
from waypost_agent.mirror_server import MirrorServer, _Server
from waypost_agent.mirrors import HEADER, Mirror, MirrorBlobs, MirroredBlobs
from waypost_agent.ports import BlobPart
from world import World

PIECE = 50_000
DATA = random.Random(7).randbytes(310_000)
SHA = hashlib.sha256(DATA).hexdigest()
FILE = ManifestFile(
    path="model.onnx",
    size=len(DATA),
    sha256=SHA,
    chunks=tuple(
        hashlib.sha256(DATA[at : at + PIECE]).hexdigest() for at in range(0, len(DATA), PIECE)
    ),
)
SECRET = "a-secret-of-this-region"


class Source:
    """A mirror or a centre; `kind` is what is wrong with it."""

    def __init__(self, kind: str = "good") -> None:
        self.kind = kind
        self.asked: list[int] = []
        self.sent = 0

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        self.asked.append(offset)
        if self.kind == "gone":
            raise Retryable("download-failed", "does not answer")
        if self.kind == "empty":
            raise BlobUnknown("download-failed", "404")
        data = DATA + b"?" if self.kind == "another size" else DATA
        start = 0 if self.kind == "no ranges" else offset
        yield BlobPart(
            offset=start, total_bytes=len(data), chunks=self._pieces(start, end or len(data))
        )

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, 20_000):
            if self.kind == "cut" and at >= start + 60_000:
                raise Retryable("download-failed", "the cable was pulled")
            if self.kind == "short" and at >= start + 60_000:
                return
            piece = DATA[at : min(at + 20_000, end)]
            self.sent += len(piece)
            yield bytes(len(piece)) if self.kind == "lies" else piece


class Site:
    def __init__(self, folder: Path, *mirrors: Source) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.centre = Source()
        self.sources = mirrors
        named = [Mirror(f"m{n}", source, self.clock) for n, source in enumerate(mirrors)]
        self.downloader = Downloader(
            MirroredBlobs(self.centre, named),
            clock=self.clock,
            limits=Limits(),
            should_pause=lambda: False,
        )

    def fetch(self, refuse: Callable[[], None] = lambda: None) -> bytes:
        (self.folder / "done").unlink(missing_ok=True)
        self.downloader.fetch(
            FILE,
            partial=self.folder / "partial",
            destination=self.folder / "done",
            held=Held(Manifest(files=(FILE,), document={}, digest=""), []),
            set_aside=lambda path, why: path.unlink(),
            refuse=refuse,
        )
        return (self.folder / "done").read_bytes()


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waypost_agent.pieces.CHUNK_BYTES", PIECE)


def test_the_first_mirror_that_gives_the_file_is_enough(tmp_path: Path) -> None:
    site = Site(tmp_path, Source(), Source())
    assert site.fetch() == DATA
    assert [source.sent for source in (*site.sources, site.centre)] == [len(DATA), 0, 0]


@pytest.mark.parametrize("kind", ["gone", "empty", "another size", "no ranges"])
def test_a_mirror_that_is_of_no_use_costs_a_question_and_the_next_is_asked(
    tmp_path: Path, kind: str
) -> None:
    site = Site(tmp_path, Source(kind), Source())
    (tmp_path / "partial").write_bytes(DATA[:70_000])
    assert site.fetch() == DATA
    assert site.sources[0].sent == 0
    assert site.sources[1].sent == len(DATA) - 70_000
    assert site.centre.asked == []


@pytest.mark.parametrize("kind", ["cut", "short"])
def test_what_a_mirror_brought_before_it_broke_off_is_kept(tmp_path: Path, kind: str) -> None:
    site = Site(tmp_path, Source(kind))
    assert site.fetch() == DATA
    assert (site.sources[0].sent, site.centre.asked) == (60_000, [60_000])


def test_a_mirror_that_lies_costs_one_chunk_and_is_put_off_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, Source("lies"))
    with caplog.at_level(logging.WARNING):
        assert site.fetch() == DATA
    assert site.sources[0].sent <= PIECE + 20_000
    assert site.centre.sent == len(DATA)
    (line,) = (r.getMessage() for r in caplog.records if "the mirror m0" in r.getMessage())
    assert "is not asked for 60 s" in line
    assert "piece 0 with the sha256" in line


def test_a_mirror_is_put_off_longer_each_time_and_asked_again(tmp_path: Path) -> None:
    site = Site(tmp_path, Source("gone"))
    asked = []
    for seconds in (59.0, 2.0, 118.0, 3.0, 237.0):
        site.fetch()
        asked.append(len(site.sources[0].asked))
        site.clock.now += seconds
    assert asked == [1, 1, 2, 2, 3]
    site.sources[0].kind = "good"
    site.clock.now += 1000.0
    assert site.fetch() == DATA
    assert site.sources[0].sent == len(DATA)


def test_a_file_that_a_mirror_lacks_says_nothing_about_its_others(tmp_path: Path) -> None:
    source, clock = Source("empty"), FakeClock()
    mirror = Mirror("m", source, clock)
    centre = Source()
    blobs = MirroredBlobs(centre, [mirror])
    with blobs.open_blob(SHA, 0):
        pass
    assert not mirror.may_have(SHA)
    assert mirror.may_have("0" * 64)
    clock.now += 61.0
    assert mirror.may_have(SHA)


def test_wrong_bytes_from_mirrors_never_fail_a_version(tmp_path: Path) -> None:
    site = Site(tmp_path, *(Source("lies") for _ in range(5)))
    assert site.fetch() == DATA


def test_a_window_that_closes_is_no_fault_of_the_mirror(tmp_path: Path) -> None:
    site = Site(tmp_path, Source())

    def refuse() -> None:
        if site.sources[0].sent >= PIECE:
            raise WindowClosed("window-closed", "the window is closed")

    with pytest.raises(WindowClosed):
        site.fetch(refuse)
    assert site.centre.asked == []
    assert site.fetch() == DATA
    assert site.centre.asked == []


def test_silence_of_the_centre_is_still_a_failure(tmp_path: Path) -> None:
    site = Site(tmp_path, Source("empty"))
    site.centre.kind = "gone"
    with pytest.raises(Retryable, match="does not answer"):
        site.fetch()


# The serving side


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MirrorServer]:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    with MirrorServer(
        ("127.0.0.1", 0),
        secret=SECRET,
        find=lambda sha256: path if sha256 == SHA else None,
    ) as server:
        yield server


def ask(server: MirrorServer, sha256: str = SHA, **headers: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        "GET",
        f"http://127.0.0.1:{server.port}/agent/v1/blobs/{sha256}",
        headers={HEADER: SECRET, **headers},
        retries=False,
    )


def line_to(server: MirrorServer) -> Centre:
    return Centre(
        f"http://127.0.0.1:{server.port}",
        ca_file=None,
        connect_timeout_seconds=2.0,
        read_timeout_seconds=5.0,
        name="the mirror m",
    )


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 100), (77, 200_000), (309_999, None), (5, len(DATA))]
)
def test_a_neighbour_gets_the_bytes_it_asks_for(
    server: MirrorServer, start: int, end: int | None
) -> None:
    line = line_to(server)
    with MirrorBlobs(line, SECRET).open_blob(SHA, start, end) as part:
        assert (part.offset, part.total_bytes) == (start, len(DATA))
        assert b"".join(part.chunks) == DATA[start:end]
    line.close()


@pytest.mark.parametrize("secret", ["", "wrong", SECRET + "x", SECRET[:-1]])
def test_who_does_not_know_the_secret_gets_nothing(server: MirrorServer, secret: str) -> None:
    answer = ask(server, **{HEADER: secret})
    assert answer.status == 401
    assert answer.headers["Connection"] == "close"
    assert answer.json()["code"] == "mirror-secret-invalid"
    with (
        pytest.raises(Retryable, match="the mirror m does not give the file: 401"),
        MirrorBlobs(line_to(server), "wrong").open_blob(SHA, 0),
    ):
        pass


def test_a_mirror_is_shown_the_secret_and_never_a_session(centre: FakeCentre) -> None:
    line = Centre(centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0)
    with pytest.raises(Retryable), MirrorBlobs(line, SECRET).open_blob(SHA, 100):
        pass
    (_, path, headers) = centre.requests[-1]
    assert (path, headers[HEADER]) == (f"blobs/{SHA}", SECRET)
    assert headers["Range"] == "bytes=100-"
    assert "Authorization" not in headers
    line.close()


def test_an_error_without_end_is_a_failed_download_and_the_next_source_is_asked(
    centre: FakeCentre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else than a failed download would end the agent, and again after its start."""
    monkeypatch.setattr("waypost_agent.centre._MAX_ANSWER_BYTES", 1000)
    centre.session = "wps_test"
    centre.sabotage["blobs"] = lambda handler: handler.send(404, bytes(3_000_000)) is None
    line = Centre(centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0)
    blobs = Blobs(line, token=lambda: "wps_test", reject_token=lambda token: None)
    with pytest.raises(Retryable, match="more than 1000 bytes"), blobs.open_blob(SHA, 0):
        pass
    mirror, source = Mirror("m", MirrorBlobs(line, SECRET), FakeClock()), Source()
    with MirroredBlobs(source, [mirror]).open_blob(SHA, 0) as part:
        assert b"".join(part.chunks) == DATA
    assert not mirror.may_have(SHA)
    line.close()


def test_a_file_that_is_not_here_is_said_to_be_unknown(server: MirrorServer) -> None:
    with pytest.raises(BlobUnknown), MirrorBlobs(line_to(server), SECRET).open_blob("0" * 64, 0):
        pass


def test_callers_that_say_nothing_take_no_more_than_their_number_of_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_agent.mirror_server._MOST_CONNECTIONS", 3)
    with (
        MirrorServer(("127.0.0.1", 0), secret=SECRET, find=lambda _: None) as server,
        ExitStack() as stack,
    ):
        quiet = [stack.enter_context(connected(server)) for _ in range(3)]
        assert stack.enter_context(connected(server)).recv(1) == b""
        quiet[0].settimeout(0.05)
        with pytest.raises(TimeoutError):
            quiet[0].recv(1)
        # Who goes makes room for another, who is answered.
        quiet.pop().close()
        answers = (knock(server) for _ in range(1000))
        assert next(answer for answer in answers if answer).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"])
def test_a_caller_that_trickles_is_cut_at_the_end_of_its_time(
    server: MirrorServer, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr("waypost_agent.mirror_server._HEAD_SECONDS", 0.2)
    with connected(server) as line:
        line.sendall(said)
        line.settimeout(0.05)
        for _ in range(200):
            try:
                line.sendall(b"x")
                if not line.recv(10_000):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("a connection that never asks for a file is kept")


def test_a_file_may_take_longer_than_its_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is for the question alone: a neighbour behind a slow link gets all of the file."""
    monkeypatch.setattr("waypost_agent.mirror_server._HEAD_SECONDS", 0.0)
    path = tmp_path / "blob"
    path.write_bytes(DATA * 80)  # more than the buffers between the two take
    looked = threading.Semaphore(0)
    look = _Server.service_actions

    def count_looks(self: _Server) -> None:
        look(self)
        looked.release()

    monkeypatch.setattr(_Server, "service_actions", count_looks)
    question = f"GET /agent/v1/blobs/{SHA} HTTP/1.1\r\n{HEADER}: {SECRET}\r\n\r\n"
    with MirrorServer(("127.0.0.1", 0), secret=SECRET, find=lambda _: path) as server:
        for _ in range(50):  # a look may cut a question that is not read yet
            with connected(server) as line, suppress(ConnectionError):
                line.sendall(question.encode())
                if not (received := bytearray(line.recv(100))):
                    continue
                while looked.acquire(blocking=False):
                    pass
                assert looked.acquire(timeout=10.0)
                while not received.endswith(DATA) or len(received) < len(DATA) * 80:
                    piece = line.recv(1 << 20)
                    assert piece
                    received += piece
                return
    pytest.fail("the file was never begun")


def connected(server: MirrorServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=5.0)


def knock(server: MirrorServer) -> bytes:
    """What a question without the secret is answered; nothing where there is no room."""
    with connected(server) as line:
        try:
            line.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return line.recv(100)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("path", ["../../etc/passwd", "", SHA.upper(), SHA + "/chunks"])
def test_only_digests_are_looked_up(server: MirrorServer, path: str) -> None:
    assert ask(server, path).status == 404


def test_a_range_past_the_end_and_one_of_another_edition(server: MirrorServer) -> None:
    past = ask(server, Range="bytes=310000-")
    assert (past.status, past.headers["Content-Range"]) == (416, "bytes */310000")
    other = ask(server, Range="bytes=10-20", **{"If-Range": '"another"'})
    assert (other.status, other.data) == (200, DATA)


def test_a_site_serves_what_it_has_verified_and_nothing_it_found_damaged(tmp_path: Path) -> None:
    world = World(tmp_path)
    version = make_version("1", extra={"weights.bin": DATA})
    world.publish(version)
    world.converge()
    found = world.store.find_file(SHA)
    assert found is not None
    assert found.read_bytes() == DATA
    config = hashlib.sha256(version.files["config.pbtxt"]).hexdigest()
    assert world.store.find_file(config) is not None
    assert world.store.find_file("0" * 64) is None
    world.store.note_damage("echo", "1", "rotten")
    assert world.store.find_file(SHA) is None


def test_one_site_is_another_ones_mirror_by_their_configurations(tmp_path: Path) -> None:
    """The tables of agent.toml at both ends, over HTTP on loopback."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "site").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = World(tmp_path / "site")
    world.publish(make_version("1", extra={"weights.bin": DATA}))
    world.converge()
    base = {
        "state_dir": "/unused",
        "triton": {"repository": "/unused"},
        "allow_plain_http": True,
    }
    secret = {"secret_file": str(tmp_path / "secret")}
    theirs = parse_config(base | {"mirror": secret | {"listen": f"127.0.0.1:{port}"}})
    ours = parse_config(
        base | {"mirror": secret, "download": {"mirrors": [f"http://127.0.0.1:{port}"]}}
    )
    site = Site(tmp_path)
    site.downloader = Downloader(
        MirroredBlobs(site.centre, make_mirrors(ours)),
        clock=site.clock,
        limits=Limits(),
        should_pause=lambda: False,
        connections=2,
    )
    with serving_mirror(theirs, [world.store]):
        assert site.fetch() == DATA
    assert site.centre.asked == []


def test_a_mirror_that_cannot_listen_is_no_reason_not_to_serve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        config = parse_config(
            {
                "state_dir": "/unused",
                "triton": {"repository": "/unused"},
                "allow_plain_http": True,
                "mirror": {"secret_file": str(tmp_path / "secret"), "listen": listen},
            }
        )
        with serving_mirror(config, []):
            pass
    assert "no mirror at 127.0.0.1 port" in caplog.text


def test_over_tls_with_the_certificate_of_the_configuration(tmp_path: Path) -> None:
    key, certificate, blob = tmp_path / "key", tmp_path / "cert", tmp_path / "blob"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=mirror"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip("openssl is not here to make a certificate")
    blob.write_bytes(DATA)
    with MirrorServer(
        ("127.0.0.1", 0), secret=SECRET, find=lambda _: blob, tls=(certificate, key)
    ) as server:
        line = Centre(
            f"https://127.0.0.1:{server.port}",
            ca_file=certificate,
            connect_timeout_seconds=2.0,
            read_timeout_seconds=5.0,
        )
        with MirrorBlobs(line, SECRET).open_blob(SHA, 1000) as part:
            assert b"".join(part.chunks) == DATA[1000:]
        line.close()
