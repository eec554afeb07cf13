"""A look over HTTP: what is read, and that nothing but a whole answer counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from waypost_agent.ports import ServerFacts, VersionState
from waypost_agent.triton_look import HttpLook, NoLook

SECRET = "0123456789abcdef"


class Server(ThreadingHTTPServer):
    """Answers all alike; `asked` is what came: method, path, secret."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: tuple[int, bytes] = (200, b"[]")
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("x-waypost-triton")))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  # http.server's own name

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def look_at(server: Server, secret_file: Path | None = None) -> HttpLook:
    return HttpLook(url=server.url, secret_key="x-waypost-triton", secret_file=secret_file)


def test_the_index_is_read_as_triton_writes_it(server: Server) -> None:
    server.answer = (
        200,
        b'[{"name":"vad"},{"name":"asr","version":"1","state":"READY"},'
        b'{"name":"asr","version":"2","state":"UNAVAILABLE","reason":"unloaded"}]',
    )
    assert look_at(server).index() == {
        "vad": {},
        "asr": {
            "1": VersionState(state="READY"),
            "2": VersionState(state="UNAVAILABLE", reason="unloaded"),
        },
    }
    assert server.asked == [("POST", "/v2/repository/index", None)]


def test_the_facts_are_read(server: Server) -> None:
    server.answer = (200, b'{"name":"triton","version":"2.51.0","extensions":["model_repository"]}')
    said = ServerFacts(version="2.51.0", extensions=frozenset({"model_repository"}))
    assert look_at(server).facts() == said
    assert server.asked == [("GET", "/v2", None)]


def test_the_secret_is_read_at_each_look(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    look = look_at(server, secret)
    for text in (SECRET, SECRET[::-1]):
        secret.write_text(text + "\n")
        look.index()
        assert server.asked[-1][2] == text
    secret.unlink()
    with pytest.raises(NoLook):
        look.index()


@pytest.mark.parametrize(
    "answer",
    [
        (403, b'{"error":"This API is restricted"}'),
        (302, b""),
        (200, b"<html>Please sign in</html>"),
        (200, b"\xff"),
        (200, b"{}"),
        (200, b"null"),
        (200, b"[1]"),
        (200, b'[{"version":"1"}]'),
        (200, b'["vad"]'),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1][:12]!r}",
)
def test_what_is_no_index_is_no_look(server: Server, answer: tuple[int, bytes]) -> None:
    server.answer = answer
    with pytest.raises(NoLook):
        look_at(server).index()
    with pytest.raises(NoLook):
        look_at(server).facts()


def test_nobody_there_is_no_look(server: Server) -> None:
    look = HttpLook(url="http://127.0.0.1:1", secret_key="x", secret_file=None)
    with pytest.raises(NoLook):
        look.facts()
