"""`GET …?wait=25s&since=REVISION`: answered as soon as there is news, else when the time is up.

A caller that waits holds no thread and no database connection: it waits in the event loop, before
Django, and what it waits for is looked at twice a second for all who wait for it together. Then the
request goes on to its view, which answers what is so by now. Pure ASGI but for the looks, which run
in `threads`.

How many may wait is bounded, for a web process and for one caller of it; more are answered 503 with
`Retry-After`. It must not know what the resources mean: `standings.py` says where they stand."""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings
from django.db import Error, connection
from django.utils import timezone

from controlplane.accounts.services import authenticate_api_token
from controlplane.api import request_id
from controlplane.api.body_limit import Application, Message, Receive, Scope, Send
from controlplane.api.rate_limit import COUNTED, TooManyRequests, count_call
from controlplane.api.standings import Standing, standing_of, waitable
from controlplane.domain.errors import FieldError, InvalidInput, WaypostError

MAX_WAIT_SECONDS = 60
LOOK_EVERY_SECONDS = 0.5
# One caller may have this share of all that may wait.
SHARE_OF_ONE = 4
RETRY_AFTER_SECONDS = 5
_WAIT = re.compile(r"(\d{1,2})s?", re.ASCII)
_SINCE = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """How long to wait at most, and for what: a revision above `since`, or another tag than any of
    `tags`."""

    seconds: int
    since: int | None
    tags: tuple[str, ...]

    def met_by(self, standing: Standing) -> bool:
        if self.since is not None:
            return standing.revision > self.since
        return not any(tag.startswith(standing.tag) for tag in self.tags)


def wish_of(query: str, if_none_match: str) -> Wish | None:
    """None: the caller does not want to wait. Raises `InvalidInput`."""
    given = parse_qs(query, keep_blank_values=True, max_num_fields=100)
    wait, since = given.get("wait", [""])[-1], given.get("since", [""])[-1]
    faults = []
    read = _WAIT.fullmatch(wait)
    if "wait" in given and (read is None or int(read[1]) > MAX_WAIT_SECONDS):
        message = f"must be 0 to {MAX_WAIT_SECONDS} seconds, such as 25s"
        faults.append(FieldError(field="wait", message=message))
    if "since" in given and not _SINCE.fullmatch(since):
        faults.append(FieldError(field="since", message="must be a revision, such as 12"))
    if faults:
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=faults)
    tags = tuple(tag.strip().removeprefix("W/") for tag in if_none_match.split(",") if tag.strip())
    if read is None or not int(read[1]) or not (since or tags):
        return None
    return Wish(seconds=int(read[1]), since=int(since) if since else None, tags=tags)


