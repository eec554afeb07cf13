"""Every error of both APIs in one form: RFC 9457 problem documents with a stable `code`."""

from http import HTTPStatus
from typing import Any

import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig, ValidationError
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework import exceptions

from controlplane.accounts.issuers import IssuerUnavailable
from controlplane.api.etags import PreconditionFailed
from controlplane.api.rate_limit import TooManyRequests
from controlplane.catalog.registry.linking import RegistryUnavailable
from controlplane.catalog.store import StoreFull, StoreUnavailable
from controlplane.domain.errors import (
    Conflict,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    TooLarge,
    Unauthenticated,
    WaypostError,
)

PROBLEM_TYPE = "application/problem+json"
_STATUS: list[tuple[type[WaypostError], HTTPStatus]] = [
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED),
    (TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS),
    (IssuerUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (RegistryUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreFull, HTTPStatus.INSUFFICIENT_STORAGE),
    (StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
]


def problem_document(error: WaypostError, status: HTTPStatus) -> dict[str, Any]:
    """The members of RFC 9457, ours (`code`, `errors`, `request_id`) and the error's own."""
    document: dict[str, Any] = {
        "type": f"urn:waypost:problem:{error.code}",
        "title": status.phrase,
        "status": status.value,
        "detail": error.detail,
        "code": error.code,
    }
    if error.errors:
        document["errors"] = [{"field": e.field, "message": e.message} for e in error.errors]
    if request_id := structlog.contextvars.get_contextvars().get("request_id"):
        document["request_id"] = request_id
    return document | error.extra


def status_of(error: WaypostError) -> HTTPStatus:
    return next((s for cls, s in _STATUS if isinstance(error, cls)), HTTPStatus.BAD_REQUEST)


def problem_response(error: WaypostError, status: HTTPStatus | None = None) -> HttpResponse:
    """The answer itself; `status` where the error's class does not say it."""
    status = status or status_of(error)
    response = JsonResponse(
        problem_document(error, status), status=status, content_type=PROBLEM_TYPE
    )
    if status is HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = "Bearer"
    if isinstance(retry_after := error.extra.get("retry_after"), int):
        response["Retry-After"] = str(retry_after)
    if isinstance(error, TooManyRequests):
        for name, value in error.headers.items():
            response[name] = value
    if isinstance(error, PreconditionFailed) and error.tag:
        response["ETag"] = error.tag
    return response


def unrouted(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """404 for a path below /api/ or /agent/ that is no endpoint."""
    detail = f"There is no endpoint at {request.path[:200]!r}; see /api/v1/schema/."
    return problem_response(NotFound("endpoint-unknown", detail))


def problem_handler(raised: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """DRF's exception handler. None lets a true bug become a 500 with its traceback in the log.

    A plain response: DRF would write a problem in the form of the view, YAML for the schema.
    """
    error, status = _translate(raised)
    return problem_response(error, status) if error else None


def _translate(raised: Exception) -> tuple[WaypostError | None, HTTPStatus]:
    if isinstance(raised, WaypostError):
        return raised, status_of(raised)
    if isinstance(raised, exceptions.ValidationError):
        faults = list(flatten("", raised.detail))
        error = InvalidInput("invalid-request", "The request cannot be used.", errors=faults)
        return error, HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(raised, Http404):
        return NotFound("not-found", "There is nothing here."), HTTPStatus.NOT_FOUND
    if isinstance(raised, PermissionDenied):
        return Forbidden("forbidden", "You may not do this."), HTTPStatus.FORBIDDEN
    if isinstance(raised, ValidationError):
        faults = [FieldError(field="", message=text) for text in raised.messages]
        error = InvalidInput("invalid-request", "The request cannot be used.", errors=faults)
        return error, HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(raised, RequestDataTooBig):
        return TooLarge("body-too-large", "The body is too large."), HTTPStatus(413)
    if isinstance(raised, OperationalError) and _passes(raised):
        detail = "The database is busy with other writers; ask again."
        busy = WaypostError("database-busy", detail, extra={"retry_after": 1})
        return busy, HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(raised, exceptions.APIException):
        code = str(raised.default_code).replace("_", "-")
        return WaypostError(code, str(raised.detail)), HTTPStatus(raised.status_code)
    return None, HTTPStatus.INTERNAL_SERVER_ERROR


def _passes(error: OperationalError) -> bool:
    """Two transactions that waited for each other, or a lock that was not had in time."""
    said = str(error).lower()
    return any(words in said for words in ("deadlock", "could not serialize", "is locked"))


def flatten(where: str, detail: Any) -> list[FieldError]:
    """DRF's nested error detail as a flat list with paths such as `models[0].phase`."""
    if isinstance(detail, dict):
        return [
            fault for key, value in detail.items() for fault in flatten(_below(where, key), value)
        ]
    if isinstance(detail, list):
        return [
            fault
            for index, value in enumerate(detail)
            for fault in flatten(where if isinstance(value, str) else f"{where}[{index}]", value)
        ]
    return [FieldError(field=where.replace("non_field_errors", "").strip("."), message=str(detail))]


def _below(where: str, key: str | int) -> str:
    """DRF numbers the faulty entries of a list by integer keys."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if where else key
