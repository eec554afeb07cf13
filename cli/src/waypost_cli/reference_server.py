"""Asks a server that speaks KServe v2 over HTTP (Open Inference Protocol), with tensors as JSON.

Decides what a failure is called; it must not know what an answer should be. Nothing is repeated: a
reference that cannot answer once is none.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

import httpx2

from waypost_cli.errors import CliError
from waypost_cli.golden_document import MAX_TENSORS, Request
from waypost_cli.golden_tensors import SPECIAL, Tensor, parse_tensor
from waypost_cli.transport import own_version

_MOST_BYTES: Final = 64 << 20  # as JSON; a golden document has at most a quarter of it
_CONNECT_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The outputs by name, and how long the answer took."""

    outputs: Mapping[str, Tensor]
    milliseconds: float


class ReferenceServer:
    """`version` None: the one that the server takes for the newest."""

    def __init__(
        self, url: str, *, model: str, version: str | None, timeout_seconds: float
    ) -> None:
        self._url = _checked(url)
        self._model = model
        path = f"/v2/models/{quote(model, safe='')}"
        self._path = path if version is None else f"{path}/versions/{quote(version, safe='')}"
        self._client = httpx2.Client(
            headers={"User-Agent": f"waypost-cli/{own_version()}", "Accept": "application/json"},
            follow_redirects=False,
            timeout=httpx2.Timeout(timeout_seconds, connect=_CONNECT_TIMEOUT_SECONDS),
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

    def metadata(self) -> Mapping[str, object]:
        """What the server says of the model. Raises `CliError`."""
        return self._ask("GET", self._path, None, f"the model {self._model!r}")

    def infer(self, request: Request) -> Answered:
        """Raises `CliError` with what the server said."""
        body = {"inputs": [_sent(tensor) for tensor in request.inputs]}
        started = time.monotonic()
        answer = self._ask("POST", f"{self._path}/infer", body, f"request {request.name!r}")
        took = (time.monotonic() - started) * 1000
        outputs = answer.get("outputs")
        if not isinstance(outputs, list) or not 1 <= len(outputs) <= MAX_TENSORS:
            raise CliError(f"request {request.name!r}: the answer has no outputs, or too many")
        where = f"request {request.name!r}: the answer's outputs"
        tensors = [parse_tensor(each, f"{where}[{at}]") for at, each in enumerate(outputs)]
        return Answered(outputs={each.name: each for each in tensors}, milliseconds=took)

    def _ask(self, method: str, path: str, body: object, what: str) -> Mapping[str, object]:
        headers = {}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            with self._client.stream(
                method, self._url + path, content=content, headers=headers
            ) as response:
                raw = bytearray()
                for piece in response.iter_bytes():
                    raw += piece
                    if len(raw) > _MOST_BYTES:
                        raise CliError(f"{what}: the answer has more than {_MOST_BYTES} bytes")
                status = response.status_code
        except httpx2.TimeoutException as error:
            cure = "give --timeout more seconds, or ask a server that is not busy"
            raise CliError(f"{what}: {self._url} did not answer in time", cure=cure) from error
        except httpx2.RequestError as error:
            cure = "give --url the HTTP address of the server, for Triton http://HOST:8000"
            raise CliError(f"{self._url} cannot be asked: {error}", cure=cure) from error
        document = _parsed(bytes(raw))
        if not 200 <= status < 300:
            said = document.get("error") if isinstance(document, Mapping) else None
            shown = str(said or bytes(raw[:200]).decode(errors="replace"))[:500]
            raise CliError(f"{what}: the server refuses it (HTTP {status}): {shown}")
        if not isinstance(document, Mapping):
            raise CliError(f"{what}: the answer is no JSON object, so this is no KServe v2 server")
        return document


def _sent(tensor: Tensor) -> dict[str, object]:
    """Not-a-number and infinities as they are: servers do not know golden.json's texts for them."""
    document = tensor.document
    if tensor.is_real:
        document["data"] = [
            SPECIAL.get(value, value) if isinstance(value, str) else value for value in tensor.data
        ]
    return document


def _parsed(raw: bytes) -> object:
    try:
        document: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return document


def _checked(url: str) -> str:
    cure = "give it as http://HOST:8000"
    try:
        parts = urlsplit(url.strip())
        bad_port = parts.port == 0
    except ValueError as error:
        raise CliError(f"the URL cannot be read: {error}", cure=cure) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or bad_port:
        raise CliError(f"{url!r:.200} is not the address of a server", cure=cure)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise CliError("the URL holds more than an address and a path", cure=cure)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
