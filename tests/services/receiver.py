"""A real HTTP receiver on loopback that keeps what it gets and answers as it is told."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext

Handle = Callable[[BaseHTTPRequestHandler], object]


@dataclass(frozen=True, kw_only=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True)
class Receiver:
    port: int = 0
    statuses: list[int] = field(default_factory=list)  # to come; then 204
    got: list[Received] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    instead: Handle | None = None  # answers itself
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=k"


@contextmanager
def receiver(tls: SSLContext | None = None) -> Iterator[Receiver]:
    box = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {key.lower(): value for key, value in self.headers.items()}
            box.got.append(Received(path=self.path, headers=headers, body=body))
            if box.instead:
                box.instead(self)
                return
            self.send_response(box.statuses.pop(0) if box.statuses else 204)
            for name, value in box.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # hang-ups are wanted
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    box.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield box
    finally:
        box.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
