"""What every call of `/api/v1/` has in common, whatever its view does: counted against its caller's
limit, named by `Idempotency-Key`, held to `If-Match`, answered with `ETag` and `Link`.

Middleware, so that no view can forget it. It must not know what the calls mean."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, ResolverMatch, resolve
from django.utils import timezone

from controlplane.accounts.models import ApiToken
from controlplane.api import idempotency
from controlplane.api.auth import READS, token_of
from controlplane.api.errors import problem_handler, problem_response
from controlplane.api.etags import PreconditionFailed, is_unchanged, require_match, tag_of
from controlplane.api.long_poll import wish_of
from controlplane.api.rate_limit import count_request
from controlplane.api.standings import waitable
from controlplane.domain.errors import Unauthenticated

PREFIX = "/api/v1/"
Answer = Callable[[], HttpResponseBase]


class ConventionsMiddleware:
    """The innermost: the log knows the request by then."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(PREFIX):
            return self._get_response(request)
        try:
            token = _token(request)
            limits = count_request(request, token)
            if waitable(request.path_info):
                # The wait itself is over by now; a wish that cannot be read never began one.
                wish_of(request.META.get("QUERY_STRING", ""), "")
        except Exception as error:
            return _problem_or_raise(error)
        response = self._answer(request, token)
        for name, value in limits.items():
            response[name] = value
        return _finished(request, response)

    def _answer(self, request: HttpRequest, token: ApiToken | None) -> HttpResponseBase:
        def answer() -> HttpResponseBase:
            return self._get_response(request)

        if request.method in READS or token is None:
            return answer()
        if "If-Match" in request.headers:
            answer = _guarded(request, token, answer)
        if request.method != "POST" or not idempotency.is_named(request):
            return answer()
        try:
            now = timezone.now()
            return idempotency.answer_once(request, token=token, answer=answer, now=now)
        except Exception as error:
            return _problem_or_raise(error)


def _guarded(request: HttpRequest, token: ApiToken, answer: Answer) -> Answer:
    """The answer in one transaction with the comparison it depends on, where it is a short one."""

    def guarded() -> HttpResponseBase:
        match = _match(request)
        if match is None:
            return answer()
        try:
            if idempotency.is_same_by_nature(request):
                # It reads whole files: no lock, and no writer of SQLite, may be held for as long.
                with transaction.atomic():
                    require_match(request, match, token)
                return answer()
            with transaction.atomic():
                tag = require_match(request, match, token)
                response = answer()
                made = not tag and response.status_code < HTTPStatus.BAD_REQUEST
                if made or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    transaction.set_rollback(True)
            # Only after the answer: what would have failed anyway says why (RFC 9110, 13.2.1).
            return problem_response(PreconditionFailed("")) if made else response
        except Exception as error:
            return _problem_or_raise(error)

    return guarded


def _token(request: HttpRequest) -> ApiToken | None:
    try:
        return token_of(request)
    except Unauthenticated:
        return None  # the view says so


def _match(request: HttpRequest) -> ResolverMatch | None:
    try:
        return resolve(request.path_info)
    except Resolver404:
        return None


def _problem_or_raise(error: Exception) -> HttpResponseBase:
    response = problem_handler(error, {})
    if response is None:
        raise error
    return response


def _finished(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if not response.has_header("Cache-Control"):
        # Proxies may keep nothing of it; a caller may, and asks whether it is still so.
        kept = "private, no-cache" if request.method in READS else "no-store"
        response["Cache-Control"] = kept
    if (links := _links(getattr(response, "data", None))) and response.status_code == HTTPStatus.OK:
        response["Link"] = links
    match = request.resolver_match
    view = getattr(match.func, "cls", None) if match else None
    changed_in_place = request.method in ("PUT", "PATCH") and hasattr(view, "get")
    if request.method not in ("GET", "HEAD") and not changed_in_place:
        return response
    tag = tag_of(response, view)
    if tag is None:
        return response
    if request.method in ("GET", "HEAD") and is_unchanged(request, tag):
        unchanged = HttpResponse(status=HTTPStatus.NOT_MODIFIED)
        for name in ("Cache-Control", "Link", "RateLimit", "RateLimit-Policy"):
            if response.has_header(name):
                unchanged[name] = response[name]
        unchanged["ETag"] = tag
        del unchanged["Content-Type"]
        return unchanged
    response["ETag"] = tag
    return response


def _links(document: Any) -> str:
    """Of a page, as in RFC 8288."""
    if not isinstance(document, Mapping) or "results" not in document:
        return ""
    kinds = (("next", "next"), ("previous", "prev"))
    return ", ".join(f'<{document[key]}>; rel="{rel}"' for key, rel in kinds if document.get(key))
