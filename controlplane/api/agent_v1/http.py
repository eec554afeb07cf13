"""How agents speak HTTP: bounded JSON in, JSON or a problem out, a session behind most calls."""

import functools
import re
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from controlplane.api import strict_json
from controlplane.api.errors import problem_response
from controlplane.domain.errors import (
    FieldError,
    InvalidInput,
    TooLarge,
    Unauthenticated,
    WaypostError,
)
from controlplane.fleet.identity import Caller, authenticate_agent, touch_lease
from controlplane.fleet.protocol import SUPPORTED_PROTOCOL, note_refusal, protocol_refusal
from controlplane.rollouts.reports import hold_report

MAX_BODY_BYTES = 256 * 1024
_SEQ = re.compile(r"[1-9][0-9]{0,17}")
_GZIP = 16 + zlib.MAX_WBITS

AgentView = Callable[..., HttpResponseBase]


def agent_call(*methods: str) -> Callable[[AgentView], AgentView]:
    """A view that anybody may call, as an agent does before it has a session."""

    def decorate(view: AgentView) -> AgentView:
        @csrf_exempt  # agents carry no cookies
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method not in methods:
                return _method_not_allowed(request, methods)
            try:
                _refuse_other_protocol(request)
                return view(request, *args, **kwargs)
            except WaypostError as error:
                return problem_response(error)

        return wrapped

    return decorate


def session_call(*methods: str) -> Callable[[AgentView], AgentView]:
    """A view behind a session. It gets the `Caller`; the call itself shows that the agent lives."""

    def decorate(view: AgentView) -> AgentView:
        @agent_call(*methods)
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            now = timezone.now()
            caller = authenticate_agent(secret=_bearer(request), now=now)
            touch_lease(caller=caller, now=now, at_most_every=lease_interval())
            return view(request, caller, *args, **kwargs)

        return wrapped

    return decorate


def lease_interval() -> timedelta:
    """A third of the fleet's poll interval: a poll and the report that follows it are one write.
    A site that asks more often is judged by the fleet's limit too, so this is enough for it."""
    return timedelta(seconds=settings.WAYPOST_POLL_SECONDS / 3)


def poll_headers(caller: Caller) -> dict[str, str]:
    """What every answer to a poll carries: the edition of the wishes, and when to ask again."""
    return {
        "ETag": f'"{caller.epoch}.{caller.generation}"',
        "Waypost-Poll-Seconds": f"{caller.poll_seconds:g}",
    }


def held_headers(caller: Caller, holds: str, now: datetime) -> dict[str, str]:
    """What an unchanged poll that stands for the report numbered `holds` is answered with besides;
    nothing where that is not the last report, and the agent then tells it anew."""
    if _SEQ.fullmatch(holds) is None:
        return {}
    return {"Waypost-Held": holds} if hold_report(caller=caller, seq=int(holds), now=now) else {}


def json_body(request: HttpRequest) -> dict[str, Any]:
    """The body as an object. Raises `TooLarge` (`report-too-large`), `InvalidInput`."""
    length = request.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    raw = request.read(MAX_BODY_BYTES + 1)
    if len(raw) > MAX_BODY_BYTES:
        raise _too_large()
    raw = _unpacked(raw, request.headers.get("Content-Encoding", "identity"))
    try:
        body = strict_json.loads(raw)
    except ValueError as error:
        detail = f"The body is not JSON that can be used: {error}."
        raise InvalidInput("invalid-request", detail) from error
    if not isinstance(body, dict):
        raise InvalidInput("invalid-request", "The body must be a JSON object.")
    return body


def _unpacked(raw: bytes, encoding: str) -> bytes:
    """The body that was sent, whose size unpacked is bounded as any other."""
    if encoding == "identity":
        return raw
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        body = unpacker.decompress(raw, MAX_BODY_BYTES + 1) if encoding == "gzip" else b""
    except zlib.error:
        body = b""
    if len(body) > MAX_BODY_BYTES:
        raise _too_large()
    if not body or not unpacker.eof:
        fault = FieldError(field="Content-Encoding", message="must be gzip, whole, or left out")
        raise InvalidInput("invalid-request", "The body cannot be unpacked.", errors=[fault])
    return body


def _method_not_allowed(request: HttpRequest, methods: tuple[str, ...]) -> HttpResponse:
    allowed = ", ".join(methods)
    error = WaypostError("method-not-allowed", f"{request.path} takes {allowed}.")
    response = problem_response(error, HTTPStatus.METHOD_NOT_ALLOWED)
    response["Allow"] = allowed
    return response


def _too_large() -> TooLarge:
    return TooLarge("report-too-large", f"A body may hold {MAX_BODY_BYTES} bytes.")


def _bearer(request: HttpRequest) -> str:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated(
            "session-invalid", "Send the session token: Authorization: Bearer wps_…"
        )
    return secret.strip()


def _refuse_other_protocol(request: HttpRequest) -> None:
    said = request.headers.get("Waypost-Protocol", SUPPORTED_PROTOCOL)
    if said == SUPPORTED_PROTOCOL:
        return
    try:
        secret = _bearer(request)
    except Unauthenticated:
        secret = ""
    note_refusal(said, secret=secret, agent_id="" if secret else _agent_named(request))
    raise protocol_refusal(said, agent=request.headers.get("User-Agent", ""))


def _agent_named(request: HttpRequest) -> str:
    """The agent that a call without a session is about, if it is a body that can be read."""
    try:
        return str(json_body(request).get("agent", ""))
    except WaypostError:
        return ""
