"""Names for what a resource says now (`ETag`), and what callers do with them: ask whether it is
still so (`If-None-Match`, 304) and change it only if it is (`If-Match`, 412).

A tag is `"R.D"`: R the row's revision (or a digest of the members in the view's `etag_fields`), D a
digest of the answer. `If-None-Match` compares all of it. `If-Match` compares R, where there is one:
that a site was heard again is no change that somebody could have overwritten. Without R the digest
alone is the tag, and both compare it.

`If-Match` is looked at in the transaction of the change, with the row locked. That is free of races
for models, versions, channels, rollouts, sites, webhooks and windows, on SQLite for everything (a
transaction has the database to itself). For any other resource on PostgreSQL two changes at the
same instant may both pass. So may they for the calls that read whole files (`finalise`): these are
compared in a short transaction of its own before, and come to the same however often they are
made."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, ResolverMatch, resolve

from controlplane.audit.models import Webhook
from controlplane.catalog.models import Channel, Model, Version
from controlplane.domain.errors import InvalidInput, WaypostError
from controlplane.fleet.models import MaintenanceWindow, Site
from controlplane.rollouts.models import Rollout

DIGEST_LENGTH = 20


class PreconditionFailed(WaypostError):
    """The resource is not what the caller looked at any more; `tag` is what it is now, empty when
    it is not there."""

    def __init__(self, tag: str) -> None:
        said = "was changed since it was read" if tag else "is not there, and If-Match was given"
        super().__init__(
            "precondition-failed",
            f"The resource {said}: read it again, and decide again.",
            extra={"etag": tag} if tag else {},
        )
        self.tag = tag


def tag_of(response: HttpResponseBase, view: Any) -> str | None:
    """The tag of an answer to GET; None for what has none (a stream, an error, an empty body)."""
    if response.status_code != 200 or response.streaming:
        return None
    if response.has_header("ETag"):
        return str(response["ETag"])
    assert isinstance(response, HttpResponse)
    digest = _digest(response.content)
    document = getattr(response, "data", None)
    if not isinstance(document, Mapping):
        return f'"{digest}"'
    fields = getattr(view, "etag_fields", None)
    if fields:
        return f'"{digest_of({name: document.get(name) for name in fields})}.{digest}"'
    revision = document.get("revision")
    return f'"{revision}.{digest}"' if isinstance(revision, int) else f'"{digest}"'


def digest_of(members: Mapping[str, object]) -> str:
    """What stands before the dot of a tag whose view names `etag_fields`."""
    return _digest(json.dumps(members, sort_keys=True, default=str).encode())


def is_unchanged(request: HttpRequest, tag: str) -> bool:
    """Whether `If-None-Match` names the tag. Weak comparison (RFC 9110, 13.1.2)."""
    given = request.headers.get("If-None-Match", "")
    return given.strip() == "*" or tag in [each.removeprefix("W/") for each in _listed(given)]


def require_match(request: HttpRequest, match: ResolverMatch, token: Any) -> str:
    """Locks the row and compares, inside the caller's transaction; the tag as it is now, empty
    where nothing is there: then the call must not succeed. Raises `PreconditionFailed`, and
    `InvalidInput` where there is nothing to compare with."""
    found = _owner(request, match)
    if found is None:
        raise InvalidInput(
            "if-match-unusable",
            "There is no resource with an ETag behind this call; leave If-Match out.",
        )
    path, owner = found
    _lock(owner)
    present = _present(request, path, owner, token)
    given = request.headers["If-Match"].strip()
    if present is None:
        return ""  # it is not there: the view says so, or would make it
    if given != "*" and _strong(present) not in [_strong(each) for each in _listed(given)]:
        raise PreconditionFailed(present)
    return present


def _owner(request: HttpRequest, match: ResolverMatch) -> tuple[str, ResolverMatch] | None:
    """The resource that a write is about: the path itself, or what stands before a verb."""
    if _reads(match):
        return request.path_info, match
    parent = request.path_info.rpartition("/")[0]
    try:
        above = resolve(parent)
    except Resolver404:
        return None
    # A collection has no tag that a member's change could be compared with.
    return (parent, above) if above.kwargs and _reads(above) and not _lists(above) else None


def _reads(match: ResolverMatch) -> bool:
    return hasattr(getattr(match.func, "cls", None), "get")


def _lists(match: ResolverMatch) -> bool:
    return hasattr(getattr(match.func, "cls", None), "paginate_queryset")


def _present(request: HttpRequest, path: str, owner: ResolverMatch, token: Any) -> str | None:
    """What a GET would be answered with now."""
    asking = HttpRequest()
    dropped = ("CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_IF_NONE_MATCH", "QUERY_STRING")
    asking.META = {key: value for key, value in request.META.items() if key not in dropped}
    asking.META |= {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    asking.method = "GET"
    asking.path = asking.path_info = path
    asking.resolver_match = owner
    asking.waypost_token = token  # type: ignore[attr-defined]  # see auth.token_of
    response = owner.func(asking, *owner.args, **owner.kwargs)
    if hasattr(response, "render"):
        response.render()
    return tag_of(response, owner.func.cls)  # type: ignore[attr-defined]  # DRF's own mark


def _lock(owner: ResolverMatch) -> None:
    rows = _rows(owner.route.removeprefix("api/v1/"), owner.kwargs)
    if rows is not None:
        list(rows.select_for_update().values_list("pk"))


def _rows(route: str, kwargs: Mapping[str, Any]) -> QuerySet[Any] | None:
    name = str(kwargs.get("name", kwargs.get("model", "")))
    if "\0" in name:
        return None
    if route.startswith("rollouts/"):
        return Rollout.objects.filter(pk=kwargs["rollout_id"])
    if route.startswith("models/"):
        if "number" in kwargs:
            return Version.objects.filter(model__name=name, number=kwargs["number"])
        if "channel" in kwargs:
            return Channel.objects.filter(model__name=name, name=kwargs["channel"])
        return Model.objects.filter(name=name)
    kinds: dict[str, type[Any]] = {
        "sites/": Site,
        "webhooks/": Webhook,
        "windows/": MaintenanceWindow,
    }
    for start, kind in kinds.items():
        if route.startswith(start) and "name" in kwargs:
            rows: QuerySet[Any] = kind.objects.filter(name=name)
            return rows
    return None


def _listed(given: str) -> list[str]:
    return [each.strip() for each in given.split(",") if each.strip()]


def _strong(tag: str) -> str:
    """What `If-Match` compares: the part before the dot. A weak tag matches nothing."""
    return tag.strip('"').partition(".")[0]


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:DIGEST_LENGTH]
