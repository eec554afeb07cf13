"""Serves files of this site's disk to agents nearby, who then need not ask the centre.

Decides who may ask (whoever has the mirror secret), how many at once, and how long one may take to
ask. Knows nothing of models; promises nothing about the bytes, which the other side hashes.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from waypost_agent.mirrors import HEADER

_log = logging.getLogger(__name__)

_PATH = re.compile(r"/agent/v1/blobs/([0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_MOST_AT_ONCE = 16
_MOST_CONNECTIONS = 64  # also of those who never show the secret
_HEAD_SECONDS = 30.0  # from the end of the last answer until the secret is shown
_BUSY_SECONDS = 10


class MirrorServer:
    """Answers on `(host, port)` from threads of its own; port 0 takes a free one. `find` says where
    a file with a digest lies; `tls` is a certificate chain and its key, None for plain HTTP."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        secret: str,
        find: Callable[[str], Path | None],
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        members = {
            "secret": secret.encode(),
            "find": staticmethod(find),
            "room": threading.BoundedSemaphore(_MOST_AT_ONCE),
        }
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        server = type("_Server", (_Server,), {"address_family": family})
        self._server: _Server = server(address, type("_Handler", (_Handler,), members))
        self.port: int = self._server.server_address[1]
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            # The handshake waits for the first read, which a thread of its own does.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="mirror", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """So many connections at once, each with a thread; one that does not come to ask is cut."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: Callable[..., BaseHTTPRequestHandler]
    ) -> None:
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._ask_until: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def expect_question(self, line: socket.socket) -> None:
        with self._lock:
            self._ask_until[line] = time.monotonic() + _HEAD_SECONDS

    def has_asked(self, line: socket.socket) -> None:
        with self._lock:
            self._ask_until.pop(line, None)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()  # there is no thread that would
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def shutdown_request(self, request: Any) -> None:
        self.has_asked(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second. A timeout of the socket begins anew with each byte."""
        now = time.monotonic()
        with self._lock:
            for line in [line for line, until in self._ask_until.items() if now >= until]:
                del self._ask_until[line]
                # Of the socket below TLS: the thread that reads from it goes on using the rest.
                with suppress(OSError):
                    socket.socket.shutdown(line, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.info("a connection of %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    secret: bytes
    find: Callable[[str], Path | None]
    room: threading.BoundedSemaphore
    timeout = 30.0  # a caller that says nothing must not hold a thread for ever

    def handle_one_request(self) -> None:
        self.server.expect_question(self.connection)
        super().handle_one_request()

    def do_GET(self) -> None:
        shown = self.headers.get(HEADER, "")
        if not hmac.compare_digest(shown.encode(), self.secret):
            # Closed, or question after question without it would hold the connection for ever.
            self._refuse(
                401,
                "mirror-secret-invalid",
                f"{HEADER} is not this mirror's secret.",
                {"Connection": "close"},
            )
            return
        self.server.has_asked(self.connection)
        match = _PATH.fullmatch(self.path)
        path = None if match is None else self.find(match[1])
        if match is None or path is None:
            self._refuse(404, "blob-unknown", "This site has no such file.")
            return
        if not self.room.acquire(blocking=False):
            self._refuse(503, "busy", "Others are being served.", {"Retry-After": _BUSY_SECONDS})
            return
        try:
            self._send_file(path, match[1])
        except OSError:
            self.close_connection = True  # the other side has gone, or the disk fails
        finally:
            self.room.release()

    def _send_file(self, path: Path, sha256: str) -> None:
        tag = f'"{sha256}"'
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
            if wanted is None or self.headers.get("If-Range", tag) != tag:
                start, end = 0, size
                self.send_response(200)
            else:
                start = int(wanted[1])
                end = min(int(wanted[2]) + 1, size) if wanted[2] else size
                if start >= end:
                    self._refuse(
                        416,
                        "range-not-satisfiable",
                        f"The file has {size} bytes.",
                        {"Content-Range": f"bytes */{size}"},
                    )
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("ETag", tag)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            self.wfile.flush()
            if end > start:
                self.connection.sendfile(file, start, end - start)

    def _refuse(
        self, status: int, code: str, detail: str, headers: dict[str, object] | None = None
    ) -> None:
        problem = {"title": code, "status": status, "code": code, "detail": detail}
        body = json.dumps(problem).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Who reads which file is no event."""
