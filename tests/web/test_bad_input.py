"""What people type or do that cannot be meant, as the console tells them; the API's and the command
line's answers to the same are in `tests/api`."""

import json
from datetime import datetime

import pytest
from django.test import Client

from controlplane.domain.rollout import RolloutState
from controlplane.fleet.services import create_window, retire_site
from controlplane.rollouts.models import Rollout, Strategy
from controlplane.rollouts.quarantine import quarantine_version
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version
from tests.services.steps import turn
from tests.web.conftest import text_of

BY = {"actor": ACTOR, "reason": "because"}


def keep(client: Client, *stages: dict[str, object]) -> str:
    """A strategy of these stages, sent from its page; what the page then says."""
    document = json.dumps({"name": "mine", "stages": stages})
    return text_of(client.post("/new-strategy/", {"document": document}, follow=True))


def plan(client: Client, version: int) -> str:
    form = {"strategy": "mine", "step": "plan", "version": version}
    return text_of(client.post("/rollouts/start/", form))


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"max_unavailable": "101%"}, "max_unavailable"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"failures_tolerated": "100%"}, "failures_tolerated"),
        ({"stale_tolerated": "100%"}, "stale_tolerated"),
        ({"successes_required": "95%", "failures_tolerated": "10%"}, "successes_required"),
        ({"on_silent": "count"}, "on_silent"),
        ({"retries": 11}, "retries"),
    ],
)
def test_limits_that_mean_nothing_are_refused_at_their_place(
    olga: Client, policy: dict[str, object], field: str
) -> None:
    assert f"stages[0].policy.{field}: " in keep(olga, {"name": "all", "policy": policy})
    assert not Strategy.objects.exists()


def test_a_site_in_two_stages_is_refused(olga: Client) -> None:
    twice = [{"name": name, "select": {"sites": ["oslo"]}} for name in ("a", "b")]
    assert "is named by stage" in keep(olga, *twice)
    assert not Strategy.objects.exists()


def test_a_stage_that_selects_nobody_or_only_taken_sites_is_said_by_the_plan(
    olga: Client, now: datetime
) -> None:
    make_joined_site("oslo", now=now)
    far = {"name": "far", "select": {"tier": "hyperscale"}}
    keep(olga, far, {"name": "first"}, {"name": "again", "select": {"tier": "edge"}})
    html = plan(olga, make_version(now=now).pk)
    assert "stage far: no site matches its conditions" in html
    assert "stage again: " in html


def test_a_window_shorter_than_the_poll_interval_is_said_by_the_plan(
    olga: Client, now: datetime
) -> None:
    oslo = make_joined_site("oslo", now=now)
    oslo.site.poll_seconds = 600
    oslo.site.save(update_fields=["poll_seconds"])
    window = {
        "name": "short", "kind": "download", "days": ["mon"], "start": "02:00", "minutes": 5,
    }  # fmt: skip
    create_window(fields=window, actor=ACTOR, now=now)
    keep(olga, {"name": "all"})
    assert "poll" in plan(olga, make_version(now=now).pk)


def test_a_strategy_edited_while_a_rollout_uses_it_leaves_the_rollout_as_planned(
    olga: Client, now: datetime
) -> None:
    make_joined_site("oslo", now=now)
    keep(olga, {"name": "first"})
    form = {"strategy": "mine", "version": make_version(now=now).pk, "step": "plan"}
    digest = olga.post("/rollouts/start/", form).context["plan"].planned.digest
    olga.post("/rollouts/start/", form | {"step": "start", "expect_plan": digest})
    rollout = Rollout.objects.get()
    keep(olga, {"name": "second"})

    html = text_of(olga.get(f"/rollouts/{rollout.pk}/"))
    assert (rollout.strategy_name, rollout.strategy_version) == ("mine", 1)
    assert "first" in html
    assert "second" not in html


def test_a_version_withdrawn_in_mid_rollout_is_told_with_the_choices_left(
    olga: Client, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    quarantine_version(
        model_name=rollout.model.name,
        number=rollout.version.number,
        roll_back=False,
        actor=ACTOR,
        reason="it leaks",
        now=now,
    )
    turn(rollout, now=now)
    assert "it leaks" in text_of(olga.get(f"/rollouts/{rollout.pk}/"))

    page = f"/rollouts/{rollout.pk}/resume/"
    response = olga.post(page, {"reason": "x", "choice": "accept"})
    assert response.status_code == 409
    assert "release the version first" in text_of(response)
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.PAUSED


def test_a_site_retired_while_it_activates_leaves_the_rollout_in_words(
    olga: Client, now: datetime
) -> None:
    agents = [make_joined_site(name, now=now) for name in ("oslo", "rome")]
    rollout = make_rollout(
        RolloutState.RUNNING, version=make_version(now=now), agents=agents, now=now
    )
    agents[0].begin("vad", now=now)
    retire_site(site=agents[0].site, now=now, **BY)
    turn(rollout, now=now)
    html = text_of(olga.get(f"/rollouts/{rollout.pk}/"))
    assert "the site was retired" in html


@pytest.mark.parametrize(
    "verb", ["pause", "resume", "promote", "abort", "rollback", "stop-waiting"]
)
def test_a_verb_on_what_is_over_changes_nothing_and_says_so(
    olga: Client, verb: str, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.SUCCEEDED, now=now)
    response = olga.post(f"/rollouts/{rollout.pk}/{verb}/", {"reason": "x"})
    assert response.status_code == 409
    assert f"{verb} is not possible" in text_of(response)
