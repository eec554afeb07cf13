"""Bounds every request body before Django reads it: Django spools a whole body to disk before any
view, and so before any check of who is calling.

Pure ASGI; knows paths and sizes, nothing of what the bodies mean."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

AGENT_BYTES = 256 * 1024
# A manifest of 2,000 files is below 1 MiB; forms are smaller still.
USUAL_BYTES = 4 * 1024 * 1024
# Of a file, or of a piece of it; `waypost push` takes 16 MiB.
PIECE_BYTES = 64 * 1024 * 1024
# A signature names every file once more, in base64.
SIGNATURE_BYTES = 8 * 1024 * 1024
_UPLOAD = re.compile(r"/api/v1/models/[^/]+/versions/\d+/blobs/[0-9a-f]{64}")
_SIGNATURE = re.compile(r"/api/v1/models/[^/]+/versions/\d+/signature")


class BodyTooLarge(Exception):
    """More bytes arrived than the path allows."""


def is_upload(path: str, method: str) -> bool:
    """Whether the body is a file's bytes."""
    return method == "PUT" and _UPLOAD.fullmatch(path) is not None


def limit_for(path: str, method: str) -> int:
    """The most bytes a body may hold. A larger file comes in pieces."""
    if is_upload(path, method):
        return PIECE_BYTES
    if method == "PUT" and _SIGNATURE.fullmatch(path):
        return SIGNATURE_BYTES
    return AGENT_BYTES if path.startswith("/agent/") else USUAL_BYTES


def limit_bodies(application: Application) -> Application:
    """Wraps an ASGI application; answers 413 itself when a body is too large."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        limit = limit_for(scope["path"], scope["method"])
        if _declared(scope) > limit:
            await _refuse(send, limit)
            return
        try:
            await application(scope, _counted(receive, limit), send)
        except BodyTooLarge:
            await _refuse(send, limit)

    return limited


def _declared(scope: Scope) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0


def _counted(receive: Receive, limit: int) -> Receive:
    """Without Content-Length (chunked) the bytes are counted as they come."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise BodyTooLarge
        return message

    return counted


async def _refuse(send: Send, limit: int) -> None:
    code = "report-too-large" if limit == AGENT_BYTES else "body-too-large"
    detail = f"A body here may hold {limit} bytes."
    if limit == PIECE_BYTES:
        detail += (
            " Send a larger file in pieces, each with Content-Range: bytes FIRST-LAST/SIZE, as"
            " `waypost push` does."
        )
    body = json.dumps(
        {
            "type": f"urn:waypost:problem:{code}",
            "title": "Request Entity Too Large",
            "status": 413,
            "detail": detail,
            "code": code,
        }
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        # The rest of the body is not read; the connection cannot be used again.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
