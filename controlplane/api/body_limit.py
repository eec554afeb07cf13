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
_UPLOAD = re.compile(r"/api/v1/models/[^/]+/versions/\d+/blobs/[0-9a-f]{64}")


class BodyTooLarge(Exception):
    """More bytes arrived than the path allows."""


def limit_for(path: str, method: str) -> int | None:
    """The most bytes a body may hold; None for an upload, which its manifest bounds."""
    if method == "PUT" and _UPLOAD.fullmatch(path):
        return None
    return AGENT_BYTES if path.startswith("/agent/") else USUAL_BYTES


def limit_bodies(application: Application) -> Application:
    """Wraps an ASGI application; answers 413 itself when a body is too large."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        limit = limit_for(scope["path"], scope["method"]) if scope["type"] == "http" else None
        if limit is None:
            await application(scope, receive, send)
            return
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
    body = json.dumps(
        {
            "type": f"urn:waypost:problem:{code}",
            "title": "Request Entity Too Large",
            "status": 413,
            "detail": f"A body here may hold {limit} bytes.",
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
