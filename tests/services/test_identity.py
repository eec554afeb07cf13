"""Who an agent is: one token, one key; one nonce, one session; and what a thief would try."""

import base64
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, Forbidden, InvalidInput, Unauthenticated
from controlplane.fleet.identity import (
    CHALLENGE_LIFETIME,
    SESSION_LIFETIME,
    authenticate_agent,
    enrol_agent,
    issue_challenge,
    open_session,
    revoke_agent,
)
from controlplane.fleet.models import Agent, AgentSession, Challenge, EnrolmentToken
from controlplane.fleet.services import ENROLMENT_LIFETIME, create_enrolment_token
from tests.factories import ACTOR, join, make_joined_site, make_site
from tests.fake_agent import FakeAgent
from tests.services.threads import at_once, failures


def public_key(key: Ed25519PrivateKey | None = None) -> str:
    key = key or Ed25519PrivateKey.generate()
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def enrol(token: str, key: str, *, now: datetime) -> Agent:
    return enrol_agent(token=token, public_key=key, hostname="h", agent_version="1", now=now)


@pytest.fixture
def token(now: datetime) -> str:
    _, secret = create_enrolment_token(site=make_site("edge", now=now), actor=ACTOR, now=now)
    return secret


class TestEnrolment:
    def test_the_secret_of_a_token_is_not_kept(self, token: str) -> None:
        row = EnrolmentToken.objects.get()
        assert token.startswith("wpe_")
        assert token not in {str(value) for value in row.__dict__.values()}

    def test_a_token_binds_one_key_to_its_site(self, token: str, now: datetime) -> None:
        agent = enrol(token, public_key(), now=now)

        assert agent.site.name == "edge"
        assert EnrolmentToken.objects.get().used_at == now

    def test_the_same_key_again_gets_the_same_answer_even_after_the_token_expired(
        self, token: str, now: datetime
    ) -> None:
        key = public_key()
        first = enrol(token, key, now=now)

        assert enrol(token, key, now=now + 2 * ENROLMENT_LIFETIME) == first
        assert Agent.objects.count() == 1

    def test_another_key_is_refused_and_the_attempt_is_written_down(
        self, token: str, now: datetime
    ) -> None:
        first = enrol(token, public_key(), now=now)

        with pytest.raises(Conflict) as caught:
            enrol(token, public_key(), now=now)

        assert caught.value.code == "token-bound-to-another-key"
        assert Event.objects.filter(action="agent.enrolment_refused", object_id="edge").count() == 1
        assert list(Agent.objects.filter(revoked_at=None)) == [first]

    @pytest.mark.parametrize("wrong", ["", "wpe_unknown", "wpt_other", "\N{SNOWMAN}"])
    def test_an_unknown_token_is_refused(self, wrong: str, now: datetime) -> None:
        with pytest.raises(Unauthenticated) as caught:
            enrol(wrong, public_key(), now=now)
        assert caught.value.code == "enrolment-token-invalid"

    def test_an_expired_token_is_refused(self, token: str, now: datetime) -> None:
        with pytest.raises(Unauthenticated):
            enrol(token, public_key(), now=now + ENROLMENT_LIFETIME)
        assert not Agent.objects.exists()

    @pytest.mark.parametrize(
        "key", ["", "AAAA", "not base64!", public_key()[:-4], public_key() + "AAAA", "\N{SNOWMAN}"]
    )
    def test_a_malformed_key_is_refused_and_the_token_stays_good(
        self, key: str, token: str, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            enrol(token, key, now=now)
        assert [fault.field for fault in caught.value.errors] == ["public_key"]
        assert enrol(token, public_key(), now=now)

    def test_a_new_agent_at_a_site_revokes_the_one_before(self, now: datetime) -> None:
        old = make_joined_site(now=now)
        old.open_session(now=now)

        new = join(old.site, now=now)

        assert Agent.objects.get(pk=old.agent_id).revoked_at == now
        with pytest.raises(Unauthenticated):
            authenticate_agent(secret=old.secret, now=now)
        assert new.caller(now=now).site_id == old.site.pk


class TestSession:
    def test_a_signed_nonce_opens_a_session_whose_secret_is_not_kept(self, now: datetime) -> None:
        agent = make_joined_site("edge", now=now)

        session = agent.open_session(now=now)

        caller = authenticate_agent(secret=session.secret, now=now)
        assert (caller.agent_id, caller.site_name) == (agent.agent_id, "edge")
        assert (caller.epoch, caller.generation) == (1, 0)
        assert AgentSession.objects.get().digest != session.secret

    def test_a_nonce_serves_once(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        nonce = issue_challenge(agent_id=str(agent.agent_id), now=now)
        facts: dict[str, Any] = {"agent_id": str(agent.agent_id), "nonce": nonce, "now": now}
        open_session(**facts, session_counter=1, signature=agent.sign(nonce, 1))

        with pytest.raises(Unauthenticated) as caught:
            open_session(**facts, session_counter=2, signature=agent.sign(nonce, 2))
        assert caught.value.code == "nonce-invalid"

    def test_a_wrong_signature_spends_the_nonce(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        nonce = issue_challenge(agent_id=str(agent.agent_id), now=now)
        facts: dict[str, Any] = {
            "agent_id": str(agent.agent_id),
            "nonce": nonce,
            "session_counter": 1,
            "now": now,
        }

        with pytest.raises(Unauthenticated) as caught:
            open_session(**facts, signature=agent.sign(nonce, 2))
        assert caught.value.code == "signature-invalid"
        with pytest.raises(Unauthenticated) as caught:
            open_session(**facts, signature=agent.sign(nonce, 1))
        assert caught.value.code == "nonce-invalid"
        assert Agent.objects.get().session_counter == 0

    def test_a_nonce_expires(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        nonce = issue_challenge(agent_id=str(agent.agent_id), now=now)

        with pytest.raises(Unauthenticated) as caught:
            open_session(
                agent_id=str(agent.agent_id),
                nonce=nonce,
                session_counter=1,
                signature=agent.sign(nonce, 1),
                now=now + CHALLENGE_LIFETIME,
            )
        assert caught.value.code == "nonce-invalid"

    def test_expired_nonces_do_not_pile_up(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        for turn in range(3):
            issue_challenge(agent_id=str(agent.agent_id), now=now + turn * CHALLENGE_LIFETIME)
        assert Challenge.objects.count() == 1

    def test_a_nonce_is_for_the_agent_that_asked(self, now: datetime) -> None:
        mine, other = make_joined_site(now=now), make_joined_site(now=now)
        nonce = issue_challenge(agent_id=str(mine.agent_id), now=now)

        with pytest.raises(Unauthenticated) as caught:
            open_session(
                agent_id=str(other.agent_id),
                nonce=nonce,
                session_counter=1,
                signature=other.sign(nonce, 1),
                now=now,
            )
        assert caught.value.code == "nonce-invalid"

    def test_another_key_can_not_sign_for_an_agent(self, now: datetime) -> None:
        mine, thief = make_joined_site(now=now), make_joined_site(now=now)
        thief.agent_id = mine.agent_id
        with pytest.raises(Unauthenticated) as caught:
            thief.open_session(now=now)
        assert caught.value.code == "signature-invalid"

    @pytest.mark.parametrize("counter", [1, 2])
    def test_a_counter_that_did_not_rise_is_refused_and_written_down(
        self, counter: int, now: datetime
    ) -> None:
        agent = make_joined_site("edge", now=now)
        agent.counter = 1
        good = agent.open_session(now=now)
        nonce = issue_challenge(agent_id=str(agent.agent_id), now=now)

        with pytest.raises(Conflict) as caught:
            open_session(
                agent_id=str(agent.agent_id),
                nonce=nonce,
                session_counter=counter,
                signature=agent.sign(nonce, counter),
                now=now,
            )

        assert caught.value.code == "session-counter-stale"
        event = Event.objects.get(action="agent.counter_stale")
        assert (event.object_id, event.data["accepted"]) == ("edge", 2)
        # Nobody can tell which of the two is the copy: neither gets in any more.
        with pytest.raises(Unauthenticated):
            authenticate_agent(secret=good.secret, now=now)
        with pytest.raises(Forbidden) as locked:
            agent.open_session(now=now)
        assert locked.value.code == "agent-locked"

    def test_a_new_session_ends_the_one_before(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        first = agent.open_session(now=now).secret
        second = agent.open_session(now=now).secret

        assert authenticate_agent(secret=second, now=now)
        with pytest.raises(Unauthenticated):
            authenticate_agent(secret=first, now=now)

    def test_a_session_expires(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        secret = agent.open_session(now=now).secret

        assert authenticate_agent(secret=secret, now=now + SESSION_LIFETIME - timedelta(seconds=1))
        with pytest.raises(Unauthenticated) as caught:
            authenticate_agent(secret=secret, now=now + SESSION_LIFETIME)
        assert caught.value.code == "session-invalid"

    def test_a_revocation_works_at_once_and_for_good(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        secret = agent.open_session(now=now).secret

        revoke_agent(agent=Agent.objects.get(), reason="stolen", actor=ACTOR, now=now)

        with pytest.raises(Unauthenticated):
            authenticate_agent(secret=secret, now=now)
        with pytest.raises(Forbidden) as caught:
            agent.open_session(now=now)
        assert caught.value.code == "agent-revoked"

    @pytest.mark.parametrize("agent_id", ["", "x", "00000000-0000-0000-0000-00000000000g"])
    def test_an_agent_that_is_no_uuid_is_a_malformed_request(
        self, agent_id: str, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput):
            issue_challenge(agent_id=agent_id, now=now)

    def test_an_unknown_agent_is_told_to_join(self, now: datetime) -> None:
        with pytest.raises(Unauthenticated) as caught:
            issue_challenge(agent_id="0f8fad5b-d9cb-469f-a165-70867728950e", now=now)
        assert caught.value.code == "agent-unknown"


@pytest.mark.usefixtures("transactional_db")
class TestRaces:
    def test_of_50_joins_with_one_token_exactly_one_key_wins(
        self, token: str, now: datetime
    ) -> None:
        keys = [public_key() for _ in range(50)]

        results = at_once(lambda key: enrol(token, key, now=now), keys)

        won = [result for result in results if isinstance(result, Agent)]
        assert len(won) == 1
        assert {type(error) for error in failures(results)} == {Conflict}
        assert Agent.objects.get().pk == won[0].pk
        assert Event.objects.filter(action="agent.enrolment_refused").count() == 49

    def test_two_tokens_of_one_site_leave_one_active_agent(self, now: datetime) -> None:
        for turn in range(5):
            site = make_site(f"edge-{turn}", now=now)
            tokens = [create_enrolment_token(site=site, actor=ACTOR, now=now)[1] for _ in range(4)]

            results = at_once(lambda token: enrol(token, public_key(), now=now), tokens)

            assert failures(results) == []
            assert site.agents.filter(revoked_at=None).count() == 1

    def test_one_nonce_opens_one_session_however_often_it_is_sent(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        nonce = issue_challenge(agent_id=str(agent.agent_id), now=now)

        results = at_once(
            lambda counter: open_session(
                agent_id=str(agent.agent_id),
                nonce=nonce,
                session_counter=counter,
                signature=agent.sign(nonce, counter),
                now=now,
            ),
            range(1, 9),
        )

        assert len(failures(results)) == 7
        assert {getattr(error, "code", error) for error in failures(results)} == {"nonce-invalid"}

    def test_revoking_while_a_session_opens_leaves_no_way_in(self, now: datetime) -> None:
        for _ in range(10):
            agent = make_joined_site(now=now)
            row = Agent.objects.get(pk=agent.agent_id)

            def act(what: str, agent: FakeAgent = agent, row: Agent = row) -> object:
                if what == "revoke":
                    return revoke_agent(agent=row, reason="stolen", actor=ACTOR, now=now)
                return agent.open_session(now=now)

            results = at_once(act, ["revoke", "open"])

            codes = {getattr(error, "code", error) for error in failures(results)}
            assert codes <= {"agent-revoked", "session-counter-stale", "nonce-invalid"}
            if agent.secret:
                with pytest.raises(Unauthenticated):
                    authenticate_agent(secret=agent.secret, now=now)
