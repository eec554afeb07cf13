"""What people ask of a registry: that a model follows one there, that a version is brought in.
Writes rows and rings; what it comes to is the business of `reconcile.py` and `importing.py`."""

import re
from collections.abc import Mapping
from datetime import datetime

from django.db import IntegrityError, transaction

from controlplane.audit.services import record_event
from controlplane.catalog.channels import require_no_strategy
from controlplane.catalog.models import ImportedVersion, ImportState, Model, RegistryLink
from controlplane.catalog.registry import Refused as RemoteRefused
from controlplane.catalog.registry import RegistrySource, Unavailable
from controlplane.catalog.registry.doorbell import ring_after_commit
from controlplane.catalog.registry.following import forget_unwatched
from controlplane.catalog.registry.sources import MLFLOW
from controlplane.catalog.services import create_model
from controlplane.domain.errors import (
    Conflict,
    FieldError,
    InvalidInput,
    NotFound,
    WaypostError,
)

MAX_WATCHED = 20
_REMOTE_NAME = re.compile(r"[^/:\x00-\x1f\x7f]{1,256}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,200}", re.ASCII)
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}", re.ASCII)
_STAGES = ("Staging", "Production", "Archived")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


class RegistryUnavailable(WaypostError):
    """The registry does not answer as it should; asking again may help."""


def link_model(
    *,
    model_name: str,
    remote_name: str,
    aliases: Mapping[str, str],
    stages: Mapping[str, str],
    actor: str,
    person: str,
    may_roll_out: bool = True,
    now: datetime,
) -> tuple[RegistryLink, bool]:
    """Lets a model follow one of MLflow; the link and whether it is new. `aliases` and `stages` say
    which channel each moves, empty for none: then its versions are only brought in.

    The same link again takes the aliases and stages given now. Raises `InvalidInput`
    (`link-invalid`, `model-name-invalid`), `Conflict` (`remote-linked`: another model has it),
    `Forbidden` (`scope-missing`: it would move a channel with a strategy, and who asks may not
    start rollouts).
    """
    _check_link(remote_name, aliases, stages)
    watched = {"aliases": dict(aliases), "stages": dict(stages)}
    try:
        with transaction.atomic():
            model, _ = create_model(name=model_name, actor=actor, now=now)
            if not may_roll_out:
                require_no_strategy(model, {*aliases.values(), *stages.values()})
            row, created = RegistryLink.objects.select_for_update().get_or_create(
                registry=MLFLOW,
                remote_name=remote_name,
                defaults={
                    "model": model,
                    **watched,
                    "created_by": actor,
                    "person": person,
                    "created_at": now,
                    "wanted_at": now,
                },
            )
            if row.model_id != model.pk:
                raise Conflict(
                    "remote-linked",
                    f"{remote_name!r} of MLflow is what {row.model.name} follows; unlink it there "
                    "first.",
                )
            before = {"aliases": row.aliases, "stages": row.stages}
            if created or before != watched:
                forget_unwatched(row, before, watched)
                row.aliases, row.stages, row.wanted_at = dict(aliases), dict(stages), now
                row.save(update_fields=["aliases", "stages", "wanted_at"])
                _note(row, "created" if created else "changed", actor, now, watched)
                ring_after_commit()
            return row, created
    except IntegrityError as error:
        raise Conflict("link-contended", "Somebody else linked it just now; try again.") from error


@transaction.atomic
def unlink(*, link: RegistryLink, actor: str, now: datetime) -> None:
    """Forgets the link and what was imported by it; the versions themselves stay."""
    _note(link, "deleted", actor, now, {})
    link.delete()


def import_version(
    *,
    link: RegistryLink,
    version: str = "",
    alias: str = "",
    stage: str = "",
    source: RegistrySource,
    actor: str,
    person: str = "",
    now: datetime,
) -> tuple[ImportedVersion, bool]:
    """Asks for a version by exactly one of number, alias and stage; its row and whether it is new.

    An alias or a stage is looked up here and now, and never again. A version that failed is tried
    anew; one that is here stays as it is. Raises `InvalidInput` (`import-invalid`,
    `remote-version-unknown`), `RegistryUnavailable`.
    """
    if sum(map(bool, (version, alias, stage))) != 1:
        raise _invalid_import("version", "name one of version, alias and stage")
    if version and not _NUMBER.fullmatch(version):
        raise _invalid_import("version", 'must be a version\'s number in MLflow, such as "3"')
    if alias and not _ALIAS.fullmatch(alias):
        raise _invalid_import("alias", "must be letters, digits, _ and -")
    if stage and stage not in _STAGES:
        raise _invalid_import("stage", f"must be one of {', '.join(_STAGES)}")
    number = version or _look_up(link, alias, stage, source)
    with transaction.atomic():
        return want_version(link=link, number=number, actor=actor, person=person, now=now)


