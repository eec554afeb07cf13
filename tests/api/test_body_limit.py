"""Bodies are bounded before anything reads them."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from controlplane.api.body_limit import (
    AGENT_BYTES,
    PIECE_BYTES,
    SIGNATURE_BYTES,
    USUAL_BYTES,
    limit_bodies,
    limit_for,
)

DIGEST = "0" * 64


def call(
    path: str, chunks: Iterable[bytes], *, method: str = "POST", headers: Any = ()
) -> tuple[int, bytes, int]:
    """Status and body of the answer, and how many bytes the application behind was given."""
    left = list(chunks)
    read = 0
    sent: list[Any] = []

    async def receive() -> Any:
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        more = True
        while more:
            message = await receive()
            read += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(limit_bodies(application)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], read


def test_a_body_within_the_limit_passes_whole() -> None:
    assert call("/agent/v1/report", [b"x" * 1000, b"y" * 24]) == (200, b"ok", 1024)


def test_a_body_declared_too_large_is_refused_unread() -> None:
    length = [(b"content-length", str(AGENT_BYTES + 1).encode())]
    status, body, read = call("/agent/v1/report", [b"x"], headers=length)
    assert (status, read) == (413, 0)
    assert json.loads(body)["code"] == "report-too-large"


def test_a_chunked_body_is_counted_and_cut() -> None:
    status, body, read = call("/api/v1/rollouts", [b"x" * (1 << 20)] * 64)
    assert status == 413
    assert read <= USUAL_BYTES
    assert json.loads(body)["code"] == "body-too-large"


@pytest.mark.parametrize(
    ("path", "method", "limit"),
    [
        ("/agent/v1/enrol", "POST", AGENT_BYTES),
        ("/api/v1/models/m/versions", "POST", USUAL_BYTES),
        ("/login/", "POST", USUAL_BYTES),
        ("/api/v1/models/m/versions/3/signature", "PUT", SIGNATURE_BYTES),
        ("/api/v1/models/m/versions/3/signature", "POST", USUAL_BYTES),
        (f"/api/v1/models/m/versions/3/blobs/{DIGEST}", "PUT", PIECE_BYTES),
        (f"/api/v1/models/m/versions/3/blobs/{DIGEST}", "POST", USUAL_BYTES),
        (f"/api/v1/models/m/versions/3/blobs/{DIGEST}/x", "PUT", USUAL_BYTES),
    ],
)
def test_every_body_has_a_limit(path: str, method: str, limit: int) -> None:
    assert limit_for(path, method) == limit


def test_a_file_too_large_for_one_body_is_told_how_to_come() -> None:
    length = [(b"content-length", str(PIECE_BYTES + 1).encode())]
    path = f"/api/v1/models/m/versions/3/blobs/{DIGEST}"
    status, body, read = call(path, [b"x"], method="PUT", headers=length)
    assert (status, read) == (413, 0)
    assert "Content-Range: bytes FIRST-LAST/SIZE" in json.loads(body)["detail"]
