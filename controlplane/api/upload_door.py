"""Who may send a file's bytes at all, asked before any of them is read: Django spools a whole body
to disk before a view looks at who is calling.

Pure ASGI but for the look-up of the token, which runs in `threads`. What it refuses it does not
answer itself: the view behind gets the request with an empty body, and says why."""

import asyncio
from concurrent.futures import Executor
from datetime import datetime

from django.db import Error, connection
from django.utils import timezone

from controlplane.accounts.models import Scope as TokenScope
from controlplane.accounts.services import authenticate_api_token
from controlplane.api.body_limit import Application, Message, Receive, Scope, Send, is_upload
from controlplane.domain.errors import WaypostError


def admit_uploads(application: Application, threads: Executor) -> Application:
    """Wraps an ASGI application. `threads` ask the database; their connections stay open."""

    async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_upload(scope["path"], scope["method"]):
            loop = asyncio.get_running_loop()
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            secret = given[-1].decode("latin-1") if given else ""
            if not await loop.run_in_executor(threads, _may_push, secret, timezone.now()):
                receive = _without_body(receive)
        await application(scope, receive, send)

    return admitted


def _may_push(authorization: str, now: datetime) -> bool:
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return False
    try:
        return TokenScope.PUSH in authenticate_api_token(secret=secret.strip(), now=now).scopes
    except WaypostError:
        return False
    except Error:
        # The connection may be what is wrong; the view has its own.
        connection.close()
        return True


def _without_body(receive: Receive) -> Receive:
    """An empty body, then whatever comes that is not one: that the caller went."""
    told = False

    async def empty() -> Message:
        nonlocal told
        if not told:
            told = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] == "http.request":
            pass  # thrown away as it comes
        return message

    return empty
