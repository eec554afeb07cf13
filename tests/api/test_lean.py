"""Answers to agents have no header that only a browser reads; those to people have them all."""

import asyncio
from typing import Any

import pytest

from controlplane.api.agent_v1.lean import answer_agents_lean

GIVEN = [
    (b"Content-Type", b"application/json"),
    (b"ETag", b'"1.2"'),
    (b"Content-Security-Policy", b"default-src 'none'"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"same-origin"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
]


def headers_at(path: str) -> list[tuple[bytes, bytes]]:
    told: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": GIVEN})
        await send({"type": "http.response.body", "body": b"{}"})

    async def send(message: Any) -> None:
        told.append(message)

    scope = {"type": "http", "path": path}
    asyncio.run(answer_agents_lean(application)(scope, None, send))  # type: ignore[arg-type]
    assert told[1] == {"type": "http.response.body", "body": b"{}"}
    headers: list[tuple[bytes, bytes]] = told[0]["headers"]
    return headers


def test_an_agent_gets_what_it_reads() -> None:
    assert headers_at("/agent/v1/report") == [GIVEN[0], GIVEN[1], GIVEN[3]]


@pytest.mark.parametrize("path", ["/", "/api/v1/sites", "/sites/agent/v1/"])
def test_a_browser_keeps_all(path: str) -> None:
    assert headers_at(path) == GIVEN
