"""Writes into the OpenAPI document what every call has in common: its errors with examples, the
headers of the conventions, and where one may wait for news.

It follows from the document alone (methods, parameters, bodies) which apply, so that no view has to
say it, and none can forget it."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from controlplane.api.long_poll import MAX_WAIT_SECONDS
from controlplane.api.standings import STANDINGS

Operation = dict[str, Any]
WRITES = ("post", "put", "patch", "delete")
BASE = "/api/v1/"
EXAMPLE_ID = "5f0c1a52-6a3c-4f0e-9a51-0b8f3f0a9d11"

# Status to name, what it means, and an example: code, detail, more members.
PROBLEMS: dict[int, tuple[str, str, tuple[str, str, dict[str, Any]]]] = {
    400: (
        "BadRequest",
        "The body is not JSON that can be used.",
        ("parse-error", "The body is not JSON that can be used: Expecting value.", {}),
    ),
    401: (
        "Unauthenticated",
        "No token, or one that is unknown, expired or revoked.",
        ("token-invalid", "The API token is unknown, expired or revoked; make a new one.", {}),
    ),
    403: (
        "Forbidden",
        "The token lacks the scope, or may not change this model.",
        (
            "scope-missing",
            "This token has the scopes push; the call needs rollout.",
            {"needed": "rollout", "scopes": ["push"]},
        ),
    ),
    404: (
        "NotFound",
        "There is no such thing.",
        ("model-unknown", "No model is called 'vad'.", {}),
    ),
    406: (
        "NotAcceptable",
        "The answers are JSON; `Accept` allows none of it.",
        ("not-acceptable", "Could not satisfy the request Accept header.", {}),
    ),
    409: (
        "Conflict",
        "The present state does not allow it, or a call with this Idempotency-Key is under way.",
        ("version-exists", "Version 3 of 'vad' has another manifest.", {}),
    ),
    412: (
        "PreconditionFailed",
        "`If-Match` names another state than the present one, whose ETag the answer has.",
        (
            "precondition-failed",
            "The resource was changed since it was read: read it again, and decide again.",
            {"etag": '"13.5c7a0f0d"'},
        ),
    ),
    413: (
        "TooLarge",
        "The body is over its limit.",
        ("body-too-large", "A body here may hold 4194304 bytes.", {}),
    ),
    415: (
        "UnsupportedMediaType",
        "Bodies are JSON: Content-Type: application/json.",
        ("unsupported-media-type", 'Unsupported media type "text/plain" in request.', {}),
    ),
    422: (
        "InvalidRequest",
        "The request cannot be used; `errors` names every fault at once.",
        (
            "invalid-request",
            "The request cannot be used.",
            {"errors": [{"field": "name", "message": "This field is required."}]},
        ),
    ),
    429: (
        "TooManyRequests",
        "The caller asks more often than it may; `Retry-After` says how long to wait.",
        (
            "too-many-requests",
            "This caller may ask 200 times at once and 50 times a second; wait 1 s.",
            {"retry_after": 1},
        ),
    ),
    503: (
        "Unavailable",
        "Busy for a moment; the same request may work after `Retry-After`.",
        (
            "database-busy",
            "The database is busy with other writers; ask again.",
            {"retry_after": 1},
        ),
    ),
    507: (
        "StoreFull",
        "The artifact store has no room left.",
        ("store-full", "The artifact store is full.", {}),
    ),
}
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "X-Request-ID": (
        "names the request in logs and events; the caller's own if it sent one",
        {"type": "string", "maxLength": 64},
    ),
    "ETag": ("names what the resource says now", {"type": "string"}),
    "Link": ("of a list: its next and previous page (RFC 8288)", {"type": "string"}),
    "RateLimit": (
        "what is left: draft-ietf-httpapi-ratelimit-headers-10",
        {"type": "string", "examples": ['"caller";r=199;t=1']},
    ),
    "RateLimit-Policy": (
        "how often a caller may ask",
        {"type": "string", "examples": ['"caller";q=200;w=4']},
    ),
    "Retry-After": ("seconds", {"type": "integer", "minimum": 0}),
    "Idempotency-Replayed": (
        "`true`: the answer of an earlier call with this key",
        {"type": "string", "const": "true"},
    ),
}
PARAMETERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Idempotency-Key": (
        "header",
        "Names this call: sent again within 24 hours with the same body it is answered as before "
        "and changes nothing; with another body 422, while the first is under way 409.",
        {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
    ),
    "If-Match": (
        "header",
        "An ETag of the resource that is changed: 412 if it is not that any more.",
        {"type": "string", "maxLength": 200, "pattern": "^[ -~]+$"},
    ),
    "If-None-Match": (
        "header",
        "An ETag of an earlier answer: 304 without a body if it is still so.",
        {"type": "string", "maxLength": 200, "pattern": "^[ -~]+$"},
    ),
    "wait": (
        "query",
        f"Seconds, at most {MAX_WAIT_SECONDS}, to wait for a revision above `since`, or without "
        "it for another ETag than `If-None-Match` names. When the time is up: the same again.",
        {"type": "string", "pattern": r"^([1-5]?[0-9]|60)s?$", "examples": ["25s"]},
    ),
    "since": (
        "query",
        "The `revision` that the caller has.",
        {"type": "integer", "minimum": 0, "maximum": 10**17},
    ),
}
# Statuses of single operations: what these answer besides, and what they never do though others of
# their kind may. tests/api/test_documented_statuses.py sees every one that is documented.
_BLOB = "models/{name}/versions/{number}/blobs/{sha256}"
_ALSO: dict[str, set[int]] = {
    "PUT models/{name}/channels/{channel}": {409},
    "DELETE models/{name}/versions/{number}": {409},
    f"PUT {_BLOB}": {409, 507},
    "PUT rollouts/{rollout_id}/stages/{stage}/gates/{gate}": {409},
    # Its reason may stand in a body, which OpenAPI does not know of a DELETE.
    "DELETE sites/{name}": {400, 415, 422},
}
_NEVER: dict[str, set[int]] = {
    # Bytes that a signature is over, whatever they are.
    "POST registries/mlflow/webhook": {400, 403, 415, 422},
    # What is no JSON is no signature: 422.
    "PUT models/{name}/versions/{number}/signature": {400},
}
# Of a page: what makes no sense is the usual.
_NEVER_REFUSED = {"limit", "offset"}
# What a query may leave out of an answer.
OPTIONAL = {"StageOut": "deployments"}
_WAITABLE = {
    BASE + re.sub(r"<[^:]+:([^>]+)>", r"{\1}", route): route for route in STANDINGS
}  # as the document writes paths


def add_conventions(result: Any, generator: Any, request: Any, public: Any) -> Any:
    """A post-processing hook of drf-spectacular."""
    components = result.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = _problem_schema()
    for name, member in OPTIONAL.items():
        required = components["schemas"].get(name, {}).get("required", [])
        if member in required:
            required.remove(member)
    components["headers"] = {
        name: {"description": text, "schema": schema} for name, (text, schema) in HEADERS.items()
    }
    components["parameters"] = {
        name: {"name": name, "in": where, "description": text, "schema": schema}
        for name, (where, text, schema) in PARAMETERS.items()
    }
    components["responses"] = {
        entry[0]: _problem_response(status, *entry) for status, entry in PROBLEMS.items()
    }
    paths = result.get("paths", {})
    for path, operations in paths.items():
        for method, operation in operations.items():
            if isinstance(operation, dict) and "responses" in operation:
                _complete(path, method, operation, paths)
    return result


def _complete(path: str, method: str, operation: Operation, paths: dict[str, Any]) -> None:
    named = list(_parameters(path, method, operation, paths))
    if named:
        refs = [{"$ref": f"#/components/parameters/{name}"} for name in named]
        operation["parameters"] = [*operation.get("parameters", []), *refs]
    responses = operation["responses"]
    for response in responses.values():
        response.setdefault("headers", {}).update(_headers(method, operation))
    if method == "get":
        unchanged = {"description": "It is as `If-None-Match` says.", "headers": _named("ETag")}
        responses.setdefault("304", unchanged)
    for status in sorted(_statuses(path, method, operation, "If-Match" in named)):
        ref = {"$ref": f"#/components/responses/{PROBLEMS[status][0]}"}
        responses.setdefault(str(status), ref)
    operation["responses"] = dict(sorted(responses.items()))


def _parameters(
    path: str, method: str, operation: Operation, paths: dict[str, Any]
) -> Iterator[str]:
    if method == "get":
        yield "If-None-Match"
        if path in _WAITABLE:
            yield from ("wait", "since")
        return
    if method == "post" and _needs_token(operation):
        yield "Idempotency-Key"
    above = path.rpartition("/")[0]
    owner = paths.get(path, {}) if "get" in paths.get(path, {}) else paths.get(above, {})
    # A list has no state of one thing that a change could be held to.
    if method in WRITES and "get" in owner and not _is_list(owner["get"]):
        yield "If-Match"


def _statuses(path: str, method: str, operation: Operation, guarded: bool) -> set[int]:
    found = {401, 406, 429, 503}
    inputs = {(p.get("in"), p.get("name")) for p in operation.get("parameters", [])}
    if any(where == "path" for where, _ in inputs):
        found.add(404)
    asked = {name for where, name in inputs if where == "query"}
    if method == "get" and (asked - _NEVER_REFUSED or path in _WAITABLE):
        found.add(422)
    if method in WRITES:
        found |= {403, 413}
        if method != "delete":
            found.add(422)
        if guarded:
            found.add(412)
    if method == "post" and _needs_token(operation):
        found.add(409)  # by its Idempotency-Key, where by nothing else
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        found |= {400, 415}
    own = f"{method.upper()} {path.removeprefix(BASE)}"
    return (found | _ALSO.get(own, set())) - _NEVER.get(own, set())


def _headers(method: str, operation: Operation) -> dict[str, Any]:
    names = ["X-Request-ID", "RateLimit", "RateLimit-Policy"]
    if method == "get":
        names.append("ETag")
        if _is_list(operation):
            names.append("Link")
    if method == "post" and _needs_token(operation):
        names.append("Idempotency-Replayed")
    return _named(*names)


def _named(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _needs_token(operation: Operation) -> bool:
    return any(operation.get("security", []))


def _is_list(operation: Operation) -> bool:
    return any(p.get("name") in ("limit", "cursor") for p in operation.get("parameters", []))


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "RFC 9457. `code` is stable; some codes have further members.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "format": "uri", "examples": ["urn:waypost:problem:frozen"]},
            "title": text,
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "what is wrong, and what would be right"},
            "code": {"type": "string", "pattern": "^[a-z0-9-]+$"},
            "request_id": text,
            "errors": {
                "type": "array",
                "description": "every fault at once",
                "items": {
                    "type": "object",
                    "required": ["field", "message"],
                    "properties": {"field": text, "message": text},
                },
            },
        },
        "additionalProperties": True,
    }


def _problem_response(
    status: int, name: str, meaning: str, example: tuple[str, str, dict[str, Any]]
) -> dict[str, Any]:
    code, detail, more = example
    document = {
        "type": f"urn:waypost:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": EXAMPLE_ID,
        **more,
    }
    headers = _named("X-Request-ID", *(["Retry-After"] if status in (429, 503) else []))
    if status == 412:
        headers |= _named("ETag")
    return {
        "description": meaning,
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": document,
            }
        },
    }