def want_version(
    *, link: RegistryLink, number: str, actor: str, person: str = "", now: datetime
) -> tuple[ImportedVersion, bool]:
    """The row of a version that is to be here, and whether it is new. Call it in a transaction."""
    row, created = ImportedVersion.objects.select_for_update().get_or_create(
        link=link,
        remote_version=number,
        defaults={"asked_by": actor[:150], "person": person, "asked_at": now},
    )
    if not created and row.state == ImportState.FAILED:
        row.state, row.reason, row.attempts, row.not_before = ImportState.PENDING, "", 0, None
        row.asked_by, row.person = actor[:150], person
        row.asked_at, row.finished_at = now, None
        row.save()
        created = True
    if created:
        record_event(
            now=now,
            actor=actor,
            action="import.asked",
            object_type="model",
            object_id=link.model.name,
            data={"registry": link.registry, "remote": f"{link.remote_name}/{number}"},
        )
        ring_after_commit()
    return row, created


@transaction.atomic
def look_soon(*, link: RegistryLink, actor: str, now: datetime) -> None:
    """A person wants the registry looked at now, and not by the clock."""
    _note(link, "look_asked", actor, now, {})
    ask_for_reconcile(remote_name=link.remote_name, now=now)


@transaction.atomic
def ask_for_reconcile(*, remote_name: str, now: datetime) -> bool:
    """Marks a link to be looked at soon; whether there is such a one. Any number of times."""
    asked = RegistryLink.objects.filter(registry=MLFLOW, remote_name=remote_name)
    found = bool(asked.update(wanted_at=now))
    if found:
        ring_after_commit()
    return found


def find_link(model: Model, pk: int) -> RegistryLink:
    """Raises `NotFound` (`link-unknown`)."""
    row = RegistryLink.objects.select_related("model").filter(model=model, pk=pk).first()
    if row is None:
        raise NotFound("link-unknown", f"{model.name} has no registry link {pk}.")
    return row


def only_link(model: Model, remote_name: str = "") -> RegistryLink:
    """The link that is meant. Raises `Conflict` (`link-missing`, `link-ambiguous`)."""
    rows = RegistryLink.objects.select_related("model").filter(model=model)
    if remote_name:
        rows = rows.filter(remote_name=remote_name)
    found = list(rows[:2])
    if not found:
        raise Conflict(
            "link-missing", f"{model.name} follows no model of a registry; link it first."
        )
    if len(found) > 1:
        raise Conflict("link-ambiguous", f"{model.name} follows several models; name the one.")
    return found[0]


def _look_up(link: RegistryLink, alias: str, stage: str, source: RegistrySource) -> str:
    try:
        return source.resolve(link.remote_name, alias=alias, stage=stage).remote_version
    except RemoteRefused as error:
        fault = FieldError(field="alias" if alias else "stage", message=str(error))
        raise InvalidInput("remote-version-unknown", str(error), errors=[fault]) from error
    except Unavailable as error:
        raise RegistryUnavailable(
            "registry-unavailable", str(error), extra={"retry_after": 30}
        ) from error


def _check_link(remote_name: str, aliases: Mapping[str, str], stages: Mapping[str, str]) -> None:
    faults = []
    if not _REMOTE_NAME.fullmatch(remote_name) or remote_name != remote_name.strip():
        message = "must be a registered model's name in MLflow, without / and :"
        faults.append(FieldError(field="remote_name", message=message))
    if len(aliases) + len(stages) > MAX_WATCHED:
        message = f"at most {MAX_WATCHED} aliases and stages are watched"
        faults.append(FieldError(field="aliases", message=message))
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            message = f"{alias[:40]!r} is no alias: letters, digits, _ and -"
            faults.append(FieldError(field="aliases", message=message))
    for stage in stages:
        if stage not in _STAGES:
            message = f"{stage[:40]!r} is no stage; there are {', '.join(_STAGES)}"
            faults.append(FieldError(field="stages", message=message))
    for field, watched in (("aliases", aliases), ("stages", stages)):
        for channel in filter(None, watched.values()):
            if not _CHANNEL.fullmatch(channel):
                message = f"{channel[:40]!r} cannot name a channel"
                faults.append(FieldError(field=field, message=message))
    if faults:
        raise InvalidInput("link-invalid", "The link cannot be kept as given.", errors=faults)


def _invalid_import(field: str, message: str) -> InvalidInput:
    fault = FieldError(field=field, message=message)
    return InvalidInput("import-invalid", "It is not clear what to import.", errors=[fault])


def _note(
    link: RegistryLink, action: str, actor: str, now: datetime, data: Mapping[str, object]
) -> None:
    record_event(
        now=now,
        actor=actor,
        action=f"registry_link.{action}",
        object_type="model",
        object_id=link.model.name,
        data={"registry": link.registry, "remote_name": link.remote_name, **data},
    )


def find_import(model: Model, pk: int) -> ImportedVersion:
    """Raises `NotFound` (`import-unknown`)."""
    rows = ImportedVersion.objects.select_related("link__model", "version")
    row = rows.filter(link__model=model, pk=pk).first()
    if row is None:
        raise NotFound("import-unknown", f"{model.name} has no import {pk}.")
    return row
