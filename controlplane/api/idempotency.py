"""A POST that its caller named (`Idempotency-Key`) happens once, however often it is sent: the same
name with the same request gets the answer of the first time, for a day.

The change and its answer are one transaction: a process that dies half way leaves neither, and the
call may be made again after a minute. Kept are answers of success, and 422: the same request is as
wrong tomorrow. What the state of things refuses (409, 412, 429 and the like) may pass later, and
what fails (5xx) too: made again, the call is a new one. What a view shows once, a secret, is not
kept either: the repetition is told so."""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from http import HTTPStatus

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from controlplane.accounts.models import ApiToken, IdempotentCall
from controlplane.accounts.pruning import CALLS_KEPT_FOR
from controlplane.api.errors import problem_response
from controlplane.domain.errors import Conflict, FieldError, InvalidInput

HEADER = "Idempotency-Key"
# A call that is under way for longer was cut off.
GIVEN_UP_AFTER = timedelta(minutes=1)
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
# What reads and hashes whole files, and comes to the same again by itself: as one transaction it
# would keep every other writer of SQLite waiting for as long.
_SAME_BY_NATURE = re.compile(r"/(finalise|multipart(/[a-z]+)?)$")
_KEPT_HEADERS = ("Content-Type", "Location", "ETag")
_SECRETS = ("secret", "token")


def is_named(request: HttpRequest) -> bool:
    return HEADER in request.headers and not is_same_by_nature(request)


def is_same_by_nature(request: HttpRequest) -> bool:
    return _SAME_BY_NATURE.search(request.path) is not None


def answer_once(
    request: HttpRequest,
    *,
    token: ApiToken,
    answer: Callable[[], HttpResponseBase],
    now: datetime,
) -> HttpResponseBase:
    """`answer()`, or what it answered before. Raises `InvalidInput` and `Conflict`."""
    key = _key_of(request)
    digest = _digest_of(request)
    held = _claim(token=token, key=key, digest=digest, now=now)
    if held is not None:
        return _replayed(held)
    mine = IdempotentCall.objects.filter(token=token, key=key, started_at=now, status=None)
    with transaction.atomic():
        response = answer()
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or response.streaming:
            transaction.set_rollback(True)
        elif not _is_kept(response):
            mine.delete()
        elif not mine.update(**_kept(response)):
            # It took so long that the same call was let in again, and that one was faster.
            transaction.set_rollback(True)
            return problem_response(_under_way())
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        mine.delete()
    return response


def _is_kept(response: HttpResponseBase) -> bool:
    status = response.status_code
    return status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.UNPROCESSABLE_ENTITY


def _key_of(request: HttpRequest) -> str:
    key = request.headers[HEADER]
    if not _KEY.fullmatch(key):
        fault = FieldError(field=HEADER, message="must be 1 to 200 visible ASCII characters")
        raise InvalidInput("idempotency-key-invalid", "The key cannot be used.", errors=[fault])
    return key


def _digest_of(request: HttpRequest) -> str:
    """Over method, path with its query, and body."""
    spoken = f"{request.method} {request.get_full_path()}\n".encode()
    return hashlib.sha256(spoken + request.body).hexdigest()


def _claim(*, token: ApiToken, key: str, digest: str, now: datetime) -> IdempotentCall | None:
    """None: the call is the caller's to make now. Else the call as it was answered."""
    try:
        with transaction.atomic():
            rows = IdempotentCall.objects.select_for_update().filter(token=token, key=key)
            held = rows.first()
            if held is not None and held.started_at <= now - CALLS_KEPT_FOR:
                held.delete()
                held = None
            if held is None:
                IdempotentCall.objects.create(
                    token=token, key=key, request_digest=digest, started_at=now
                )
                return None
            if held.request_digest != digest:
                detail = "This Idempotency-Key was used for another request; take a new key."
                raise InvalidInput("idempotency-key-reused", detail)
            if held.status is not None:
                return held
            if held.started_at > now - GIVEN_UP_AFTER:
                raise _under_way()
            held.started_at = now
            held.save(update_fields=["started_at"])
            return None
    except IntegrityError as error:  # another request with the key came in between
        raise _under_way() from error


def _under_way() -> Conflict:
    return Conflict(
        "call-under-way",
        "A call with this Idempotency-Key is under way; ask again in a moment.",
        extra={"retry_after": 1},
    )


def _kept(response: HttpResponseBase) -> dict[str, object]:
    assert isinstance(response, HttpResponse)
    document = getattr(response, "data", None)
    if isinstance(document, dict) and any(isinstance(document.get(k), str) for k in _SECRETS):
        response_kept = problem_response(
            Conflict(
                "secret-shown-once",
                "This call was made before, and its secret was shown then. It is not kept: "
                "revoke what was made, and make another with a new key.",
            )
        )
        # Nothing of this request's own: the id of the answer is that of whoever asks again.
        body = {k: v for k, v in json.loads(response_kept.content).items() if k != "request_id"}
        return {
            "status": response_kept.status_code,
            "headers": {"Content-Type": response_kept["Content-Type"]},
            "body": json.dumps(body).encode(),
        }
    headers = {name: response[name] for name in _KEPT_HEADERS if response.has_header(name)}
    return {"status": response.status_code, "headers": headers, "body": response.content}


def _replayed(held: IdempotentCall) -> HttpResponse:
    assert held.status is not None
    response = HttpResponse(bytes(held.body), status=held.status)
    for name, value in held.headers.items():
        response[name] = value
    response["Idempotency-Replayed"] = "true"
    return response
