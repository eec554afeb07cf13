"""Who an agent is: enrolment, challenge, session (docs/agent-protocol.md, sections 1 and 2).

A key that the agent made itself is the identity; no secret is shared between sites."""

import base64
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists

from controlplane.accounts.secrets import secret_digest
from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, Forbidden, Unauthenticated
from controlplane.fleet.models import (
    Agent,
    AgentSession,
    Challenge,
    EnrolmentToken,
    Lease,
    MaintenanceWindow,
    Site,
)
from controlplane.fleet.polling import poll_seconds_of
from controlplane.fleet.proofs import check_signature, decode_bytes, live_agent, spend_nonce

SESSION_PREFIX = "wps"
SESSION_LIFETIME = timedelta(hours=1)
CHALLENGE_LIFETIME = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a new session's answer holds; `secret` is not stored. `rotate_by`: an operator asks for
    a new key, until then."""

    secret: str
    expires_seconds: int
    counter: int
    rotate_by: datetime | None


def enrol_agent(
    *, token: str, public_key: str, hostname: str, agent_version: str, now: datetime
) -> Agent:
    """Binds a key to the token's site. The same token with the same key gives the same agent.

    Raises `Unauthenticated`, `InvalidInput`, `Conflict` (`token-bound-to-another-key`),
    `Forbidden` (`site-retired`).
    """
    key = decode_bytes(public_key, field="public_key", length=32)
    agent, refused = _enrol(
        token=token, key=key, hostname=hostname, agent_version=agent_version, now=now
    )
    if refused:  # raised out here, so that the event of the attempt is committed
        raise Conflict(
            "token-bound-to-another-key",
            "This token was used by another key. If that was not you, revoke the agent; "
            "else make a new token for the site.",
        )
    return agent


@transaction.atomic
def _enrol(
    *, token: str, key: bytes, hostname: str, agent_version: str, now: datetime
) -> tuple[Agent, bool]:
    # Locked without a join: PostgreSQL reads a row it waited for again, but not those joined to it.
    row = EnrolmentToken.objects.select_for_update().filter(digest=secret_digest(token)).first()
    if row is not None and row.site.retired_at:
        raise _retired(row.site)
    if row is None or (row.agent is None and (row.used_at or row.expires_at <= now)):
        raise Unauthenticated(
            "enrolment-token-invalid", "The enrolment token is unknown, used or expired."
        )
    site = row.site
    if row.agent is not None:
        same = bytes(row.agent.public_key) == key
        if not same:
            record_event(
                now=now,
                actor=f"agent:{site.name}",
                action="agent.enrolment_refused",
                object_type="site",
                object_id=site.name,
                reason="a used enrolment token was presented with another key",
                data={"hostname": hostname},
            )
        return row.agent, not same
    # Two tokens of one site may be used at once: the second then revokes the agent of the first.
    site = Site.objects.select_for_update(no_key=True).get(pk=site.pk)
    if site.retired_at:  # while we waited
        raise _retired(site)
    for old in site.agents.filter(revoked_at=None):
        _revoke(old, reason="a new agent enrolled", actor=f"agent:{site.name}", now=now)
    agent = Agent.objects.create(
        site=site, public_key=key, enrolled_at=now, hostname=hostname, agent_version=agent_version
    )
    Lease.objects.create(agent=agent, last_seen_at=now)
    row.used_at, row.agent = now, agent
    row.save(update_fields=["used_at", "agent"])
    record_event(
        now=now,
        actor=f"agent:{site.name}",
        action="agent.enrolled",
        object_type="site",
        object_id=site.name,
        data={"agent": str(agent.pk), "hostname": hostname},
    )
    return agent, False


def _retired(site: Site) -> Forbidden:
    return Forbidden(
        "site-retired",
        f"Site {site.name!r} was retired: no agent may join it. Restore the site and make a new "
        "token, or join another site.",
    )


@transaction.atomic
def revoke_agent(*, agent: Agent, reason: str, actor: str, now: datetime) -> None:
    """Ends the agent's session at once. What its site serves is not touched."""
    _revoke(agent, reason=reason, actor=actor, now=now)


def _revoke(agent: Agent, *, reason: str, actor: str, now: datetime) -> None:
    # The agent's row first, as when a session opens: the other order could deadlock with it.
    revoked = Agent.objects.filter(pk=agent.pk, revoked_at=None).update(revoked_at=now)
    AgentSession.objects.filter(agent=agent).delete()
    if revoked:
        record_event(
            now=now,
            actor=actor,
            action="agent.revoked",
            object_type="site",
            object_id=agent.site.name,
            reason=reason,
            data={"agent": str(agent.pk)},
        )


@transaction.atomic
def issue_challenge(*, agent_id: str, now: datetime) -> str:
    """A nonce for this agent to sign. Old ones are swept on the way."""
    agent = live_agent(agent_id)
    Challenge.objects.filter(expires_at__lte=now).delete()
    nonce = base64.b64encode(secrets.token_bytes(32)).decode()
    Challenge.objects.create(nonce=nonce, agent=agent, expires_at=now + CHALLENGE_LIFETIME)
    return nonce


