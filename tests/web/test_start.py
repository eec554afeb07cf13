"""The plan before a rollout: what it says, what it keeps of the form, and a thousand sites."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from controlplane.catalog.models import ContentClass
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Agent, Lease, Site
from controlplane.rollouts.models import Rollout, Stage
from controlplane.rollouts.strategies import create_strategy
from controlplane.web.words import PER_GROUP
from tests.factories import make_joined_site, make_rollout, make_site, make_version
from tests.web.conftest import text_of

PATH = "/rollouts/start/"


def plan_of(client: Client, **form: Any) -> Any:
    return client.post(PATH, {"strategy": "at-once", "step": "plan"} | form)


def seed_sites(count: int, now: datetime) -> None:
    """Sites with an agent that was heard of, made the short way; every tenth has been silent."""
    regions = ("eu-west", "eu-north", "us-east", "ap-south")
    sites = Site.objects.bulk_create(
        Site(name=f"site-{n:04}", tier="edge", region=regions[n % 4], created_at=now)
        for n in range(count)
    )
    agents = Agent.objects.bulk_create(
        Agent(site=site, public_key=b"k" * 32, enrolled_at=now) for site in sites
    )
    Lease.objects.bulk_create(
        Lease(agent=agent, last_seen_at=now - timedelta(days=0 if n % 10 else 1 + n % 7))
        for n, agent in enumerate(agents)
    )


def test_a_plan_says_limits_sums_and_who_is_left_out_and_why(olga: Client, now: datetime) -> None:
    for n in range(8):
        make_joined_site(f"fra-{n}", now=now)
    make_site("unjoined", now=now)
    version = make_version("vad", now=now)
    html = text_of(plan_of(olga, version=version.pk, strategy="canary"))
    for words in (
        "stops at 1 failed of 1 and rolls back", "at most 1 of 4 unavailable", "8</strong> sites",
        "1 site: no agent has joined", "It needs no approval.", "who joins late or was put off",
        "100 Mbit/s is assumed", "Start this rollout at 8 sites", "by strategy canary, version 1",
    ):  # fmt: skip
        assert words in html, words


def test_the_plan_of_a_thousand_sites_costs_what_that_of_ten_does_and_stays_readable(
    olga: Client, now: datetime, django_assert_max_num_queries: Any
) -> None:
    version = make_version("vad", now=now)
    # These sites are rows alone, whose agents have said nothing: code would go to none of them.
    version.variants.update(content_class=ContentClass.DATA)
    seed_sites(10, now)
    with django_assert_max_num_queries(40) as few:
        plan_of(olga, version=version.pk)
    Site.objects.all().delete()
    seed_sites(1000, now)
    with django_assert_max_num_queries(40) as many:
        response = plan_of(olga, version=version.pk)
    assert len(many) == len(few)
    html = text_of(response)
    assert len(html) < 60_000
    assert "900</strong>: site-0001" in html
    assert "and 894 more" in html
    # Every site stands on the page, behind its fold; of those left out the first hundred.
    assert all(f"site-{n:04}" in html for n in range(1000) if n % 10)
    assert "100 sites: not heard of for …" in html
    assert html.count('<li><a href="/sites/site-') == PER_GROUP
    assert html.count('name="expect_plan"') == 1


def test_what_the_form_changes_is_in_the_plan_and_in_the_rollout(
    olga: Client, now: datetime
) -> None:
    for n in range(3):
        make_joined_site(f"fra-{n}", now=now)
    make_joined_site("lab", labels={"rack": "b"}, now=now)
    at = now + timedelta(days=1)
    form = {
        "version": make_version("vad", now=now).pk, "strategy": "at-once", "soak_seconds": "7",
        "barrier": "yes", "exclude_sites": "fra-1\nfra-2", "exclude_labels": "rack=b",
        "start_at": f"{at:%Y-%m-%dT%H:%M}", "note": "go",
    }  # fmt: skip
    shown = plan_of(olga, **form)
    assert "3 sites: excluded by the request" in text_of(shown)
    digest = shown.context["plan"].planned.digest
    assert olga.post(PATH, form | {"step": "start", "expect_plan": digest}).status_code == 302
    rollout = Rollout.objects.get()
    assert (rollout.barrier, rollout.strategy_name, rollout.note) == (True, "at-once", "go")
    assert f"{rollout.start_at:%Y-%m-%dT%H:%M}" == form["start_at"]
    assert Stage.objects.filter(name="all", soak_seconds=7).exists()
    assert [row.site.name for row in rollout.deployments.all()] == ["fra-0"]


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("exclude_sites", "fra-0 atlantis", "unknown site &#x27;atlantis&#x27;"),
        ("exclude_labels", "rack", "must be a label and its value"),
        ("start_at", "2020-01-01T00:00", "This is in the past"),
        ("strategy", "night-shift", "night-shift is not one of the available choices"),
        ("soak_seconds", "1e99", "less than or equal to"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    olga: Client, now: datetime, field: str, typed: str, said: str
) -> None:
    make_joined_site("fra-0", now=now)
    response = plan_of(olga, **{"version": make_version("vad", now=now).pk, field: typed})
    assert response.status_code == 422
    assert list(response.context["form"].errors) == [field]
    assert said in text_of(response)


def test_a_second_rollout_is_refused_queued_or_takes_the_place(olga: Client, now: datetime) -> None:
    first = make_rollout(RolloutState.RUNNING, agents=[make_joined_site("fra", now=now)], now=now)
    form = {"version": make_version("vad", now=now).pk, "strategy": "at-once"}
    refused = plan_of(olga, **form)
    assert refused.status_code == 409
    assert f"Rollout {first.pk} of vad is not finished" in text_of(refused)
    for rule, said, state in (
        ("queue", f"Rollout {first.pk} of vad goes first", RolloutState.RUNNING),
        ("supersede", "is stopped where it stands", RolloutState.CANCELLING),
    ):
        shown = plan_of(olga, **form, on_conflict=rule)
        assert said in text_of(shown)
        digest = shown.context["plan"].planned.digest
        start = form | {"on_conflict": rule, "step": "start", "expect_plan": digest}
        assert olga.post(PATH, start).status_code == 302
        first.refresh_from_db()
        assert first.state == state
    assert Rollout.objects.filter(state=RolloutState.QUEUED).count() == 2


def test_a_kept_strategy_is_offered_with_its_title_and_its_approval(
    olga: Client, now: datetime
) -> None:
    make_joined_site("fra", now=now)
    create_strategy(
        document={
            "name": "night-shift", "title": "slowly, at night", "stages": [{"name": "all"}],
            "approval": {"required": True},
        },
        actor="user:otto", now=now,
    )  # fmt: skip
    assert "night-shift: slowly, at night" in text_of(olga.get(PATH))
    response = plan_of(olga, version=make_version("vad", now=now).pk, strategy="night-shift")
    html = text_of(response)
    assert "somebody other than who starts it has to approve this plan" in html
    assert "Ask for approval of this rollout" in html
