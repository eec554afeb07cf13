"""HTTP to the one registry that the settings name. Everything that comes back is bounded: how long
it takes in all (an answer as a whole, a file by a least rate), how many bytes it has, where it
comes from. No redirect is followed and no proxy used.

It must not know what the paths mean."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from controlplane.audit.timed_wire import Deadline, OutOfTime, TimedWire
from controlplane.catalog.registry import Away, Changed, Refused, Unavailable

MAX_JSON_BYTES = 4 << 20
CONNECT_SECONDS = 10.0
# For a whole answer: a listing of a large bucket takes its time.
READ_SECONDS = 60.0
# Of a file at least so many bytes come in that time.
LEAST_BYTES = 1 << 20
_PORTS = {"https": 443, "http": 80}
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", re.ASCII)


class Answered(Exception):
    """The server answered with an error of its own; `message` is what it said, shortened."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(f"it answered {status}: {message}" if message else f"it answered {status}")
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True, kw_only=True)
class RegistryHttp:
    """Opens a connection for each call: calls are few and minutes apart.

    `authorization` is the header's value, or empty. `read_seconds` is how long an answer may take,
    or each `LEAST_BYTES` of a file, once there is a connection; `clock` counts seconds.
    """

    url: str
    authorization: str = field(default="", repr=False)
    connect_seconds: float = CONNECT_SECONDS
    read_seconds: float = READ_SECONDS
    tls: ssl.SSLContext | None = None
    clock: Callable[[], float] = time.monotonic

    def json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
    ) -> Any:
        """The JSON object of a 200. Raises `Answered` for another status, and `Unavailable`."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        raw = None
        if body is not None:
            raw = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if query:
            path = f"{path}?{urlencode(query)}"
        with contextlib.ExitStack() as stack:
            answer = self._ask(stack, method, path, headers, raw)
            content = _bounded(answer)
        if answer.status != 200:
            raise _answered(answer.status, content)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"The registry's answer to {path[:200]} is not JSON.") from error
        if not isinstance(document, dict):
            raise Unavailable(f"The registry's answer to {path[:200]} is no JSON object.")
        return document

    def open(self, path: str, *, size: int, offset: int = 0, etag: str = "") -> "HttpStream":
        """Bytes of a file of `size` bytes from `offset` on.

        With an `etag` they are bytes of that very file (If-Range), or it raises `Changed`.
        """
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if etag:
                headers["If-Range"] = etag
        with contextlib.ExitStack() as stack:
            answer = self._ask(stack, "GET", path, headers, None, lot=LEAST_BYTES)
            _check_file(answer, path, size=size, offset=offset, etag=etag)
            stream = HttpStream(answer=answer, left=size - offset)
            if offset and answer.status == 200:
                # It knows no ranges, but the same entity tag says that these are the same bytes.
                stream.skip(offset)
            stream.held = stack.pop_all()
        return stream

    def _connect(self) -> http.client.HTTPConnection:
        parts = _parts(self.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, port, timeout=self.connect_seconds, context=self.tls
            )
        return http.client.HTTPConnection(host, port, timeout=self.connect_seconds)

    def _ask(
        self,
        stack: contextlib.ExitStack,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
        *,
        lot: int | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, to be read until `stack` closes the connection."""
        if self.authorization:
            headers = {**headers, "Authorization": self.authorization}
        connection = self._connect()
        stack.callback(connection.close)
        try:
            connection.connect()
            wire = connection.sock
            assert wire is not None
            stack.callback(wire.close)
            deadline = Deadline(seconds=self.read_seconds, lot=lot, clock=self.clock)
            connection.sock = TimedWire(wire, deadline)
            target = _parts(self.url).path.rstrip("/") + path
            connection.request(method, target, body, {**headers, "User-Agent": "Waypost"})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Away(f"The registry at {self.shown} {_said(error)}.") from error
        if 300 <= answer.status < 400:
            raise Unavailable(
                f"The registry at {self.shown} answered {answer.status}, a redirect, which is not "
                "followed; set WAYPOST_MLFLOW_URL to where it leads."
            )
        if answer.status in (401, 403):
            raise Unavailable(
                f"The registry at {self.shown} answered {answer.status}: it does not accept the "
                "credentials; see WAYPOST_MLFLOW_USERNAME, _PASSWORD and _TOKEN."
            )
        return answer

    @property
    def shown(self) -> str:
        """What of the URL may be written down: a user and a password never."""
        parts = _parts(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}"


