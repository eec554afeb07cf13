"""A retired site takes part in nothing, its agent and its tokens open nothing, and its name and
history stay."""

import base64
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.audit.models import Event
from controlplane.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Unauthenticated,
)
from controlplane.fleet.identity import authenticate_agent, enrol_agent
from controlplane.fleet.models import Agent, Site
from controlplane.fleet.queries import find_site, regions, sites
from controlplane.fleet.services import (
    create_enrolment_token,
    create_site,
    restore_site,
    retire_site,
    update_site,
)
from tests.factories import ACTOR, join, make_joined_site, make_site
from tests.services.threads import at_once, failures


def retire(site: Site, *, now: datetime, reason: str = "the shop closed") -> Site:
    return retire_site(site=site, reason=reason, actor=ACTOR, now=now)


def enrol(token: str, *, now: datetime, key: Ed25519PrivateKey | None = None) -> Agent:
    key = key or Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    return enrol_agent(token=token, public_key=public, hostname="h", agent_version="1", now=now)


class TestRetiring:
    def test_it_leaves_the_fleet_and_its_name_stays(self, now: datetime) -> None:
        site, other = make_site("oslo", region="north", now=now), make_site("rome", now=now)

        retire(site, now=now)

        assert list(sites()) == [other]
        assert list(sites(retired=True)) == [site]
        assert list(sites(retired=None)) == [site, other]
        assert regions() == ["eu-west"]
        event = Event.objects.get(action="site.retired")
        assert (event.object_id, event.reason) == ("oslo", "the shop closed")
        fields = {"name": "oslo", "tier": "edge", "region": "north"}
        with pytest.raises(Conflict, match=r"retired on 2026-11-23.*restore that site"):
            create_site(fields=fields, actor=ACTOR, now=now)

    @pytest.mark.parametrize("reason", ["", "  "])
    def test_nobody_retires_a_site_without_saying_why(self, reason: str, now: datetime) -> None:
        site = make_site(now=now)
        with pytest.raises(InvalidInput) as caught:
            retire(site, reason=reason, now=now)
        assert caught.value.code == "reason-required"
        assert sites().count() == 1

    def test_its_agent_is_revoked_at_once(self, now: datetime) -> None:
        agent = make_joined_site("oslo", now=now)
        agent.open_session(now=now)

        retire(agent.site, now=now)

        with pytest.raises(Unauthenticated):
            authenticate_agent(secret=agent.secret, now=now)
        with pytest.raises(Forbidden) as caught:
            agent.open_session(now=now)
        assert caught.value.code == "agent-revoked"
        assert "the shop closed" in Event.objects.get(action="agent.revoked").reason

    def test_again_changes_nothing(self, now: datetime) -> None:
        site = make_site(now=now)
        retire(site, now=now)
        retire(site, reason="once more", now=now + timedelta(days=1))
        assert Site.objects.get().retired_at == now
        assert Event.objects.filter(action="site.retired").count() == 1

    def test_it_is_found_by_those_who_mean_retired_ones_only(self, now: datetime) -> None:
        retire(make_site("oslo", now=now), now=now)
        assert find_site("oslo", retired=True).name == "oslo"
        with pytest.raises(NotFound) as caught:
            find_site("oslo")
        assert caught.value.code == "site-retired"
        assert "2026-11-23" in caught.value.detail

    def test_it_is_not_changed_and_gets_no_token(self, now: datetime) -> None:
        site = retire(make_site(now=now), now=now)
        with pytest.raises(Conflict, match="restore it first") as change:
            update_site(site=site, fields={"region": "other"}, actor=ACTOR, now=now)
        with pytest.raises(Conflict, match="restore it first") as token:
            create_enrolment_token(site=site, actor=ACTOR, now=now)
        assert (change.value.code, token.value.code) == ("site-retired", "site-retired")


class TestJoining:
    def test_a_token_of_a_retired_site_is_refused_with_the_cause(self, now: datetime) -> None:
        site = make_site(now=now)
        _, secret = create_enrolment_token(site=site, actor=ACTOR, now=now)
        retire(site, now=now)
        with pytest.raises(Forbidden, match="Restore the site") as caught:
            enrol(secret, now=now)
        assert caught.value.code == "site-retired"
        assert not Agent.objects.exists()

    def test_so_is_one_that_was_used(self, now: datetime) -> None:
        site, key = make_site(now=now), Ed25519PrivateKey.generate()
        _, secret = create_enrolment_token(site=site, actor=ACTOR, now=now)
        enrol(secret, key=key, now=now)
        retire(site, now=now)
        with pytest.raises(Forbidden, match="was retired"):
            enrol(secret, key=key, now=now)

    @pytest.mark.usefixtures("transactional_db")
    def test_an_agent_that_joins_while_the_site_is_retired_is_never_left_active(
        self, now: datetime
    ) -> None:
        for _ in range(5):
            site = make_site(now=now)
            _, secret = create_enrolment_token(site=site, actor=ACTOR, now=now)

            def act(verb: str, site: Site = site, secret: str = secret) -> object:
                return retire(site, now=now) if verb == "retire" else enrol(secret, now=now)

            refused = failures(at_once(act, ["retire", "join"]))

            assert all(isinstance(error, Forbidden) for error in refused), refused
            assert not Agent.objects.filter(site=site, revoked_at=None).exists()


class TestRestoring:
    def test_it_takes_part_again_and_joins_anew(self, now: datetime) -> None:
        agent = make_joined_site("oslo", now=now)
        site = retire(agent.site, now=now)

        restored = restore_site(site=site, reason="it reopened", actor=ACTOR, now=now)

        assert restored.retired_at is None
        assert find_site("oslo").agent_id is None  # type: ignore[attr-defined]  # annotated by the query
        event = Event.objects.get(action="site.restored")
        assert (event.object_id, event.reason) == ("oslo", "it reopened")
        join(restored, now=now)
        assert Agent.objects.filter(revoked_at=None).count() == 1

    def test_tokens_of_its_former_life_stay_dead(self, now: datetime) -> None:
        site, other = make_site(now=now), make_site(now=now)
        _, old = create_enrolment_token(site=site, actor=ACTOR, now=now)
        _, untouched = create_enrolment_token(site=other, actor=ACTOR, now=now)
        site = retire(site, now=now)
        restore_site(site=site, actor=ACTOR, now=now)
        with pytest.raises(Unauthenticated) as caught:
            enrol(old, now=now)
        assert caught.value.code == "enrolment-token-invalid"
        assert enrol(untouched, now=now).site == other

    def test_a_site_that_is_not_retired_stays_as_it_is(self, now: datetime) -> None:
        site = make_site(now=now)
        _, secret = create_enrolment_token(site=site, actor=ACTOR, now=now)
        restore_site(site=site, actor=ACTOR, now=now)
        assert not Event.objects.filter(action="site.restored").exists()
        assert enrol(secret, now=now).site == site
