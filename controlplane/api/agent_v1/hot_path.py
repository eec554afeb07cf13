"""Answers an agent's unchanged poll before Django sees it: most requests of the whole system.

It knows one question, "has anything changed since this ETag?", and answers only a clear no (304).
Everything else, also every error, is left to the views behind it, which give the same answer."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from datetime import datetime

from django.db import Error, connection
from django.utils import timezone

from controlplane.api.agent_v1.http import held_headers, lease_interval, poll_headers
from controlplane.api.body_limit import Application, Message, Receive, Scope, Send
from controlplane.domain.errors import WaypostError
from controlplane.fleet.identity import authenticate_agent, touch_lease
from controlplane.fleet.protocol import SUPPORTED_PROTOCOL

PATH = "/agent/v1/desired"


def answer_unchanged_polls(application: Application, threads: Executor) -> Application:
    """Wraps an ASGI application. `threads` ask the database; their connections stay open."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        question = _question(scope)
        if question:
            loop = asyncio.get_running_loop()
            headers = await loop.run_in_executor(threads, _unchanged, *question, timezone.now())
            if headers is not None:
                await _send_304(send, headers)
                return
        await application(scope, receive, send)

    return answered


def _question(scope: Scope) -> tuple[str, str, str] | None:
    """(session token, ETag, number of the report it stands for) of a poll that could be
    unchanged."""
    if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "GET":
        return None
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    if headers.get(b"waypost-protocol", SUPPORTED_PROTOCOL) != SUPPORTED_PROTOCOL:
        return None
    scheme, _, secret = headers.get(b"authorization", "").partition(" ")
    tag = headers.get(b"if-none-match", "")
    if scheme.lower() != "bearer" or not tag:
        return None
    return secret.strip(), tag, headers.get(b"waypost-holds", "")


def _unchanged(secret: str, tag: str, holds: str, now: datetime) -> Mapping[str, str] | None:
    """The headers of the 304, or None when it is not for this module to answer."""
    try:
        caller = authenticate_agent(secret=secret, now=now)
        headers = poll_headers(caller)
        if headers["ETag"] != tag:
            return None
        touch_lease(caller=caller, now=now, at_most_every=lease_interval())
        return {**headers, **held_headers(caller, holds, now)}
    except WaypostError:
        return None
    except Error:
        # The connection may be what is wrong; the next poll of this thread opens another.
        connection.close()
        return None


async def _send_304(send: Send, headers: Mapping[str, str]) -> None:
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    start: Message = {"type": "http.response.start", "status": 304, "headers": pairs}
    await send(start)
    await send({"type": "http.response.body", "body": b""})
