"""A new key for an agent that has joined: signed by the old one, and safe to send again."""

import base64
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, Forbidden, InvalidInput, Unauthenticated
from controlplane.fleet import identity
from controlplane.fleet.identity import authenticate_agent, issue_challenge
from controlplane.fleet.keys import (
    ROTATION_DEADLINE,
    ask_for_new_key,
    revoke_agent_of,
    rotate_key,
    unlock_agent,
)
from controlplane.fleet.models import Agent, AgentSession
from tests.factories import ACTOR, join, make_joined_site, make_site
from tests.fake_agent import FakeAgent
from tests.services.threads import at_once, failures


def public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def signed(key: Ed25519PrivateKey, lines: list[str]) -> str:
    return base64.b64encode(key.sign("\n".join(lines).encode())).decode()


def rotation(agent: FakeAgent, new: Ed25519PrivateKey, *, now: datetime) -> dict[str, Any]:
    """What an agent sends to have `new` in the place of its key."""
    nonce = issue_challenge(agent_id=str(agent.agent_id), now=now)
    lines = ["waypost-rotate-key-v1", str(agent.agent_id), nonce, public(new)]
    return {
        "agent_id": str(agent.agent_id),
        "nonce": nonce,
        "public_key": public(new),
        "signature": signed(agent.key, lines),
        "new_signature": signed(new, lines),
        "now": now,
    }


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    agent = make_joined_site("edge", now=now)
    agent.open_session(now=now)
    return agent