def open_session(
    *, agent_id: str, nonce: str, session_counter: int, signature: str, now: datetime
) -> Session:
    """Opens the agent's one session and ends the one before it.

    Raises `Unauthenticated` (`nonce-invalid`, `signature-invalid`), `Forbidden`, `Conflict`
    (`session-counter-stale`).
    """
    agent = live_agent(agent_id)
    # The nonce is spent first and for good, whatever the rest of the request holds.
    spend_nonce(agent, nonce, now=now)
    check_signature(
        bytes(agent.public_key),
        signature,
        field="signature",
        lines=["waypost-session-v1", str(agent.pk), nonce, str(session_counter)],
    )
    session = _open(agent, counter=session_counter, now=now)
    if session is None:
        raise Conflict(
            "session-counter-stale",
            f"Session counter {session_counter} was used before: this disk may be a copy, or was "
            "restored from an older one. No agent with this key is answered any more until an "
            "operator has looked: join again with a new token, or have the agent unlocked.",
        )
    return session


@transaction.atomic
def _open(agent: Agent, *, counter: int, now: datetime) -> Session | None:
    key = bytes(agent.public_key)
    # The key that signed, too: it may have been replaced since the signature was checked.
    rose = Agent.objects.filter(
        pk=agent.pk, public_key=key, revoked_at=None, locked_at=None, session_counter__lt=counter
    ).update(session_counter=counter, report_seq=0, refused_protocol="")
    if not rose:
        found = live_agent(str(agent.pk))
        if bytes(found.public_key) != key:
            raise Unauthenticated("signature-invalid", "The agent has another key by now.")
        _lock(found, counter=counter, now=now)
        return None
    # 128 bits for an hour: every poll of every site carries it.
    secret = f"{SESSION_PREFIX}_{secrets.token_urlsafe(16)}"
    AgentSession.objects.update_or_create(
        agent=agent,
        defaults={"digest": secret_digest(secret), "expires_at": now + SESSION_LIFETIME},
    )
    lifetime = int(SESSION_LIFETIME.total_seconds())
    return Session(
        secret=secret, expires_seconds=lifetime, counter=counter, rotate_by=agent.rotate_by
    )


def _lock(agent: Agent, *, counter: int, now: datetime) -> None:
    """Two agents may hold this key and nobody here can tell which is the copy: neither is answered
    again, and both go on serving what they serve."""
    Agent.objects.filter(pk=agent.pk).update(locked_at=now)
    AgentSession.objects.filter(agent=agent).delete()
    record_event(
        now=now,
        actor=f"agent:{agent.site.name}",
        action="agent.counter_stale",
        object_type="site",
        object_id=agent.site.name,
        reason="a session counter did not rise: two agents may hold the same key; both are locked "
        "and only serve",
        data={"counter": counter, "accepted": agent.session_counter},
    )


@dataclass(frozen=True, kw_only=True)
class Caller:
    """An authenticated agent with all that its hot path needs, from one row read."""

    agent_id: uuid.UUID
    site_id: int
    site_name: str
    epoch: int
    generation: int
    last_seen_at: datetime | None
    session_counter: int
    # In how many seconds it should ask again, were this a poll.
    poll_seconds: float


def authenticate_agent(*, secret: str, now: datetime) -> Caller:
    """Raises `Unauthenticated` (`session-invalid`) for a token that opens nothing any more."""
    row = (
        AgentSession.objects.filter(
            digest=secret_digest(secret),
            expires_at__gt=now,
            agent__revoked_at=None,
            agent__locked_at=None,
        )
        .annotate(windows_exist=Exists(MaintenanceWindow.objects.order_by()))
        .values_list(
            "agent_id",
            "agent__site_id",
            "agent__site__name",
            "agent__site__generation__epoch",
            "agent__site__generation__generation",
            "agent__lease__last_seen_at",
            "agent__session_counter",
            "agent__site__poll_seconds",
            "windows_exist",
        )
        .first()
    )
    if row is None:
        raise Unauthenticated("session-invalid", "The session is unknown, ended or expired.")
    agent_id, site_id, site_name, epoch, generation, last_seen_at, session_counter, own, windows = (
        row
    )
    return Caller(
        agent_id=agent_id,
        site_id=site_id,
        site_name=site_name,
        epoch=epoch,
        generation=generation,
        last_seen_at=last_seen_at,
        session_counter=session_counter,
        poll_seconds=poll_seconds_of(site_id=site_id, own=own, windows_exist=windows, now=now),
    )


def touch_lease(*, caller: Caller, now: datetime, at_most_every: timedelta) -> None:
    """Notes that the agent lives; seldom enough that polls stay reads."""
    if caller.last_seen_at is None or now - caller.last_seen_at >= at_most_every:
        Lease.objects.filter(agent_id=caller.agent_id).update(last_seen_at=now)


def accept_report(
    *,
    caller: Caller,
    seq: int,
    agent_version: str,
    observed_generation: int,
    sent_at: datetime | None,
    now: datetime,
) -> bool:
    """Whether a report is newer than all before it; if so, notes who sent it and how far the
    agent's clock is from ours (seconds, positive: ahead).

    One conditional UPDATE: of two copies racing each other exactly one is accepted, and one of a
    session that has ended meanwhile cannot spoil the order of the next.
    """
    rows = Agent.objects.filter(
        pk=caller.agent_id, session_counter=caller.session_counter, report_seq__lt=seq
    )
    updated = rows.update(
        report_seq=seq,
        agent_version=agent_version,
        observed_generation=observed_generation,
        clock_skew_seconds=(sent_at - now).total_seconds() if sent_at else None,
    )
    return bool(updated)