class Waiters:
    """Who waits in this process, and the looks they share."""

    def __init__(self, threads: Executor, look: Callable[[str], Standing] = standing_of) -> None:
        self._threads = threads
        self._look = look
        self._looks: dict[str, tuple[float, asyncio.Future[Standing | None]]] = {}
        self._waiting: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[bool]:
        """Whether there is room; it is kept until the block ends."""
        most = settings.WAYPOST_API_WAITERS
        room = self._waiting.total() < most and self._waiting[caller] < max(1, most // SHARE_OF_ONE)
        self._waiting[caller] += room
        try:
            yield room
        finally:
            self._waiting[caller] -= room
            if not self._waiting[caller]:
                del self._waiting[caller]
            if not self._waiting:
                self._looks.clear()

    async def until(self, path: str, wish: Wish) -> None:
        """Returns when the wish is met, the time is up, or the resource cannot be looked at."""
        deadline = time.monotonic() + wish.seconds
        while True:
            standing = await self._shared_look(path)
            left = deadline - time.monotonic()
            if standing is None or wish.met_by(standing) or left <= 0:
                return
            await asyncio.sleep(min(LOOK_EVERY_SECONDS, left))

    async def known(self, secret: str) -> str | None:
        """The caller behind a token, None for a token that is none."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _caller, secret)

    async def _shared_look(self, path: str) -> Standing | None:
        now = time.monotonic()
        begun, look = self._looks.get(path, (0.0, None))
        if look is None or look.cancelled() or now - begun > LOOK_EVERY_SECONDS * 0.8:
            loop = asyncio.get_running_loop()
            self._forget_old_looks(now)
            look = loop.run_in_executor(self._threads, _looked, self._look, path)
            self._looks[path] = (now, look)
        # Shielded: one caller who leaves must not take the look away from the others.
        return await asyncio.shield(look)

    def _forget_old_looks(self, now: float) -> None:
        old = [
            path
            for path, (begun, look) in self._looks.items()
            if look.done() and now - begun > LOOK_EVERY_SECONDS
        ]
        for path in old:
            del self._looks[path]


def answer_waits(application: Application, threads: Executor) -> Application:
    """Wraps an ASGI application; a request that may wait reaches it when its wait is over."""
    waiters = Waiters(threads)

    async def waited(scope: Scope, receive: Receive, send: Send) -> None:
        asked = _asked(scope)
        caller = await waiters.known(asked[2]) if asked else None
        if asked is None or caller is None:
            await application(scope, receive, send)  # the view says what is wrong, if anything is
            return
        try:
            scope = {**scope, COUNTED: count_call(caller)}
        except TooManyRequests:
            await application(scope, receive, send)  # it is told so at once, and waits for nothing
            return
        path, wish, _ = asked
        async with waiters.place(caller) as room:
            if not room:
                await _refuse(scope, send)
                return
            listener = _Listener(receive)
            if await listener.left_during(waiters.until(path, wish)):
                return
        await application(scope, listener.receive, send)

    return waited


class _Listener:
    """Hears whether the caller hangs up while it waits, and hands on what came meanwhile."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._heard: list[Message] = []

    async def left_during(self, waiting: Coroutine[Any, Any, None]) -> bool:
        wait, listen = asyncio.create_task(waiting), asyncio.create_task(self._listen())
        try:
            await asyncio.wait({wait, listen}, return_when=asyncio.FIRST_COMPLETED)
            return not wait.done()
        finally:
            for task in (wait, listen):
                task.cancel()
            await asyncio.gather(wait, listen, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            self._heard.append(message)
            if message["type"] == "http.disconnect":
                return

    async def receive(self) -> Message:
        return self._heard.pop(0) if self._heard else await self._receive()


def _asked(scope: Scope) -> tuple[str, Wish, str] | None:
    """Path, wish and secret of a request that could wait."""
    if scope["type"] != "http" or scope["method"] != "GET" or b"wait=" not in scope["query_string"]:
        return None
    path = scope["path"]
    if not waitable(path):
        return None
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    scheme, _, secret = headers.get(b"authorization", "").partition(" ")
    try:
        query = scope["query_string"].decode("latin-1")
        wish = wish_of(query, headers.get(b"if-none-match", ""))
    except (InvalidInput, ValueError):
        return None
    return (path, wish, secret.strip()) if wish and scheme.lower() == "bearer" else None


def _caller(secret: str) -> str | None:
    try:
        return authenticate_api_token(secret=secret, now=timezone.now()).digest
    except WaypostError:
        return None
    except Error:
        connection.close()
        return None


def _looked(look: Callable[[str], Standing], path: str) -> Standing | None:
    try:
        return look(path)
    except WaypostError:
        return None
    except Error:
        # The connection may be what is wrong; the next look of this thread opens another.
        connection.close()
        return None


async def _refuse(scope: Scope, send: Send) -> None:
    given = dict(scope["headers"]).get(request_id.HEADER.lower().encode(), b"").decode("latin-1")
    name = request_id.sane(given)
    problem = {
        "type": "urn:waypost:problem:too-many-waiters",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Too many calls wait for news here. Ask again in a while, or without `wait`.",
        "code": "too-many-waiters",
        "request_id": name,
        "retry_after": RETRY_AFTER_SECONDS,
    }
    body = json.dumps(problem).encode()
    headers = {
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "retry-after": str(RETRY_AFTER_SECONDS),
        "cache-control": "private, no-cache",
        request_id.HEADER.lower(): name,
    }
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": 503, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
