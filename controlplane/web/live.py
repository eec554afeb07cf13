"""One view, two answers: the whole page, or for htmx only the part that lives.

Every live panel of the console goes through `respond`, so that all refresh, stand still and stop by
the same rules. It knows nothing of what is shown.

A poll carries the tag of what the page shows as `If-None-Match`; the answer is 304 while that is
still true, 200 with the new part, or 286 (htmx: stop asking) once it can no longer change."""

import hashlib
from collections.abc import Mapping
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from django.utils.timezone import now as current_time

from controlplane.rollouts.queries import EngineStatus, engine_status
from controlplane.web.frozen import FreezeLine, freeze_lines

STOP_POLLING = 286
REFRESH_SECONDS = 3


def wants_fragment(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true"


def respond(
    request: HttpRequest,
    *,
    page: str,
    fragment: str,
    context: Mapping[str, object],
    shows: object,
    final: bool = False,
) -> HttpResponse:
    """Renders `page`, or on a poll `fragment`, or nothing when the browser is up to date.

    `shows` is the data behind the panel: equal `repr` means equal picture. Relative times are no
    part of it, since the browser counts them on by itself. `final`: it can never change again.
    """
    now = current_time()
    engine, freezes = engine_status(now=now), freeze_lines(now)
    tag = _tag(request, shows, engine, freezes)
    whole = {
        **context,
        "engine": engine,
        "freezes": freezes,
        "etag": tag,
        "final": final,
        "fragment": fragment,
    }
    if not wants_fragment(request):
        response = render(request, page, whole)
    elif request.headers.get("If-None-Match") == tag and not final:
        response = HttpResponse(status=HTTPStatus.NOT_MODIFIED)
    else:
        status = STOP_POLLING if final else HTTPStatus.OK
        response = render(request, "parts/fragment.html", whole, status=status)
    if wants_fragment(request):
        response["ETag"] = tag
    # The script holds the tag itself; a second cache between would hide the 304 from it.
    response["Cache-Control"] = "no-store"
    patch_vary_headers(response, ["HX-Request", "Cookie"])
    return response


def _tag(
    request: HttpRequest, shows: object, engine: EngineStatus, freezes: list[FreezeLine]
) -> str:
    """Of what is shown, to whom, what is frozen, and whether the engine is down. While it is up its
    last beats do not count: they are not on the page."""
    engine_part = None if engine.alive else (engine.tick_at, engine.worker_at)
    frozen = [line.shown for line in freezes]
    text = repr((request.get_full_path(), request.user.pk, engine_part, frozen, shows))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
