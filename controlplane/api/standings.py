"""Where a resource stands that somebody may wait for: its revision, and how its ETag begins.

Cheap to ask: it is asked twice a second for each resource waited for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.urls import Resolver404, resolve

from controlplane.api.etags import digest_of
from controlplane.audit.queries import latest_event_of
from controlplane.catalog.models import ImportedVersion, Version
from controlplane.domain.errors import NotFound
from controlplane.rollouts.queries import find_rollout

PREFIX = "api/v1/"
IMPORT_FIELDS = ("attempts", "reason", "state")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """`revision` is compared with `since`; `If-None-Match` is still so if it begins with `tag`."""

    revision: int
    tag: str


def rollout_standing(rollout_id: int) -> Standing:
    """Its tag changes with the rollout (its revision) and with every step of a site (an event)."""
    step = latest_event_of(object_type="rollout", object_id=str(rollout_id))
    revision = find_rollout(rollout_id).revision
    return Standing(revision=revision, tag=f'"{revision}.{step}"')


def version_standing(name: str, number: int) -> Standing:
    rows = Version.objects.filter(model__name=name, number=number) if "\0" not in name else None
    revision = rows.values_list("revision", flat=True).first() if rows is not None else None
    if revision is None:
        raise NotFound("version-unknown", f"Model {name!r} has no version {number}.")
    return Standing(revision=revision, tag=f'"{revision}.')


def import_standing(name: str, import_id: int) -> Standing:
    """It has no revision: who waits for it does so by its ETag (`ImportDetail.etag_fields`)."""
    rows = ImportedVersion.objects.filter(pk=import_id, link__model__name=name.replace("\0", ""))
    row = rows.values(*IMPORT_FIELDS).first()
    if row is None:
        raise NotFound("import-unknown", f"Model {name!r} has no import {import_id}.")
    return Standing(revision=0, tag=f'"{digest_of(row)}.')


STANDINGS: dict[str, Callable[..., Standing]] = {
    "rollouts/<int:rollout_id>": rollout_standing,
    "models/<str:name>/versions/<int:number>": version_standing,
    "models/<str:name>/imports/<int:import_id>": import_standing,
}


def waitable(path: str) -> bool:
    return _found(path) is not None


def standing_of(path: str) -> Standing:
    """Raises `NotFound` for what is not there."""
    found = _found(path)
    if found is None:
        raise ValueError(f"nothing at {path!r} can be waited for")
    ask, kwargs = found
    return ask(**kwargs)


def _found(path: str) -> tuple[Callable[..., Standing], dict[str, Any]] | None:
    try:
        match = resolve(path)
    except Resolver404:
        return None
    ask = STANDINGS.get(match.route.removeprefix(PREFIX))
    return (ask, match.kwargs) if ask else None
