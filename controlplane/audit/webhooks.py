"""Every write of webhooks that people ask for. Each holds one transaction; nothing is sent here."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import IntegrityError, transaction

from controlplane.audit.doorbell import ring_after_commit
from controlplane.audit.models import Delivery, DeliveryState, Webhook
from controlplane.audit.queries import find_delivery, find_webhook
from controlplane.audit.services import record_event, write_event
from controlplane.audit.webhooks_message import new_signing_secret
from controlplane.audit.webhooks_outbox import ALL, enqueue
from controlplane.audit.webhooks_target import (
    BadTarget,
    TargetRules,
    origin_of,
    parse_target,
)
from controlplane.domain.errors import Conflict, FieldError, InvalidInput

# How long the old secret goes on signing beside a new one.
ROTATION = timedelta(hours=24)
MAX_ACTIONS = 50
MAX_NAME_LENGTH = 63
_WORD = "abcdefghijklmnopqrstuvwxyz0123456789_"


def target_rules() -> TargetRules:
    return TargetRules(
        allow_http=settings.WAYPOST_WEBHOOK_ALLOW_HTTP,
        allow_private=settings.WAYPOST_WEBHOOK_ALLOW_PRIVATE,
    )


@transaction.atomic
def create_webhook(
    *, name: str, url: str, actions: Sequence[str], active: bool = True, actor: str, now: datetime
) -> tuple[Webhook, str]:
    """The webhook and its secret, which is shown once. Raises `InvalidInput`, `Conflict`."""
    faults = [*_name_faults(name), *_url_faults(url), *_action_faults(actions)]
    _refuse(faults)
    taken = Conflict("webhook-exists", f"A webhook called {name!r} exists already.")
    secret = new_signing_secret()
    webhook = Webhook(
        name=name,
        url=url,
        secret=secret,
        actions=_in_order(actions),
        active=active,
        created_by=actor,
        created_at=now,
    )
    if Webhook.objects.filter(name=name).exists():
        raise taken
    try:
        with transaction.atomic():
            webhook.save()
    except IntegrityError as error:  # somebody took the name since we looked
        raise taken from error
    _record(webhook, "webhook.created", actor, now, _described(webhook))
    return webhook, secret


@transaction.atomic
def change_webhook(
    *, name: str, fields: Mapping[str, object], actor: str, now: datetime
) -> Webhook:
    """Changes `url`, `actions` or `active`. Deliveries that wait go on under the new URL; those of
    an inactive webhook wait until it is active again, and no new ones are written meanwhile."""
    webhook = _locked(name)
    before = _described(webhook)
    if "url" in fields:
        _refuse(_url_faults(str(fields["url"])))
    if "actions" in fields:
        actions = fields["actions"]
        assert isinstance(actions, Sequence)
        _refuse(_action_faults(actions))
        fields = {**fields, "actions": _in_order(actions)}
    changed = {key: value for key, value in fields.items() if getattr(webhook, key) != value}
    if not changed:
        return webhook
    for key, value in changed.items():
        setattr(webhook, key, value)
    if webhook.active:
        webhook.disabled_reason = ""
    # Only these: a worker writes the others at the same time.
    webhook.save(update_fields=[*changed, "disabled_reason"])
    after = _described(webhook)
    data = {key: {"before": before[key], "after": after[key]} for key in changed}
    _record(webhook, "webhook.changed", actor, now, data)
    if webhook.active:
        ring_after_commit()
    return webhook


@transaction.atomic
def delete_webhook(*, name: str, actor: str, now: datetime) -> None:
    """Removes it with its deliveries, also those that wait. The events stay."""
    webhook = _locked(name)
    webhook.delete()
    _record(webhook, "webhook.deleted", actor, now, {})


@transaction.atomic
def rotate_secret(*, name: str, actor: str, now: datetime) -> tuple[Webhook, str]:
    """A new secret, shown once; the old one signs beside it for a day. A second rotation within
    that day ends the first secret."""
    webhook, secret = _locked(name), new_signing_secret()
    webhook.previous_secret, webhook.secret = webhook.secret, secret
    webhook.previous_secret_until = now + ROTATION
    webhook.save(update_fields=["secret", "previous_secret", "previous_secret_until"])
    _record(webhook, "webhook.secret_rotated", actor, now, {})
    return webhook, secret


@transaction.atomic
def send_test(*, name: str, actor: str, now: datetime) -> Delivery:
    """Queues a `webhook.test` event for this webhook alone, whatever actions it wants."""
    webhook = _locked(name)
    _refuse_inactive(webhook)
    event = write_event(
        now=now,
        actor=actor,
        action="webhook.test",
        object_type="webhook",
        object_id=webhook.name,
        reason="somebody wants to see whether deliveries arrive",
    )
    (delivery,) = enqueue(event, [webhook.pk])
    return delivery


@transaction.atomic
def redeliver(*, name: str, delivery_id: str, actor: str, now: datetime) -> Delivery:
    """Makes a delivery due now with all its attempts before it, under the same id: a receiver that
    remembers the id may pass it over."""
    webhook = _locked(name)
    _refuse_inactive(webhook)
    delivery = find_delivery(webhook, delivery_id)
    delivery.state = DeliveryState.PENDING
    delivery.attempts = 0
    delivery.next_attempt_at = now
    delivery.delivered_at = None
    delivery.save()
    _record(webhook, "webhook.redelivery_asked", actor, now, {"event": delivery.event_id})
    ring_after_commit()
    return delivery


def _locked(name: str) -> Webhook:
    return find_webhook(name, lock=True)


def _record(
    webhook: Webhook, action: str, actor: str, now: datetime, data: Mapping[str, object]
) -> None:
    record_event(
        now=now,
        actor=actor,
        action=action,
        object_type="webhook",
        object_id=webhook.name,
        data=data,
    )


def _described(webhook: Webhook) -> dict[str, object]:
    """What events may say of a webhook. Of its URL the origin: the rest often holds a token."""
    return {
        "url": origin_of(webhook.url),
        "actions": webhook.actions,
        "active": webhook.active,
    }


def _refuse_inactive(webhook: Webhook) -> None:
    if not webhook.active:
        why = f": {webhook.disabled_reason}" if webhook.disabled_reason else ""
        raise Conflict(
            "webhook-inactive",
            f"The webhook {webhook.name!r} is inactive{why}. Set `active` to true first.",
        )


def _refuse(faults: Sequence[FieldError]) -> None:
    if faults:
        raise InvalidInput("webhook-invalid", "The webhook cannot be kept as given.", errors=faults)


def _name_faults(name: str) -> list[FieldError]:
    try:
        validate_slug(name)
    except ValidationError:
        fits = False
    else:
        fits = len(name) <= MAX_NAME_LENGTH
    message = f"must be 1 to {MAX_NAME_LENGTH} letters, digits, hyphens and underscores"
    return [] if fits else [FieldError(field="name", message=message)]


def _url_faults(url: str) -> list[FieldError]:
    try:
        parse_target(url, target_rules())
    except BadTarget as error:
        return [FieldError(field="url", message=str(error))]
    return []


def _action_faults(actions: Sequence[str]) -> list[FieldError]:
    if not 1 <= len(actions) <= MAX_ACTIONS:
        return [FieldError(field="actions", message=f"must hold 1 to {MAX_ACTIONS} entries")]
    return [
        FieldError(
            field=f"actions[{index}]",
            message='must be an action such as "rollout.paused", a kind such as "rollout." '
            f'with its full stop, or "{ALL}"',
        )
        for index, action in enumerate(actions)
        if not _is_action(action)
    ]


def _is_action(text: str) -> bool:
    """`*`, `kind.` or `kind.what`, of at most the length that events have room for."""
    kind, dot, what = text.partition(".")
    return text == ALL or (
        bool(kind and dot) and len(text) <= 60 and set(kind) <= set(_WORD) >= set(what)
    )


def _in_order(actions: Sequence[str]) -> list[str]:
    return sorted(set(actions))
