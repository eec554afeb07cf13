"""What a receiver gets, by the Standard Webhooks specification: body, headers, signature. Values
in, values out; it knows neither the network nor the clock."""

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.audit.models import Event

SECRET_PREFIX = "whsec_"
ID_PREFIX = "msg_"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request, ready to be sent."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def new_signing_secret() -> str:
    """256 random bits in the form that receivers' libraries take."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def message_id(delivery_id: uuid.UUID) -> str:
    return ID_PREFIX + delivery_id.hex


def parse_message_id(text: str) -> uuid.UUID | None:
    """The delivery behind an id as receivers and the API know it; None for any other text."""
    digits = text.removeprefix(ID_PREFIX)
    if digits == text or len(digits) != 32:
        return None
    try:
        return uuid.UUID(hex=digits)
    except ValueError:
        return None


def event_body(event: Event) -> bytes:
    """The same bytes at every attempt: an event never changes."""
    document = {
        "type": event.action,
        "timestamp": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "data": {
            "id": event.pk,
            "actor": event.actor,
            "object_type": event.object_type,
            "object_id": event.object_id,
            "reason": event.reason,
            "request_id": event.request_id,
            "data": event.data,
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def signature(secret: str, *, msg_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{msg_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def signed_message(
    *, url: str, keys: Sequence[str], delivery_id: uuid.UUID, event: Event, now: datetime
) -> Message:
    """Signed with each of `keys`: after a rotation the receiver may hold either."""
    msg_id, timestamp, body = message_id(delivery_id), int(now.timestamp()), event_body(event)
    signatures = [
        signature(secret, msg_id=msg_id, timestamp=timestamp, body=body) for secret in keys
    ]
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Waypost",
        "webhook-id": msg_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
    return Message(url=url, headers=headers, body=body)
