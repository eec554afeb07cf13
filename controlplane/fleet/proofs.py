"""What an agent proves itself by: a live row, a nonce that serves once, a signature of its key.

It must not know what is done with the proof."""

import base64
import binascii
import uuid
from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controlplane.domain.errors import FieldError, Forbidden, InvalidInput, Unauthenticated
from controlplane.fleet.models import Agent, Challenge


def live_agent(agent_id: str) -> Agent:
    """Raises `InvalidInput`, `Unauthenticated` (`agent-unknown`), `Forbidden` (`agent-revoked`,
    `agent-locked`)."""
    try:
        key = uuid.UUID(agent_id)
    except ValueError as error:
        fault = FieldError(field="agent", message="must be the UUID from enrolment")
        raise InvalidInput("invalid-request", "The agent is not named.", errors=[fault]) from error
    agent = Agent.objects.select_related("site").filter(pk=key).first()
    if agent is None:
        raise Unauthenticated("agent-unknown", "No such agent; join the site with a new token.")
    if agent.revoked_at:
        raise Forbidden("agent-revoked", "This agent was revoked; join the site with a new token.")
    if agent.locked_at:
        raise Forbidden(
            "agent-locked",
            "Two agents held the key of this one, so neither is answered: go on serving. An "
            "operator unlocks the agent once the copy is gone, or the site joins with a new token.",
        )
    return agent


def spend_nonce(agent: Agent, nonce: str, *, now: datetime) -> None:
    """Raises `Unauthenticated` (`nonce-invalid`) unless it was given to this agent and not used."""
    spent, _ = Challenge.objects.filter(nonce=nonce, agent=agent, expires_at__gt=now).delete()
    if not spent:
        raise Unauthenticated("nonce-invalid", "The nonce is unknown, used or expired.")


def check_signature(public_key: bytes, signature: str, *, field: str, lines: Sequence[str]) -> None:
    """Ed25519 over the lines joined by a line feed. Raises `InvalidInput`, `Unauthenticated`
    (`signature-invalid`)."""
    raw = decode_bytes(signature, field=field, length=64)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(raw, "\n".join(lines).encode())
    except InvalidSignature as error:
        raise Unauthenticated("signature-invalid", f"The {field} does not match.") from error


def decode_bytes(text: str, *, field: str, length: int) -> bytes:
    """Raises `InvalidInput` naming the field."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != length:
        fault = FieldError(field=field, message=f"must be {length} bytes in base64")
        raise InvalidInput("invalid-request", f"The {field} is malformed.", errors=[fault])
    return raw
