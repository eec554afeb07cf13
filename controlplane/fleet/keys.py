"""A new key for an agent that has joined, and what an operator decides about the old one.

The agent signs its new key with the old one, so nobody has to go there. The same change sent again
gets the same answer: a lost answer must not strand a site."""

import base64
from datetime import datetime, timedelta

from django.db import transaction

from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, Unauthenticated
from controlplane.fleet.identity import revoke_agent
from controlplane.fleet.models import Agent, AgentSession, Site
from controlplane.fleet.proofs import check_signature, decode_bytes, live_agent, spend_nonce
from controlplane.fleet.queries import active_agent

ROTATION_DEADLINE = timedelta(days=7)
LONGEST_DEADLINE = timedelta(days=366)
_PREFIX = "waypost-rotate-key-v1"


def rotate_key(
    *,
    agent_id: str,
    nonce: str,
    public_key: str,
    signature: str,
    new_signature: str,
    now: datetime,
) -> Agent:
    """Puts `public_key` in the place of the agent's key and ends its session. `signature` is the
    old key's, `new_signature` the new one's, both over the same text.

    Raises `InvalidInput`, `Unauthenticated` (`nonce-invalid`, `signature-invalid`), `Forbidden`.
    """
    agent = live_agent(agent_id)
    spend_nonce(agent, nonce, now=now)
    new = decode_bytes(public_key, field="public_key", length=32)
    lines = [_PREFIX, str(agent.pk), nonce, base64.b64encode(new).decode()]
    check_signature(new, new_signature, field="new_signature", lines=lines)
    if bytes(agent.public_key) == new:
        return agent  # the answer before was lost
    check_signature(bytes(agent.public_key), signature, field="signature", lines=lines)
    return _replace(agent, new, now=now)


@transaction.atomic
def _replace(agent: Agent, new: bytes, *, now: datetime) -> Agent:
    replaced = Agent.objects.filter(
        pk=agent.pk, public_key=bytes(agent.public_key), revoked_at=None, locked_at=None
    ).update(public_key=new, key_changed_at=now, rotate_by=None)
    found = live_agent(str(agent.pk))
    if not replaced:
        if bytes(found.public_key) == new:
            return found
        raise Unauthenticated("signature-invalid", "The agent has another key by now.")
    # Whoever has the old key alone is out from here on.
    AgentSession.objects.filter(agent=agent).delete()
    record_event(
        now=now,
        actor=f"agent:{found.site.name}",
        action="agent.key_rotated",
        object_type="site",
        object_id=found.site.name,
        data={"agent": str(found.pk), "asked": agent.rotate_by is not None},
    )
    return found


@transaction.atomic
def ask_for_new_key(*, site: Site, by: datetime | None, actor: str, now: datetime) -> Agent:
    """Has the agent make a new key when it next logs in, within the hour. `by` is until when an
    operator wants it done (default: a week); asking again changes that. Raises `InvalidInput`,
    `Conflict` (`agent-not-joined`)."""
    agent = _joined(site)
    by = by or now + ROTATION_DEADLINE
    if not now < by <= now + LONGEST_DEADLINE:
        fault = FieldError(field="by", message="must be in the coming year")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    Agent.objects.filter(pk=agent.pk).update(rotate_by=by)
    _record(site, "agent.key_asked", actor=actor, now=now, data={"by": by.isoformat()})
    agent.rotate_by = by
    return agent


@transaction.atomic
def unlock_agent(*, site: Site, reason: str, actor: str, now: datetime) -> Agent:
    """Lets the site's agent in again after a copy of its key had shown itself. One that is not
    locked stays as it is. Raises `InvalidInput` (`reason-required`), `Conflict`."""
    _require(reason)
    agent = _joined(site)
    if Agent.objects.filter(pk=agent.pk, locked_at__isnull=False).update(locked_at=None):
        _record(site, "agent.unlocked", reason=reason, actor=actor, now=now)
    agent.locked_at = None
    return agent


def revoke_agent_of(*, site: Site, reason: str, actor: str, now: datetime) -> None:
    """Ends the site's agent for good; what the site serves is not touched, and a new token lets a
    new agent join. Raises `InvalidInput` (`reason-required`), `Conflict` (`agent-not-joined`)."""
    _require(reason)
    revoke_agent(agent=_joined(site), reason=reason, actor=actor, now=now)


def _joined(site: Site) -> Agent:
    agent = active_agent(site)
    if agent is None:
        raise Conflict(
            "agent-not-joined", f"No agent has joined site {site.name!r}; make a token for it."
        )
    return agent


def _require(reason: str) -> None:
    if not reason.strip():
        fault = FieldError(field="reason", message="say why; it is kept with the site")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])


def _record(
    site: Site,
    action: str,
    *,
    actor: str,
    now: datetime,
    reason: str = "",
    data: dict[str, object] | None = None,
) -> None:
    record_event(
        now=now,
        actor=actor,
        action=action,
        object_type="site",
        object_id=site.name,
        reason=reason,
        data=data or {},
    )
