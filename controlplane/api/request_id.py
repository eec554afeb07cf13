"""The name of a request, by which its answer, its log lines and its events find each other.

A caller may bring one (`X-Request-ID`) so that its own log and ours say the same. What is too long,
or could break a log line, is replaced: it goes into every line as it is."""

import re
import uuid
from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "X-Request-ID"
_META = "HTTP_X_REQUEST_ID"
# Events keep 64 characters of it.
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,63}")


def sane(given: str | None) -> str:
    """The caller's if it can be used as it is, else a new one."""
    return given if given and _SANE.fullmatch(given) else str(uuid.uuid4())


class RequestIdMiddleware:
    """First of all middleware: the log's middleware and the problem documents find the id in the
    request, and every answer carries it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        name = sane(request.META.get(_META))
        request.META[_META] = name
        response = self._get_response(request)
        response[HEADER] = name
        return response
