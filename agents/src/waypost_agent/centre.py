"""HTTP to the control plane: one request, one checked answer, errors sorted by what they allow.

Decides that a 5xx, a timeout or an answer that is not JSON is silence, and that a problem with a
code is an answer. Follows no redirect. `stream` may be called by several threads at once, all else
is for the thread that owns an instance.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.util import SKIP_HEADER

from waypost_agent import __version__, chunk_map
from waypost_agent.errors import (
    DOWNLOAD_FAILED,
    AnswerError,
    BlobUnknown,
    RangeRefused,
    Retryable,
)
from waypost_agent.ports import BlobPart
from waypost_agent.protocol import VERSION, parse_json

_log = logging.getLogger(__name__)

_MAX_ANSWER_BYTES = 32 << 20
_PIECE_BYTES = 1 << 20
_CHUNK_MAP = "/chunks"  # how the path of one ends
_MOST_CONNECTIONS = 9  # those of a download, and one for a call beside it
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class CentreSilent(Exception):
    """Nobody answered, or nothing that counts as an answer. `retry_after_seconds` when told."""

    def __init__(self, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class CentreProblem(Exception):
    """The centre refused: RFC 9457, with a stable `code`."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class CentreAnswer:
    """`body` is the parsed JSON, None for 304."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Centre:
    """`url` is the address of the control plane, below which `/agent/v1/` lies; `name` is who
    stands there, in the words of a sentence."""

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
        name: str = "the centre",
    ) -> None:
        self.name = name
        self._base = url.rstrip("/") + "/agent/v1/"
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=_MOST_CONNECTIONS,
            retries=False,
            timeout=urllib3.Timeout(connect=connect_timeout_seconds, read=read_timeout_seconds),
            ca_certs=None if ca_file is None else str(ca_file),
            cert_reqs="CERT_REQUIRED",
        )

    def close(self) -> None:
        self._pool.clear()

    def get(self, path: str, *, token: str, headers: Mapping[str, str]) -> CentreAnswer:
        """Raises `CentreSilent`, `CentreProblem`, `AnswerError`."""
        return self._request("GET", path, token=token, headers=headers)

    def post(
        self, path: str, document: Mapping[str, Any], *, token: str | None = None
    ) -> CentreAnswer:
        """Raises `CentreSilent`, `CentreProblem`, `AnswerError`."""
        headers = {"Content-Type": "application/json"}
        return self._request("POST", path, token=token, headers=headers, body=_written(document))

    def post_compressed(
        self, path: str, document: Mapping[str, Any], *, token: str
    ) -> CentreAnswer:
        """As `post`, with a body that is gzip. Raises the same."""
        body = gzip.compress(_written(document), mtime=0)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return self._request("POST", path, token=token, headers=headers, body=body)

    @contextmanager
    def stream(
        self, path: str, *, token: str | None, headers: Mapping[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer whose body is read piece by piece. Raises `CentreSilent`."""
        response = self._open("GET", path, token, headers, None)
        done = False
        try:
            yield response
            done = response.length_remaining == 0  # else the rest would be the next answer
        except HTTPError as error:
            raise CentreSilent(f"{self.name} stopped answering: {error}") from error
        finally:
            if not done:
                response.close()
            response.release_conn()

    def _request(
        self,
        method: str,
        path: str,
        *,
        token: str | None,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> CentreAnswer:
        # What this thread asks most is answered without a body, and each byte of a header counts.
        headers = {"Accept-Encoding": SKIP_HEADER, **headers}
        response = self._open(method, path, token, headers, body)
        try:
            data = _read_bounded(response, _most_bytes(path))
        except HTTPError as error:
            response.close()
            raise CentreSilent(f"{self.name} stopped answering: {error}") from error
        finally:
            response.release_conn()
        if response.status == 304:
            return CentreAnswer(status=304, headers=response.headers, body=None)
        if response.status == 200:
            return CentreAnswer(status=200, headers=response.headers, body=parse_json(data))
        raise problem_of(response, data)

    def _open(
        self,
        method: str,
        path: str,
        token: str | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> urllib3.BaseHTTPResponse:
        sent = {
            "User-Agent": f"waypost-agent/{__version__}",
            "Waypost-Protocol": VERSION,
            **headers,
        }
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        try:
            return self._pool.request(
                method,
                self._base + path,
                headers=sent,
                body=body,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            raise CentreSilent(f"{self.name} does not answer: {error}") from error


def _written(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def problem_of(response: urllib3.BaseHTTPResponse, data: bytes) -> CentreProblem | CentreSilent:
    """What an answer that is neither 200 nor 304 amounts to."""
    status = response.status
    if status >= 500 or status == 429:
        return CentreSilent(
            f"the centre answers {status}", _retry_after(response.headers.get("Retry-After"))
        )
    try:
        document = parse_json(data)
        code, detail = document["code"], document.get("detail", "")
        if not isinstance(code, str):
            raise TypeError
    except (AnswerError, KeyError, TypeError, AttributeError):
        # A captive portal or a proxy, not the centre.
        return CentreSilent(f"an answer with status {status} that is not the centre's")
    return CentreProblem(status, code[:100], str(detail)[:500])


class Blobs:
    """Files by digest from the centre, with the session that the link thread keeps."""

    def __init__(
        self,
        centre: Centre,
        *,
        token: Callable[[], str | None],
        reject_token: Callable[[str], None],
    ) -> None:
        self._centre = centre
        self._token = token
        self._reject_token = reject_token

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        token = self._token()
        if token is None:
            raise Retryable(DOWNLOAD_FAILED, "there is no session with the centre to download by")
        headers = {}
        if offset > 0 or end is not None:
            last = "" if end is None else str(end - 1)
            # If-Range: a centre that means other bytes by this digest sends the whole.
            headers = {"Range": f"bytes={offset}-{last}", "If-Range": f'"{sha256}"'}
        who = self._centre.name
        try:
            with self._centre.stream(f"blobs/{sha256}", token=token, headers=headers) as response:
                if response.status == 401:
                    self._reject_token(token)
                yield part_of(response, sha256, offset, who)
        except CentreSilent as error:
            raise unanswered(error) from error

    def chunk_map(self, sha256: str) -> object | None:
        """The map of a file; None when the centre has none that can be read. Raises `Retryable`
        when nobody answers, or not to this session: then no other map is to be had either."""
        token = self._token()
        if token is None:
            raise Retryable(DOWNLOAD_FAILED, "there is no session with the centre to ask by")
        try:
            answer = self._centre.get(f"blobs/{sha256}{_CHUNK_MAP}", token=token, headers={})
        except CentreProblem as problem:
            if problem.status == 401:
                self._reject_token(token)
                raise Retryable(DOWNLOAD_FAILED, f"the centre refuses: {problem}") from problem
            return None
        except CentreSilent as error:
            raise unanswered(error) from error
        except AnswerError as error:
            _log.info("there is no chunk map of %s: %s", sha256, error)
            return None
        document: object = answer.body
        return document


def part_of(response: urllib3.BaseHTTPResponse, sha256: str, offset: int, who: str) -> BlobPart:
    """The bytes of a blob that an answer of `who` promises. Raises `Retryable`."""
    if response.status in (200, 206):
        _check_edition(response, sha256)
    if response.status == 200:
        start, total = 0, _length(response.headers.get("Content-Length"), who)
    elif response.status == 206:
        start, last, total = _range(response.headers.get("Content-Range"), who)
        length = _length(response.headers.get("Content-Length"), who)
        if start != offset or last + 1 - start != length:
            raise Retryable(
                DOWNLOAD_FAILED,
                f"{who} sent {length} bytes as the bytes {start} to {last}, asked was from "
                f"{offset}",
            )
    elif response.status == 416:
        raise RangeRefused(
            DOWNLOAD_FAILED,
            f"{who} has no bytes from {offset}: {response.headers.get('Content-Range')!r:.60}",
        )
    else:
        try:
            problem = problem_of(response, _read_bounded(response, _MAX_ANSWER_BYTES))
        except AnswerError as error:
            raise Retryable(DOWNLOAD_FAILED, f"{who} does not give the file: {error}") from error
        if isinstance(problem, CentreSilent):
            raise unanswered(problem)
        kind = BlobUnknown if response.status == 404 else Retryable
        raise kind(DOWNLOAD_FAILED, f"{who} does not give the file: {problem}")
    return BlobPart(offset=start, total_bytes=total, chunks=_arriving(response))


def _check_edition(response: urllib3.BaseHTTPResponse, sha256: str) -> None:
    """A captive portal answers 200 to everything; what is not named as the file is not the file."""
    tag = response.headers.get("ETag")
    if tag is not None and tag.removeprefix("W/") != f'"{sha256}"':
        raise Retryable(DOWNLOAD_FAILED, f"the answer is another file: its ETag is {tag!r:.80}")
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise Retryable(DOWNLOAD_FAILED, f"something on the way encodes the file as {encoding:.40}")


def unanswered(silence: CentreSilent) -> Retryable:
    seconds = silence.retry_after_seconds
    return Retryable(DOWNLOAD_FAILED, silence.reason, after_seconds=seconds or 0.0)


def _arriving(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """What has arrived, without waiting for more: a trickle must be seen as the trickle it is."""
    line: socket.socket | None = getattr(response.connection, "sock", None)
    arrived: list[bytes] = []
    size = 0
    try:
        while data := response.read1(_PIECE_BYTES, decode_content=False):
            arrived.append(data)
            size += len(data)
            # TLS gives 16 KiB at a time, which would each be written and hashed alone.
            if size < _PIECE_BYTES // 2 and _has_more(line):
                continue
            yield data if len(arrived) == 1 else b"".join(arrived)
            arrived.clear()
            size = 0
    except HTTPError:
        if arrived:
            yield b"".join(arrived)
        raise
    if arrived:
        yield b"".join(arrived)


def _has_more(line: socket.socket | None) -> bool:
    """Whether a read would find bytes at once."""
    if line is None:
        return False
    if isinstance(line, ssl.SSLSocket) and line.pending() > 0:
        return True
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(0))


def _length(header: str | None, who: str) -> int:
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 18:
        raise Retryable(DOWNLOAD_FAILED, f"{who} did not say how long the file is")
    return int(header)


def _range(header: str | None, who: str) -> tuple[int, int, int]:
    """First and last byte of the part, and the size of the whole."""
    match = _CONTENT_RANGE.fullmatch(header or "")
    if match is None:
        raise Retryable(DOWNLOAD_FAILED, f"{who} sent the Content-Range {header!r:.60}")
    return int(match[1]), int(match[2]), int(match[3])


def _most_bytes(path: str) -> int:
    """How long an answer may be."""
    return chunk_map.MAX_DOCUMENT_BYTES if path.endswith(_CHUNK_MAP) else _MAX_ANSWER_BYTES


def _read_bounded(response: urllib3.BaseHTTPResponse, most_bytes: int) -> bytes:
    data = bytearray()
    for chunk in response.stream(_PIECE_BYTES, decode_content=False):
        data += chunk
        if len(data) > most_bytes:
            response.close()
            raise AnswerError(f"the answer has more than {most_bytes} bytes")
    return bytes(data)


def _retry_after(header: str | None) -> float | None:
    """Whole seconds; the form with a date would need a clock that can be trusted."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > 6:
        return None
    return float(header)