@dataclass(kw_only=True)
class HttpStream:
    """At most `left` bytes of an answer. Raises `Unavailable` when they end early."""

    answer: http.client.HTTPResponse
    left: int
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def etag(self) -> str:
        return _etag(self.answer)

    def read(self, size: int, /) -> bytes:
        if self.left <= 0:
            return b""
        try:
            chunk = self.answer.read1(min(size, self.left))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"The download broke off: the registry {_said(error)}.") from error
        if not chunk:
            raise Unavailable(f"The download broke off {self.left} bytes before its end.")
        self.left -= len(chunk)
        return chunk

    def skip(self, count: int) -> None:
        self.left += count
        while count:
            count -= len(self.read(min(count, 1 << 20)))

    def close(self) -> None:
        self.held.close()


def check_url(url: str) -> str:
    """Why this cannot be the address of a registry; empty when it can."""
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in _PORTS or not parts.hostname or parts.port == 0
    except ValueError:
        return "is no URL"
    if bad or parts.query or parts.fragment or "@" in parts.netloc:
        return "must be http(s)://HOST[:PORT][/PREFIX], without user, query and fragment"
    return ""


def quoted(path: str) -> str:
    return quote(path, safe="/")


def _parts(url: str) -> SplitResult:
    return urlsplit(url)


def _bounded(answer: http.client.HTTPResponse) -> bytes:
    try:
        content = answer.read(MAX_JSON_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable(f"The registry's answer broke off: it {_said(error)}.") from error
    if len(content) > MAX_JSON_BYTES:
        raise Unavailable(f"The registry's answer has more than {MAX_JSON_BYTES} bytes.")
    return content


def _answered(status: int, content: bytes) -> Answered:
    """MLflow says `{"error_code": …, "message": …}`; a proxy in between may say anything."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return Answered(status, "")
    message, code = document.get("message"), document.get("error_code")
    return Answered(
        status,
        _plain(message) if isinstance(message, str) else "",
        code[:80] if isinstance(code, str) else "",
    )


def _check_file(
    answer: http.client.HTTPResponse, path: str, *, size: int, offset: int, etag: str
) -> None:
    name = path.rsplit("/", 1)[-1][:128]
    if answer.status == 404:
        raise Refused(f"The registry lists {name} and does not have it.")
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Unavailable(f"The registry sent {name} encoded, which nobody asked for.")
    if etag and _etag(answer) not in ("", etag):
        raise Changed(f"{name} changed while it was being read; it is read anew.")
    if answer.status == 200:
        if offset and not (etag and _etag(answer) == etag):
            raise Changed(f"{name} cannot be continued; it is read anew.")
        length, begins = size, True
    elif answer.status == 206 and offset:
        found = _RANGE.fullmatch(answer.getheader("Content-Range", ""))
        begins = bool(found) and found is not None and int(found[1]) == offset
        begins = begins and found is not None and int(found[3]) == size
        length = size - offset
    else:
        raise Unavailable(f"The registry answered {answer.status} to the download of {name}.")
    told = answer.getheader("Content-Length")
    if not begins or (told is not None and told != str(length)):
        raise Changed(f"The registry listed {name} with {size} bytes and sends another number.")


def _etag(answer: http.client.HTTPResponse) -> str:
    """A strong entity tag; a weak one says nothing about bytes."""
    etag = answer.getheader("ETag", "")
    return etag if etag.startswith('"') and len(etag) <= 200 else ""


def _said(error: Exception) -> str:
    if isinstance(error, OutOfTime):
        return f"gave {error}"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, ssl.SSLError):
        return f"cannot be trusted: {_plain(str(error))}"
    if isinstance(error, socket.gaierror):
        return "has a name that cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    return f"cannot be spoken to ({type(error).__name__})"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:300])
