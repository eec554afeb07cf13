"""A server that speaks KServe v2 over real HTTP and answers what a test says."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Respond = Callable[[dict[str, Any], int], dict[str, Any]]


class FakeKserve:
    """`answer` gets a request and how many came before; `asked` has each path and body."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.status = 200
        self.metadata: dict[str, Any] = {"name": "m", "inputs": [], "outputs": []}
        self.answer: Respond = lambda request, before: {"outputs": request["inputs"]}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append((self.path, None))
                self._send(fake.metadata)

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(size))
                before = sum(1 for _, each in fake.asked if each is not None)
                fake.asked.append((self.path, body))
                self._send(fake.answer(body, before))

            def _send(self, document: object) -> None:
                raw = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(fake.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
