"""Strategies that people keep: named, versioned, never edited. Reads and writes.

The built-in ones come with the code (`domain/strategies.py`) and are found here as well."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import Max

from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.strategies import BUILT_IN, StrategySpec, parse_strategy
from controlplane.rollouts.models import Strategy

_BUILT_IN = {spec.name: spec for spec in BUILT_IN}


def strategies() -> list[StrategySpec]:
    """What a rollout can be started by: the built-in ones, then the latest version of each kept
    one that is not retired, by name."""
    rows = Strategy.objects.filter(retired_at=None).order_by("name", "version")
    latest = {row.name: row for row in rows}
    return [*BUILT_IN, *(_spec_of(row) for row in latest.values())]


def find_strategy(name: str, version: int | None = None) -> StrategySpec:
    """That version, retired or not, so that it can be looked at; without one, the latest in use.

    Raises `NotFound` (`strategy-unknown`).
    """
    if (spec := _BUILT_IN.get(name)) and version in (None, spec.version):
        return spec
    # PostgreSQL refuses to be asked for NUL, which a path may hold; no name does.
    rows = Strategy.objects.filter(name=name) if "\0" not in name else Strategy.objects.none()
    if version is None:
        row = rows.filter(retired_at=None).order_by("-version").first()
    else:
        row = rows.filter(version=version).first()
    if row is None:
        wanted = f"version {version} of strategy {name!r}" if version else f"strategy {name!r}"
        raise NotFound("strategy-unknown", f"There is no {wanted} in use.")
    return _spec_of(row)


def create_strategy(*, document: object, actor: str, now: datetime) -> Strategy:
    """Keeps a strategy, or the next version of it: rows in use are never edited.

    A `version` in the document must be that next one. Raises `InvalidInput` (`strategy-invalid`)
    and `Conflict` (`strategy-builtin`, `strategy-changed`).
    """
    spec = parse_strategy(document)
    _refuse_built_in(spec.name)
    latest = Strategy.objects.filter(name=spec.name).aggregate(latest=Max("version"))["latest"] or 0
    if spec.version not in (0, latest + 1):
        raise _changed(spec.name, latest)
    spec = replace(spec, version=latest + 1)
    try:
        with transaction.atomic():
            row = Strategy.objects.create(
                name=spec.name,
                version=spec.version,
                title=spec.title,
                document=spec.document(),
                created_by=actor,
                created_at=now,
            )
            _record("created", spec.name, {"version": spec.version}, "", actor=actor, now=now)
    except IntegrityError as error:  # two people raced for the same number
        raise _changed(spec.name, spec.version) from error
    return row


def retire_strategy(*, name: str, reason: str, actor: str, now: datetime) -> None:
    """Takes every version out of use. Rollouts that were planned by one go on as planned, and a new
    version brings the name back. Raises `NotFound` and `Conflict` (`strategy-builtin`)."""
    _refuse_built_in(name)
    with transaction.atomic():
        spec = find_strategy(name)
        Strategy.objects.filter(name=name, retired_at=None).update(retired_at=now)
        _record("retired", name, {"version": spec.version}, reason, actor=actor, now=now)


def _spec_of(row: Strategy) -> StrategySpec:
    return replace(
        parse_strategy(row.document), version=row.version, retired=row.retired_at is not None
    )


def _refuse_built_in(name: str) -> None:
    if name in _BUILT_IN:
        raise Conflict(
            "strategy-builtin", f"{name!r} is a built-in strategy; give yours another name."
        )


def _changed(name: str, latest: int) -> Conflict:
    return Conflict(
        "strategy-changed",
        f"The latest version of strategy {name!r} is {latest}; look at it, then send {latest + 1} "
        "or no version.",
        extra={"latest_version": latest},
    )


def _record(
    verb: str, name: str, data: Mapping[str, object], reason: str, *, actor: str, now: datetime
) -> None:
    record_event(
        now=now,
        actor=actor,
        action=f"strategy.{verb}",
        object_type="strategy",
        object_id=name,
        reason=reason,
        data=data,
    )