@pytest.fixture
def new() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_the_new_key_logs_in_and_the_old_one_no_longer(
    edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    rotate_key(**rotation(edge, new, now=now))

    with pytest.raises(Unauthenticated) as caught:
        authenticate_agent(secret=edge.secret, now=now)
    assert caught.value.code == "session-invalid"
    with pytest.raises(Unauthenticated) as caught:
        edge.open_session(now=now)
    assert caught.value.code == "signature-invalid"
    edge.key = new
    edge.open_session(now=now)
    row = Agent.objects.get()
    assert (row.key_changed_at, row.rotate_by) == (now, None)
    assert Event.objects.filter(action="agent.key_rotated", object_id="edge").count() == 1


def test_the_same_rotation_again_gets_the_same_answer_and_ends_nothing(
    edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    first = rotate_key(**rotation(edge, new, now=now))
    again = rotation(edge, new, now=now)  # its answer was lost: signed by the old key once more
    edge.key = new
    session = edge.open_session(now=now)

    assert bytes(rotate_key(**again).public_key) == bytes(first.public_key)
    assert authenticate_agent(secret=session.secret, now=now)
    assert Event.objects.filter(action="agent.key_rotated").count() == 1


@pytest.mark.parametrize("fault", ["signature", "new_signature"])
def test_either_signature_must_be_of_its_key(
    fault: str, edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    body = rotation(edge, new, now=now)
    other = "new_signature" if fault == "signature" else "signature"
    body[fault] = body[other]
    with pytest.raises(Unauthenticated) as caught:
        rotate_key(**body)
    assert caught.value.code == "signature-invalid"
    assert bytes(Agent.objects.get().public_key) == edge.key.public_key().public_bytes_raw()


def test_the_signature_of_a_session_rotates_nothing(
    edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    body = rotation(edge, new, now=now)
    body["signature"] = edge.sign(body["nonce"], 1)
    with pytest.raises(Unauthenticated):
        rotate_key(**body)


def test_a_rotation_that_was_overheard_cannot_be_sent_again(
    edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    body = rotation(edge, new, now=now)
    rotate_key(**body)
    with pytest.raises(Unauthenticated) as caught:
        rotate_key(**body)
    assert caught.value.code == "nonce-invalid"


def test_a_replaced_key_rotates_nothing_any_more(
    edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    rotate_key(**rotation(edge, new, now=now))
    with pytest.raises(Unauthenticated):
        rotate_key(**rotation(edge, Ed25519PrivateKey.generate(), now=now))


@pytest.mark.parametrize(
    ("field", "value"),
    [("public_key", "AAAA"), ("public_key", "no base64"), ("signature", ""), ("new_signature", "")],
)
def test_what_is_malformed_is_named(
    field: str, value: str, edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
) -> None:
    with pytest.raises(InvalidInput) as caught:
        rotate_key(**rotation(edge, new, now=now) | {field: value})
    assert [fault.field for fault in caught.value.errors] == [field]


@pytest.mark.usefixtures("transactional_db")
def test_of_many_rotations_at_once_one_wins_and_its_key_is_the_agents(now: datetime) -> None:
    edge = make_joined_site("edge", now=now)
    keys = [Ed25519PrivateKey.generate() for _ in range(8)]
    bodies = [rotation(edge, key, now=now) for key in keys]

    results = at_once(lambda body: rotate_key(**body), bodies)

    (won,) = [result for result in results if isinstance(result, Agent)]
    assert {getattr(error, "code", error) for error in failures(results)} == {"signature-invalid"}
    assert bytes(Agent.objects.get().public_key) == bytes(won.public_key)


class TestAskingForANewKey:
    def test_the_next_session_says_so_until_it_is_done(
        self, edge: FakeAgent, new: Ed25519PrivateKey, now: datetime
    ) -> None:
        ask_for_new_key(site=edge.site, by=None, actor=ACTOR, now=now)
        assert edge.open_session(now=now).rotate_by == now + ROTATION_DEADLINE

        rotate_key(**rotation(edge, new, now=now))
        edge.key = new

        assert edge.open_session(now=now).rotate_by is None
        assert Event.objects.get(action="agent.key_asked").actor == ACTOR
        assert Event.objects.get(action="agent.key_rotated").data["asked"] is True

    @pytest.mark.parametrize("days", [-1, 0, 400])
    def test_until_when_must_make_sense(self, days: int, edge: FakeAgent, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            ask_for_new_key(site=edge.site, by=now + timedelta(days=days), actor=ACTOR, now=now)
        assert [fault.field for fault in caught.value.errors] == ["by"]

    def test_a_site_without_an_agent_has_no_key(self, now: datetime) -> None:
        with pytest.raises(Conflict) as caught:
            ask_for_new_key(site=make_site("new", now=now), by=None, actor=ACTOR, now=now)
        assert caught.value.code == "agent-not-joined"


class TestALockedAgent:
    @pytest.fixture
    def locked(self, edge: FakeAgent, now: datetime) -> FakeAgent:
        """A copy of its disk from before the last session has shown itself."""
        copy = FakeAgent(site=edge.site, agent_id=edge.agent_id, key=edge.key)
        with pytest.raises(Conflict):
            copy.open_session(now=now)
        return edge

    def test_changes_nothing_until_it_is_unlocked(
        self, locked: FakeAgent, new: Ed25519PrivateKey, now: datetime
    ) -> None:
        with pytest.raises(Forbidden) as caught:
            rotation(locked, new, now=now)
        assert caught.value.code == "agent-locked"

        unlock_agent(site=locked.site, reason="the copy is gone", actor=ACTOR, now=now)

        assert locked.open_session(now=now)
        (event,) = Event.objects.filter(action="agent.unlocked")
        assert event.reason == "the copy is gone"
        unlock_agent(site=locked.site, reason="again", actor=ACTOR, now=now)
        assert Event.objects.filter(action="agent.unlocked").count() == 1

    def test_a_copy_that_is_still_there_locks_it_again(
        self, locked: FakeAgent, now: datetime
    ) -> None:
        unlock_agent(site=locked.site, reason="the copy is gone", actor=ACTOR, now=now)
        copy = FakeAgent(site=locked.site, agent_id=locked.agent_id, key=locked.key)
        with pytest.raises(Conflict):
            copy.open_session(now=now)
        assert Agent.objects.get().locked_at == now

    def test_a_new_token_lets_the_site_in_at_once(self, locked: FakeAgent, now: datetime) -> None:
        assert join(locked.site, now=now).open_session(now=now)

    def test_only_a_person_with_a_reason_unlocks(self, locked: FakeAgent, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            unlock_agent(site=locked.site, reason=" ", actor=ACTOR, now=now)
        assert caught.value.code == "reason-required"


def test_an_operator_ends_an_agent_for_good(edge: FakeAgent, now: datetime) -> None:
    revoke_agent_of(site=edge.site, reason="the machine was sold", actor=ACTOR, now=now)
    with pytest.raises(Forbidden) as caught:
        edge.open_session(now=now)
    assert caught.value.code == "agent-revoked"
    with pytest.raises(Conflict):
        revoke_agent_of(site=edge.site, reason="again", actor=ACTOR, now=now)


def test_a_session_asked_for_with_the_old_key_is_not_opened_after_the_change(
    edge: FakeAgent, new: Ed25519PrivateKey, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_row = identity._open

    def open_late(agent: Agent, **asked: Any) -> identity.Session | None:
        rotate_key(**rotation(edge, new, now=now))
        return open_row(agent, **asked)

    monkeypatch.setattr(identity, "_open", open_late)
    with pytest.raises(Unauthenticated) as caught:
        edge.open_session(now=now)

    assert caught.value.code == "signature-invalid"
    row = Agent.objects.get()
    assert row.locked_at is None, "the site's own agent goes on with the new key"
    assert not AgentSession.objects.exists()
