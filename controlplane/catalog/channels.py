"""Names that move from version to version of a model. A move is one row and one event; what
it starts by a stored strategy is done above: `rollouts/channel_moves.py` finds the moved rows."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from controlplane.audit.services import record_event
from controlplane.catalog.models import Channel, Model, Version, VersionState
from controlplane.catalog.versions import lock_version
from controlplane.domain.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound

MAX_CHANNELS = 50
MAX_STRATEGY = 40
NOTHING_STORED = "no strategy is stored, so nothing was started"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def channels_of(model: Model) -> QuerySet[Channel]:
    return Channel.objects.filter(model=model).select_related("model", "version").order_by("name")


def find_channel(model: Model, name: str) -> Channel:
    """Raises `NotFound` (`channel-unknown`)."""
    # PostgreSQL refuses to be asked for NUL, which a path may hold; no name does.
    found = channels_of(model).filter(name=name).first() if "\0" not in name else None
    if found is None:
        raise NotFound("channel-unknown", f"Model {model.name} has no channel {name!r}.")
    return found


def channels_at(version: Version) -> list[str]:
    """Names of the channels that stand at a version."""
    rows = Channel.objects.filter(version=version).order_by("name")
    return list(rows.values_list("name", flat=True))


def move_channel(
    *,
    model: Model,
    name: str,
    version: Version,
    strategy: str | None = None,
    reason: str,
    actor: str,
    person: str,
    may_roll_out: bool = True,
    now: datetime,
) -> tuple[Channel, bool]:
    """Points a channel at an approved version; it and whether the channel is new.

    `strategy` is by what moves are rolled out from now on, this one too: None leaves what is
    stored, empty stores none. The caller says whether there is such a strategy. Pointing it to
    where it is starts nothing, and changes nothing but the strategy. `may_roll_out`: whether who
    asks may start rollouts, which a channel with a strategy does. Raises `InvalidInput`
    (`channel-name-invalid`, `reason-required`, `version-not-approved`), `Conflict`
    (`channels-too-many`), `Forbidden` (`scope-missing`).
    """
    _check(name, reason, strategy)
    for _ in range(5):  # two people may make the same channel; the loser finds it
        try:
            with transaction.atomic():
                return _move(
                    model, name, version, strategy, reason, actor, person, may_roll_out, now
                )
        except IntegrityError:
            continue
    raise Conflict("channel-contended", "Others moved the channel each time; look and try again.")


def _move(
    model: Model,
    name: str,
    version: Version,
    strategy: str | None,
    reason: str,
    actor: str,
    person: str,
    may_roll_out: bool,
    now: datetime,
) -> tuple[Channel, bool]:
    row = Channel.objects.select_for_update().filter(model=model, name=name).first()
    created = row is None
    if row is None:
        if Channel.objects.filter(model=model).count() >= MAX_CHANNELS:
            raise Conflict("channels-too-many", f"{model.name} has {MAX_CHANNELS} channels.")
        row = Channel(model=model, name=name, revision=0)
    target = lock_version(version)
    if target.model_id != model.pk:
        raise InvalidInput("version-unknown", f"{target} is no version of {model.name}.")
    before = {"version": _number(row), "strategy": row.strategy}
    moved = row.version_id != target.pk
    stored = row.strategy if strategy is None else strategy
    if stored and not may_roll_out:
        raise rollout_scope_missing([name])
    if not moved and stored == row.strategy:
        return row, False
    if moved:
        _require_approved(target)
        row.version, row.moved_by, row.person, row.moved_at = target, actor, person, now
        row.handled_at, row.outcome = (None, "") if stored else (now, NOTHING_STORED)
    row.strategy = stored
    row.revision += 1
    row.save()
    after = {"version": target.number, "strategy": stored}
    data = {key: {"before": before[key], "after": after[key]} for key in after}
    _note(row, "moved" if moved else "changed", reason, actor, now, data)
    return row, created


@transaction.atomic
def remove_channel(*, model: Model, name: str, reason: str, actor: str, now: datetime) -> None:
    """What it started goes on. Raises `NotFound` (`channel-unknown`)."""
    row = find_channel(model, name)
    data: dict[str, object] = {"version": _number(row), "strategy": row.strategy}
    row.delete()
    _note(row, "removed", reason, actor, now, data)


def require_no_strategy(model: Model, names: Collection[str]) -> None:
    """For who may not start rollouts. Raises `Forbidden` (`scope-missing`)."""
    rows = Channel.objects.filter(model=model, name__in=names).exclude(strategy="")
    found = list(rows.order_by("name").values_list("name", flat=True))
    if found:
        raise rollout_scope_missing(found)


def rollout_scope_missing(names: Collection[str]) -> Forbidden:
    return Forbidden(
        "scope-missing",
        f"A move of {', '.join(names)} starts a rollout by a stored strategy: that needs the scope "
        "rollout as well.",
        extra={"needed": "rollout"},
    )


def _number(row: Channel) -> int | None:
    return row.version.number if row.version else None


def _require_approved(version: Version) -> None:
    if version.state == VersionState.APPROVED:
        return
    said = version.state_reason or "no reason was given"
    why = f"{version} is {version.state}, and a channel points at approved versions: {said}."
    fault = FieldError(field="version", message=f"is {version.state}: {said}")
    raise InvalidInput("version-not-approved", why, errors=[fault])


def _check(name: str, reason: str, strategy: str | None) -> None:
    if not _NAME.fullmatch(name):
        message = "must be 1 to 40 of a-z 0-9 _ -, starting with a letter or digit"
        raise InvalidInput(
            "channel-name-invalid",
            f"{name[:80]!r} cannot name a channel.",
            errors=[FieldError(field="name", message=message)],
        )
    if not reason.strip():
        fault = FieldError(field="reason", message="say why; it is kept with the move")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])
    if strategy is not None and len(strategy) > MAX_STRATEGY:
        fault = FieldError(field="strategy", message=f"at most {MAX_STRATEGY} characters")
        raise InvalidInput("strategy-invalid", "The strategy's name is too long.", errors=[fault])


def _note(
    row: Channel, action: str, reason: str, actor: str, now: datetime, data: Mapping[str, object]
) -> None:
    record_event(
        now=now,
        actor=actor,
        action=f"channel.{action}",
        object_type="channel",
        object_id=f"{row.model.name}@{row.name}",
        reason=reason,
        data=data,
    )
