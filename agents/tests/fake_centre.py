"""A control plane over real HTTP, as docs/agent-protocol.md has it, small and open to sabotage."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from versions import MODEL, Version, wish

AGENT = "0f8fad5b-d9cb-469f-a165-70867728950e"
SITE = "edge-1"
TOKEN = "wpe_test-token"
NEXT_TOKEN = "wpe_next-token"

GRANTED = {"granted": True, "lease": 17, "begin_within_seconds": 60}

# Answers in place of the centre's own: (status, headers, body).
Sabotage = Callable[["Handler"], bool]


class FakeCentre:
    """`with FakeCentre() as centre:` listens on a free port of loopback."""

    def __init__(self, port: int = 0) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.public_key: str | None = None
        self.tokens = {TOKEN: "", NEXT_TOKEN: ""}  # the key each was used by
        self.counter = 0
        self.rotate_by: str | None = None
        self.holds = False  # as a centre that knows no polls that stand for a report
        self.nonces: set[str] = set()
        self.sessions: list[str] = []
        self.session: str | None = None
        self.epoch = 1
        self.generation = 0
        self.wishes: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.reports: list[dict[str, Any]] = []
        self.measurements: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.poll_seconds = 0.2
        self.superseded: list[str] = []
        self.lease_answer: tuple[int, dict[str, Any]] = (200, GRANTED)
        self.lease_questions: list[dict[str, Any]] = []
        self.sabotage: dict[str, Sabotage] = {}
        self._server = _Server(("127.0.0.1", port), Handler)
        self._server.centre = self
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def publish(
        self,
        version: Version | None,
        *,
        model: str = MODEL,
        previous: str | None = None,
        with_blobs: bool = True,
        lease_required: bool = False,
        also: dict[str, Any] | None = None,
    ) -> int:
        """Wish a version for the model; returns the generation of the wish."""
        with self.lock:
            if version is not None and with_blobs:
                self.add_blobs(version)
            self.generation += 1
            self.wishes[model] = wish(
                version,
                generation=self.generation,
                model=model,
                previous=previous,
                lease_required=lease_required,
                also=also,
            )
            return self.generation

    def add_blobs(self, version: Version) -> None:
        for data in version.files.values():
            self.blobs[hashlib.sha256(data).hexdigest()] = data

    def desired(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "generation": self.generation,
            "site": SITE,
            "models": list(self.wishes.values()),
        }

    def report_of(self, model: str = MODEL) -> dict[str, Any] | None:
        """What the newest report says of the model."""
        with self.lock:
            for report in reversed(self.reports[-1:]):
                for entry in report["models"]:
                    if entry["model"] == model:
                        return dict(entry)
        return None

    def wait_for_report(
        self, accepts: Callable[[dict[str, Any]], bool], timeout_seconds: float = 30.0
    ) -> dict[str, Any]:
        """The first report from now on (the newest included) that `accepts`."""
        deadline = time.monotonic() + timeout_seconds
        with self.changed:
            seen = max(len(self.reports) - 1, 0)
            while True:
                for report in self.reports[seen:]:
                    if accepts(report):
                        return report
                seen = len(self.reports)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no such report; the last is {self.reports[-1:]}")
                self.changed.wait(left)

    def wait_for_phase(
        self, phase: str, generation: int, *, model: str = MODEL, timeout_seconds: float = 30.0
    ) -> dict[str, Any]:
        def entry_in(report: dict[str, Any]) -> dict[str, Any] | None:
            for entry in report["models"]:
                if (entry["model"], entry["phase"], entry["generation"]) == (
                    model,
                    phase,
                    generation,
                ):
                    return dict(entry)
            return None

        report = self.wait_for_report(lambda each: entry_in(each) is not None, timeout_seconds)
        found = entry_in(report)
        assert found is not None
        return found

    # What is answered

    def enrol(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if body["token"] not in self.tokens:
                return problem(401, "enrolment-token-invalid")
            if self.tokens[body["token"]] not in ("", body["public_key"]):
                return problem(409, "token-bound-to-another-key")
            if len(base64.b64decode(body["public_key"])) != 32:
                return problem(422, "invalid-request")
            self.tokens[body["token"]] = self.public_key = body["public_key"]
            return 200, {"agent": AGENT, "site": SITE, "poll_seconds": self.poll_seconds}

    def challenge(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        nonce = base64.b64encode(secrets.token_bytes(32)).decode()
        with self.lock:
            self.nonces.add(nonce)
        return 200, {"nonce": nonce, "expires_seconds": 60}

    def open_session(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if body["nonce"] not in self.nonces:
                return problem(401, "nonce-invalid")
            self.nonces.discard(body["nonce"])
            text = "\n".join(
                ["waypost-session-v1", AGENT, body["nonce"], str(body["session_counter"])]
            )
            try:
                _check(self.public_key or "", body["signature"], text.encode())
            except (InvalidSignature, ValueError):
                return problem(401, "signature-invalid")
            if body["session_counter"] <= self.counter:
                return problem(409, "session-counter-stale")
            self.counter = body["session_counter"]
            self.session = "wps_" + secrets.token_hex(8)
            self.sessions.append(self.session)
            return 200, {
                "token": self.session,
                "expires_seconds": 3600,
                "session_counter": self.counter,
                "rotate_by": self.rotate_by,
            }

    def rotate_key(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if body["nonce"] not in self.nonces:
                return problem(401, "nonce-invalid")
            self.nonces.discard(body["nonce"])
            lines = ["waypost-rotate-key-v1", AGENT, body["nonce"], body["public_key"]]
            signed = "\n".join(lines).encode()
            try:
                _check(body["public_key"], body["new_signature"], signed)
                if body["public_key"] != self.public_key:
                    _check(self.public_key or "", body["signature"], signed)
                    self.public_key, self.session, self.rotate_by = body["public_key"], None, None
            except (InvalidSignature, ValueError):
                return problem(401, "signature-invalid")
            return 200, {"agent": AGENT, "public_key": self.public_key}

    def take_report(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.changed:
            if any(entry["generation"] > self.generation for entry in body["models"]):
                return problem(409, "generation-unknown")
            self.reports.append({**body, "session": self.session})
            self.changed.notify_all()
            return 200, {
                "epoch": self.epoch,
                "generation": self.generation,
                "poll_seconds": self.poll_seconds,
                "duplicate": False,
                "superseded": self.superseded,
            }

    def take_measurement(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.measurements.append(body)
            return 200, {"accepted_seq": body["seq"]}

    def take_question(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.lease_questions.append(body)
            wished = self.wishes.get(body["model"], {"generation": None})
            if wished["generation"] != body["generation"]:
                return problem(409, "wish-superseded")
            return self.lease_answer


def _check(public_key: str, signature: str, signed: bytes) -> None:
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
    key.verify(base64.b64decode(signature), signed)


def problem(status: int, code: str) -> tuple[int, dict[str, Any]]:
    return status, {"type": "about:blank", "title": code, "status": status, "code": code}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    centre: FakeCentre

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in mid-answer is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    body: bytes

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the tests look at what was recorded."""

    def do_POST(self) -> None:
        self._answer("POST")

    def do_GET(self) -> None:
        self._answer("GET")

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_json(
        self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        kind = "application/json" if status < 400 else "application/problem+json"
        self.send(status, json.dumps(document).encode(), {"Content-Type": kind, **(headers or {})})

    def _answer(self, method: str) -> None:
        centre = self.server.centre
        length = int(self.headers.get("Content-Length", 0))
        self.body = raw = self.rfile.read(length)
        path = self.path.removeprefix("/agent/v1/")
        with centre.lock:
            centre.requests.append((method, path, dict(self.headers)))
            sabotage = centre.sabotage.get(path.partition("/")[0])
        if sabotage is not None and sabotage(self):
            return
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        body = json.loads(raw) if raw else {}
        open_calls = {
            "enrol": centre.enrol,
            "challenge": centre.challenge,
            "session": centre.open_session,
            "rotate-key": centre.rotate_key,
        }
        if method == "POST" and path in open_calls:
            self.send_json(*open_calls[path](body))
        elif self.headers.get("Authorization") != f"Bearer {centre.session}":
            self.send_json(*problem(401, "session-invalid"))
        elif method == "POST" and path == "report":
            self.send_json(*centre.take_report(body))
        elif method == "POST" and path == "measurements":
            self.send_json(*centre.take_measurement(body))
        elif method == "POST" and path == "lease":
            self.send_json(*centre.take_question(body))
        elif path == "desired":
            self._desired(centre)
        elif path.startswith("blobs/"):
            self.send_blob(centre.blobs.get(path.removeprefix("blobs/")), path[6:])
        else:
            self.send_json(*problem(404, "not-found"))

    def _desired(self, centre: FakeCentre) -> None:
        with centre.lock:
            document = centre.desired()
        etag = f'"{document["epoch"]}.{document["generation"]}"'
        headers = {"ETag": etag, "Waypost-Poll-Seconds": str(centre.poll_seconds)}
        if self.headers.get("If-None-Match") == etag:
            holds = self.headers.get("Waypost-Holds")
            if centre.holds and holds == str(centre.reports[-1]["seq"] if centre.reports else None):
                headers["Waypost-Held"] = holds
            self.send(304, b"", headers)
        else:
            self.send_json(200, document, headers)

    def send_blob(self, data: bytes | None, digest: str) -> None:
        if data is None:
            self.send_json(*problem(404, "blob-unknown"))
            return
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self.send(200, data, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, len(data)) if last else len(data)
        if start >= len(data):
            self.send(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self.send(206, data[start:end], headers)
