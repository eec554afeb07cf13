"""A small control plane for tests: real HTTP on loopback, state in memory, the rules of the REST
API that the CLI depends on. Written from the API's contract, not from the CLI."""

import functools
import hashlib
import json
import re
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "wpt_test-token-0123456789"
Json = dict[str, Any]


@dataclass(kw_only=True)
class Reply:
    """What to answer in place of the real thing."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Version:
    manifest: Json
    labels: Json
    state: str = "uploading"


class Partial:
    """A file that comes in pieces: what was hashed so far."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Json


def problem(status: int, code: str, **members: Any) -> Reply:
    document = {
        "type": f"https://waypost.example/problems/{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": f"This is {code}.",
        "code": code,
        "errors": [],
        "request_id": "req-1",
        **members,
    }
    body = json.dumps(document).encode()
    return Reply(status=status, body=body, content_type="application/problem+json")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that cuts an upload or gives up a handshake is part of the tests."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class FakeApi:
    """`rollouts` maps an id to its revisions, oldest first; each answered GET takes the next."""

    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], Version] = {}
        self.blobs: dict[str, int] = {}
        # Of files that come in pieces: what is held so far.
        self.partials: dict[str, Partial] = {}
        self.received_bytes = 0
        self.sites: list[Json] = []
        self.rollouts: dict[str, list[Json]] = {}
        self.started: list[Json] = []
        self.plan: Json = {}
        self.told: list[tuple[str, str, Json]] = []
        # Further answers, by path; or by method and path, for those that are no list of pages.
        self.lists: dict[str, list[Json]] = {}
        self.answers: dict[tuple[str, str], Any] = {}
        self.seen: list[Seen] = []
        self.page_size = 2
        self._interventions: list[tuple[str, str, Callable[[], Reply | None]]] = []
        self._lock = threading.RLock()
        self._concurrent_uploads = 0
        self.most_concurrent_uploads = 0
        self._server = _Server(("127.0.0.1", 0), self._handler_class())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._server.server_address[1]}"

    def start(self, tls: ssl.SSLContext | None = None) -> None:
        if tls:
            self.scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def intervene(self, method: str, path: str, *replies: Reply | None) -> None:
        """The next requests whose path matches get these replies; None lets one pass."""
        for reply in replies:
            self._interventions.append((method, path, functools.partial(_same, reply)))

    def on(self, method: str, path: str, action: Callable[[], Reply | None]) -> None:
        """Calls `action` at the next request whose path matches."""
        self._interventions.append((method, path, action))

    def requests(self, method: str, path: str = "") -> list[Seen]:
        return [s for s in self.seen if s.method == method and re.search(path, s.path)]

    def _intervention(self, method: str, path: str) -> Reply | None:
        with self._lock:
            for index, (wanted, pattern, action) in enumerate(self._interventions):
                if wanted == method and re.search(pattern, path):
                    del self._interventions[index]
                    return action()
        return None

    def answer(self, seen: Seen, read_body: Callable[[], tuple[int, str]]) -> Reply:
        parts = seen.path.removeprefix("/api/v1/").split("/")
        with self._lock:
            path = "/".join(parts)
            if (seen.method, path) in self.answers:
                return _json(200, self.answers[seen.method, path])
            if seen.method == "GET" and path in self.lists:
                return self._page(seen, self.lists[path])
            match (seen.method, *parts):
                case ("POST", "models", model, "versions"):
                    return self._create_version(model, seen.body)
                case ("POST", "models", model, "versions", number, "finalise"):
                    return self._finalise(model, number)
                case ("GET" | "PATCH", "models", model, "versions", number) if (
                    model,
                    number,
                ) in self.versions:
                    return self._version(200, model, number)
                case ("GET", "sites"):
                    return self._page(seen, self.sites)
                case ("POST", "sites"):
                    return self._add_site(seen.body)
                case ("POST", "sites", name, "enrolment-tokens"):
                    return self._enrolment_token(name)
                case ("POST", "sites", name, "agent", verb):
                    return self._steer_agent(name, verb, seen.body)
                case ("GET", "rollouts"):
                    newest = [revisions[0] for revisions in self.rollouts.values()]
                    return self._page(seen, newest)
                case ("POST", "rollouts") if seen.query.get("dry_run") == "true":
                    return _json(200, self.plan)
                case ("POST", "rollouts"):
                    self.started.append(seen.body)
                    return _json(201, self.rollouts["1"][0])
                case ("GET", "rollouts", number):
                    return self._rollout(number, seen)
                case ("POST", "rollouts", number, verb):
                    self.told.append((number, verb, seen.body))
                    return _json(200, self.rollouts[number][0])
        match (seen.method, *parts):
            case ("HEAD", "models", _, "versions", _, "blobs", sha256):
                return self._progress(sha256)
            case ("PUT", "models", model, "versions", number, "blobs", sha256):
                if "content-range" in seen.headers:
                    return self._put_piece(seen.headers["content-range"], sha256, read_body)
                return self._put_blob(model, number, sha256, read_body)
        return problem(404, "not-found")

    def _create_version(self, model: str, body: Json) -> Reply:
        manifest = body["manifest"]
        same = [n for (m, n), v in self.versions.items() if m == model and v.manifest == manifest]
        taken = [int(n) for m, n in self.versions if m == model]
        number = body.get("version") or (same[0] if same else str(max(taken, default=0) + 1))
        known = self.versions.get((model, number))
        if known and known.manifest != manifest:
            return problem(409, "version-exists", detail=f"{model} {number} has other bytes.")
        if not known:
            version = Version(manifest=manifest, labels=body.get("labels", {}))
            self.versions[model, number] = version
        return self._version(200 if known else 201, model, number)

    def _put_blob(
        self, model: str, number: str, sha256: str, read_body: Callable[[], tuple[int, str]]
    ) -> Reply:
        files = self.versions[model, number].manifest["files"]
        declared = {f["sha256"]: f["size"] for f in files}
        if sha256 not in declared:
            return problem(404, "blob-not-in-manifest")
        with self._lock:
            self._concurrent_uploads += 1
            most = max(self.most_concurrent_uploads, self._concurrent_uploads)
            self.most_concurrent_uploads = most
        size, digest = read_body()
        with self._lock:
            self._concurrent_uploads -= 1
            if size != declared[sha256]:
                return problem(422, "size-mismatch")
            if digest != sha256:
                return problem(422, "digest-mismatch")
            self.blobs[sha256] = size
        return Reply(status=201, body=b"")

    def _progress(self, sha256: str) -> Reply:
        if sha256 in self.blobs:
            return Reply(status=200, body=b"")
        held = str(self.partials[sha256].size) if sha256 in self.partials else "0"
        headers = {"Upload-Offset": held, "Upload-Method": "pieces"}
        return Reply(status=204, body=b"", headers=headers)

    def _put_piece(
        self, given: str, sha256: str, read_body: Callable[[], tuple[int, str]]
    ) -> Reply:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", given)
        assert match, given
        start, last, total = (int(number) for number in match.groups())
        held = self.partials.setdefault(sha256, Partial())
        if start != held.size:
            return problem(409, "upload-offset", offset=held.size)
        size, _ = read_body(held)  # type: ignore[call-arg]  # adds the bytes there as well
        assert size == last + 1 - start
        if held.size < total:
            headers = {"Upload-Offset": str(held.size), "Upload-Method": "pieces"}
            return Reply(status=204, body=b"", headers=headers)
        del self.partials[sha256]
        if held.digest.hexdigest() != sha256:
            return problem(422, "digest-mismatch")
        self.blobs[sha256] = total
        return Reply(status=201, body=b"")

    def _finalise(self, model: str, number: str) -> Reply:
        missing = self._missing(model, number)
        if missing:
            return problem(409, "blobs-missing", missing=missing)
        self.versions[model, number].state = "registered"
        return self._version(200, model, number)

    def _missing(self, model: str, number: str) -> list[str]:
        files = self.versions[model, number].manifest["files"]
        return sorted({f["sha256"] for f in files} - set(self.blobs))

    def _version(self, status: int, model: str, number: str) -> Reply:
        version = self.versions[model, number]
        canonical = json.dumps(version.manifest, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return _json(
            status,
            {
                "model": model,
                "version": number,
                "state": version.state,
                "manifest_digest": f"sha256:{digest}",
                "missing": self._missing(model, number),
                "size_bytes": sum(f["size"] for f in version.manifest["files"]),
            },
        )

    def _page(self, seen: Seen, rows: list[Json]) -> Reply:
        wanted = {k: v for k, v in seen.query.items() if k in ("tier", "region", "model")}
        rows = [r for r in rows if all(str(r.get(k)) == v for k, v in wanted.items())]
        offset = int(seen.query.get("offset", 0))
        end = offset + self.page_size
        # Another host, as behind a proxy: a client that followed it would lose its token.
        following = f"http://inner.invalid{seen.path}?offset={end}"
        following += "".join(f"&{key}={value}" for key, value in wanted.items())
        page = {
            "count": len(rows),
            "next": following if end < len(rows) else None,
            "previous": None,
            "results": rows[offset:end],
        }
        return _json(200, page)

    def _add_site(self, body: Json) -> Reply:
        if any(site["name"] == body["name"] for site in self.sites):
            return problem(409, "site-exists")
        self.sites.append({**body, "health": "unknown", "last_seen_at": None, "models": []})
        return _json(201, self.sites[-1])

    def _enrolment_token(self, name: str) -> Reply:
        if not any(site["name"] == name for site in self.sites):
            return problem(404, "site-unknown")
        command = f"waypost-agent join {self.url} --token wpe_once"
        document = {"token": "wpe_once", "expires_at": "2030-01-01T00:00:00Z", "command": command}
        return _json(201, document)

    def _steer_agent(self, name: str, verb: str, body: Json) -> Reply:
        if not any(site["name"] == name for site in self.sites):
            return problem(404, "site-unknown")
        by = body.get("by") or "2030-01-08T00:00:00Z" if verb == "new-key" else None
        return _json(200, {"rotate_by": by, "locked_at": None})

    def _rollout(self, number: str, seen: Seen) -> Reply:
        revisions = self.rollouts.get(number)
        if not revisions:
            return problem(404, "rollout-unknown")
        asked = seen.headers.get("if-none-match")
        if asked and len(revisions) > 1:
            revisions.pop(0)
        etag = _etag(revisions[0])
        if asked == etag:
            return Reply(status=304, body=b"", headers={"ETag": etag})
        reply = _json(200, revisions[0])
        reply.headers["ETag"] = etag
        return reply

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def _serve(self) -> None:
                left = int(self.headers.get("Content-Length", 0))

                def read_body(keep: Partial | None = None) -> tuple[int, str]:
                    digest, size = hashlib.sha256(), 0
                    while size < left:
                        chunk = self.rfile.read(min(65536, left - size))
                        if not chunk:
                            break
                        digest.update(chunk)
                        size += len(chunk)
                        if keep is not None:
                            keep.digest.update(chunk)
                            keep.size += len(chunk)
                    api.received_bytes += size
                    return size, digest.hexdigest()

                parts = urlsplit(self.path)
                is_blob = self.command == "PUT" and "/blobs/" in parts.path
                body = b"" if is_blob else self.rfile.read(left)
                seen = Seen(
                    method=self.command,
                    path=parts.path,
                    query={k: v[0] for k, v in parse_qs(parts.query).items()},
                    headers={k.lower(): v for k, v in self.headers.items()},
                    body=json.loads(body) if body else {},
                )
                api.seen.append(seen)
                reply = api._intervention(seen.method, seen.path)
                if reply and is_blob:
                    read_body()
                if not reply and seen.headers.get("authorization") != f"Bearer {TOKEN}":
                    reply = problem(401, "token-invalid")
                self._send(reply or api.answer(seen, read_body))

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 304:
                    self.send_header("Content-Type", reply.content_type)
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - names that http.server calls
            do_PATCH = do_DELETE = _serve  # noqa: N815 - as above

            def log_message(self, format: str, *args: Any) -> None:
                """Keeps the tests' stderr to what the CLI writes."""

        return Handler


def _same(reply: Reply | None) -> Reply | None:
    return reply


def _json(status: int, document: Any) -> Reply:
    return Reply(status=status, body=json.dumps(document).encode())


def _etag(document: Json) -> str:
    content = json.dumps(document, sort_keys=True).encode()
    return f'"{hashlib.sha256(content).hexdigest()[:12]}"'
