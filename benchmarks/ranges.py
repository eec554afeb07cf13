"""Serves a folder over HTTP with byte ranges, several in one answer too, as zsync asks for them;
counts the bytes of the bodies. Python's own server knows no ranges."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_BOUNDARY = "waypost-bench"
_RANGE = re.compile(r"(\d+)-(\d+)")


class RangeServer(ThreadingHTTPServer):
    """`sent_bytes` are the bodies so far."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent_bytes = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RangeServer

    def do_GET(self) -> None:
        path = self.server.folder / Path(self.path).name
        size = path.stat().st_size
        found = _RANGE.findall(self.headers.get("Range", ""))
        ranges = [(int(first), min(int(last) + 1, size)) for first, last in found]
        if len(ranges) > 1:
            self.send_response(206)
            self.send_header("Content-Type", f"multipart/byteranges; boundary={_BOUNDARY}")
        elif ranges:
            self.send_response(206)
            self.send_header("Content-Range", _content_range(*ranges[0], size))
        else:
            self.send_response(200)
        with path.open("rb") as file:
            body = bytearray()
            for start, end in ranges or [(0, size)]:
                if len(ranges) > 1:
                    body += f"\r\n--{_BOUNDARY}\r\nContent-Range: ".encode()
                    body += _content_range(start, end, size).encode() + b"\r\n\r\n"
                file.seek(start)
                body += file.read(end - start)
        if len(ranges) > 1:
            body += f"\r\n--{_BOUNDARY}--\r\n".encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.server.lock:
            self.server.sent_bytes += len(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Progress goes to stderr, requests nowhere."""


def _content_range(start: int, end: int, size: int) -> str:
    return f"bytes {start}-{end - 1}/{size}"


@contextmanager
def range_server(folder: Path) -> Iterator[RangeServer]:
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
