"""What people type in: a site, a token, a rollout; nothing typed is lost when it is wrong."""

from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from controlplane.fleet.models import EnrolmentToken, Site
from controlplane.rollouts.models import Rollout
from tests.factories import make_joined_site, make_site, make_version
from tests.web.conftest import text_of


def test_a_new_enrolment_token_is_shown_once(olga: Client, settings: Any, now: datetime) -> None:
    settings.PUBLIC_URL = "https://waypost.example"
    make_site("fra", now=now)
    response = olga.post("/sites/fra/enrolment-token/")
    line = response.context["command"]
    assert line.startswith("waypost-agent join https://waypost.example --token wpe_")
    assert line in text_of(response)
    assert response["Cache-Control"] == "no-store"
    assert line.split()[-1] not in text_of(olga.get("/sites/fra/enrolment-token/"))
    assert EnrolmentToken.objects.count() == 1


def test_a_site_can_be_added_and_a_second_of_that_name_is_refused(olga: Client) -> None:
    form = {"name": "oslo-edge-1", "tier": "edge", "region": "eu-north"}
    assert olga.post("/add-site/", form)["Location"] == "/sites/oslo-edge-1/"
    again = olga.post("/add-site/", form)
    assert again.status_code == 422
    assert "exists already" in text_of(again)
    wrong = olga.post("/add-site/", form | {"name": "a b", "tier": "moon"})
    assert wrong.status_code == 422
    assert set(wrong.context["form"].errors) == {"name", "tier"}
    assert Site.objects.count() == 1


def test_a_rollout_starts_from_its_form(olga: Client, now: datetime) -> None:
    make_joined_site(tier="edge", now=now)
    version = make_version("vad", now=now)
    form = {"version": version.pk, "strategy": "edge-first", "soak_seconds": "5", "note": "go"}
    shown = olga.post("/rollouts/start/", form | {"step": "plan"})
    assert shown.status_code == 200
    assert Rollout.objects.count() == 0
    plan = shown.context["plan"].planned
    assert "Start this rollout at 1 site" in text_of(shown)
    assert plan.digest in text_of(shown)
    start = form | {"step": "start", "expect_plan": plan.digest}
    response = olga.post("/rollouts/start/", start)
    rollout = Rollout.objects.get()
    assert response["Location"] == f"/rollouts/{rollout.pk}/"
    assert rollout.created_by == "user:olga"
    assert [s.name for s in rollout.stages.all()] == [
        "edge", "regional", "hyperscale", "stragglers",
    ]  # fmt: skip
    assert [s.soak_seconds for s in rollout.stages.all()] == [5, 5, 5, 0]
    assert (rollout.strategy_name, rollout.strategy_version) == ("edge-first", 1)
    second = olga.post("/rollouts/start/", start)
    assert second.status_code == 409
    assert f"Rollout {rollout.pk} of vad is not finished" in text_of(second)


def test_a_rollout_form_that_is_wrong_keeps_what_was_typed(olga: Client, now: datetime) -> None:
    version = make_version("vad", now=now)
    form = {"version": version.pk, "strategy": "canary", "soak_seconds": "-1", "note": "keep me"}
    response = olga.post("/rollouts/start/", form)
    assert response.status_code == 422
    assert "keep me" in text_of(response)
    nowhere = olga.post("/rollouts/start/", form | {"soak_seconds": "1"})
    assert nowhere.status_code == 422
    assert "select no site" in text_of(nowhere)
    assert not Rollout.objects.exists()


@pytest.mark.parametrize("expected", ["", "sha256:" + "0" * 64])
def test_only_the_plan_that_was_shown_is_started(
    olga: Client, now: datetime, expected: str
) -> None:
    make_joined_site("fra", tier="edge", now=now)
    version = make_version("vad", now=now)
    form = {"version": version.pk, "strategy": "at-once", "soak_seconds": "5", "note": ""}
    response = olga.post("/rollouts/start/", form | {"step": "start", "expect_plan": expected})
    assert response.status_code == 409
    assert not Rollout.objects.exists()
    assert "look at the plan again" in text_of(response)
    assert response.context["plan"].planned.digest in text_of(response)
