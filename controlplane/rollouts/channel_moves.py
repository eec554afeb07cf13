"""Rolls out what a channel was moved to, by the channel's stored strategy. The engine's tick calls
it; the rows are the queue. A move is handled once: what it came to is written with the rollout that
it started, in one transaction, while the channel's row is locked.

Only the newest move of a channel counts: a row says where the channel stands, not how it came
there."""

from datetime import datetime

import structlog
from django.db import transaction
from django.db.models import F

from controlplane.audit.services import record_event
from controlplane.catalog.models import Channel
from controlplane.domain.errors import InvalidInput, NotFound, WaypostError
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.history import ENGINE
from controlplane.rollouts.planning import rollout_ahead
from controlplane.rollouts.services import start_rollout
from controlplane.rollouts.strategies import find_strategy

_log = structlog.get_logger(__name__)


def handle_moves(*, now: datetime) -> None:
    """Looks at every channel that was moved and not handled, the earliest first. One that cannot
    be looked at does not hold up the others."""
    rows = Channel.objects.filter(handled_at=None, version__isnull=False).exclude(strategy="")
    for pk in rows.order_by("moved_at", "pk").values_list("pk", flat=True):
        try:
            handle_move(pk, now=now)
        except Exception as error:
            _log.exception("channel.move_failed", channel=pk)
            # It is tried again with the next tick; whoever looks at the channel is told so.
            said = f"The engine could not act on it yet ({type(error).__name__}; see its log)."
            Channel.objects.filter(pk=pk, handled_at=None).update(outcome=said)


@transaction.atomic
def handle_move(channel_id: int, *, now: datetime) -> None:
    """Starts the rollout that the channel's last move asks for, or says why there is none. While
    another rollout of the model is not over it waits. Again it changes nothing."""
    rows = Channel.objects.select_for_update(of=("self",), skip_locked=True)
    row = rows.select_related("model").filter(pk=channel_id, handled_at=None).order_by().first()
    if row is None or row.version is None or not row.strategy:
        return
    if ahead := rollout_ahead(row.model.name):
        _tell(row, f"waits for the end of rollout {ahead.pk} ({ahead.state})")
        return
    try:
        with transaction.atomic():
            rollout = start_rollout(
                model_name=row.model.name,
                version_number=row.version.number,
                strategy=strategy_named(row.strategy),
                note=f"channel {row.name} moved to version {row.version.number}",
                actor=row.moved_by,
                person=row.person,
                now=now,
            )
    except WaypostError as error:
        if error.code == "rollout-active":  # somebody started one just now
            _tell(row, error.detail)
            return
        _handled(row, f"refused: {error.detail}", "refused", {"code": error.code}, now)
    else:
        outcome = f"rollout {rollout.pk} was started by strategy {row.strategy}"
        _handled(row, outcome, "rolled_out", {"rollout": rollout.pk}, now)


def strategy_named(text: str) -> StrategySpec:
    """By `NAME`, the latest in use, or by `NAME@VERSION`. Raises `InvalidInput`
    (`strategy-invalid`, `strategy-unknown`)."""
    name, at, number = text.partition("@")
    right = number.isascii() and number.isdigit() and len(number) <= 9 and number[0] != "0"
    if at and not right:
        raise InvalidInput("strategy-invalid", f"{text!r} names no strategy.")
    try:
        return find_strategy(name, int(number) if at else None)
    except NotFound as error:
        raise InvalidInput("strategy-unknown", error.detail) from error


def _tell(row: Channel, outcome: str) -> None:
    """Says why nothing happens yet; not anew at every tick."""
    if row.outcome != outcome[:500]:
        row.outcome = outcome[:500]
        row.save(update_fields=["outcome"])


def _handled(
    row: Channel, outcome: str, action: str, data: dict[str, object], now: datetime
) -> None:
    Channel.objects.filter(pk=row.pk).update(
        handled_at=now, outcome=outcome[:500], revision=F("revision") + 1
    )
    assert row.version is not None  # there was something to handle
    record_event(
        now=now,
        actor=ENGINE,
        action=f"channel.{action}",
        object_type="channel",
        object_id=f"{row.model.name}@{row.name}",
        reason=outcome,
        data={"version": row.version.number, "strategy": row.strategy, **data},
    )
