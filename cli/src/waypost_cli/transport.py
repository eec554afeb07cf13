"""One HTTP exchange with the control plane and its repetition. Decides what a failure is called,
what cures it, and whether to try again; it must not know what the paths mean."""

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx2

from waypost_cli.connection import API_PATH, Connection
from waypost_cli.diagnosis import describe_answer, describe_failure
from waypost_cli.errors import LinkExpiredError, UnavailableError, UnderWayError

ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_CONNECT_TIMEOUT_SECONDS = 10.0
# The control plane frees the name of a call that was cut off after a minute.
_LONGEST_UNDER_WAY = 75
READ_TIMEOUT_SECONDS = 60.0

Sleep = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A success or a 304. `body` is parsed JSON, None where there is none."""

    status: int
    body: object
    etag: str | None
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport:
    """Sends requests; safe to share between threads. `sleep` takes seconds."""

    def __init__(self, connection: Connection, *, sleep: Sleep = time.sleep) -> None:
        self._connection = connection
        self._sleep = sleep
        self._answered = threading.Event()
        self._client = httpx2.Client(
            base_url=connection.url + API_PATH,
            headers={
                "Authorization": f"Bearer {connection.token}",
                "Accept": "application/json",
                "User-Agent": f"waypost-cli/{own_version()}",
            },
            verify=connection.tls or True,
            follow_redirects=False,  # a redirect would carry the request to another server
        )
        self._elsewhere = httpx2.Client(
            headers={"User-Agent": f"waypost-cli/{own_version()}"},
            verify=connection.tls or True,
            follow_redirects=False,
            timeout=httpx2.Timeout(READ_TIMEOUT_SECONDS, connect=_CONNECT_TIMEOUT_SECONDS),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
        self._elsewhere.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: object = None,
        content: Callable[[], Iterable[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        once: bool = False,
    ) -> Answer:
        """Repeats while the failure may pass, with exponential back-off.

        `content` is called anew for each attempt. `once`: all attempts carry the same
        `Idempotency-Key`, so that the control plane does it once. Raises `CliError`, mostly
        `ApiError` or `UnavailableError`.
        """
        timeout = httpx2.Timeout(read_timeout_seconds, connect=_CONNECT_TIMEOUT_SECONDS)
        if once:
            headers = {**(headers or {}), "Idempotency-Key": secrets.token_urlsafe(24)}
        attempt, waits = 1, 0
        while True:
            try:
                return self._once(
                    method,
                    path,
                    query=query,
                    json=json,
                    headers=headers,
                    timeout=timeout,
                    content=content() if content else None,
                )
            except UnderWayError as error:
                waits += 1
                if waits > _LONGEST_UNDER_WAY:
                    raise
                self._sleep(_pause_seconds(attempt, error.retry_after_seconds))
            except UnavailableError as error:
                if attempt >= attempts or not self._worth_repeating(error):
                    raise
                self._sleep(_pause_seconds(attempt, error.retry_after_seconds))
                attempt += 1

    def _once(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        json: object,
        content: Iterable[bytes] | None,
        headers: Mapping[str, str] | None,
        timeout: httpx2.Timeout,
    ) -> Answer:
        try:
            response = self._client.request(
                method,
                path,
                params=query,
                json=json,
                content=content,
                headers=headers,
                timeout=timeout,
            )
        except httpx2.TransportError as error:
            raise describe_failure(error, self._connection.url) from error
        except httpx2.RequestError as error:
            raise UnavailableError(
                f"{self._connection.url} sent an answer that cannot be read: {error}", answered=True
            ) from error
        if response.status_code == 304:
            self._answered.set()
            return Answer(status=304, body=None, etag=response.headers.get("ETag"))
        body = describe_answer(response, self._connection)
        self._answered.set()
        return Answer(
            status=response.status_code,
            body=body,
            etag=response.headers.get("ETag"),
            headers=response.headers,
        )

    def put_elsewhere(self, url: str, content: Iterable[bytes], size_bytes: int) -> str:
        """PUTs to a presigned address, without our token; the ETag that comes back. Tries once.

        Raises `UnavailableError`; `LinkExpiredError` when the address is not good any more.
        """
        host = urlsplit(url).netloc
        try:
            # Only what was signed: another header would be refused.
            response = self._elsewhere.put(
                url, content=content, headers={"Content-Length": str(size_bytes)}
            )
        except httpx2.RequestError as error:
            raise UnavailableError(
                f"{host}, where the control plane keeps files, does not take the upload: {error}",
                cure="check that this machine reaches the bucket's address",
                answered=True,
            ) from error
        if response.status_code in (401, 403, 404):
            raise LinkExpiredError(f"{host} refuses the upload (HTTP {response.status_code})")
        if not response.is_success:
            raise UnavailableError(
                f"{host} does not take the upload (HTTP {response.status_code})", answered=True
            )
        return str(response.headers.get("ETag", ""))

    def pause_after(self, error: UnavailableError, attempt: int) -> None:
        """Waits as long as the error and the number of failures in a row ask for. Raises the error
        itself when it is not worth another attempt."""
        if attempt >= ATTEMPTS or not self._worth_repeating(error):
            raise error
        self._sleep(_pause_seconds(attempt, error.retry_after_seconds))

    def _worth_repeating(self, error: UnavailableError) -> bool:
        # Refused before any answer is most likely a mistyped URL: say so at once. Refused
        # afterwards is a server that restarts.
        return error.answered or self._answered.is_set()


def _pause_seconds(attempt: int, retry_after_seconds: float | None) -> float:
    if retry_after_seconds is not None:
        return min(retry_after_seconds, _LONGEST_PAUSE_SECONDS)
    longest: float = min(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
    # Parallel uploads must not come back in step.
    return longest * random.uniform(0.5, 1.0)


def own_version() -> str:
    """Of the installed distribution; `0` from a source tree."""
    try:
        return version("waypost-cli")
    except PackageNotFoundError:
        return "0"
