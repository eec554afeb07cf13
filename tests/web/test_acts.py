"""Strategies written, versions taken out of use, models pinned, sites retired: from their pages."""

import json
from datetime import datetime, time, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from controlplane.accounts.models import User
from controlplane.catalog.models import VersionState
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Site
from controlplane.fleet.services import create_window
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import Rollout, SiteModel, Strategy
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, make_version
from tests.web.conftest import text_of

HTMX = {"HX-Request": "true"}
DOCUMENT = {
    "name": "night-shift",
    "title": "slowly",
    "stages": [{"name": "lab", "select": {"labels": {"ring": "0"}}}, {"name": "rest"}],
}


def test_a_strategy_is_kept_then_followed_by_its_next_version_then_retired(olga: Client) -> None:
    for title in ("slowly", "slower"):
        text = json.dumps(DOCUMENT | {"title": title})
        assert olga.post("/new-strategy/", {"document": text}).status_code == 302
    html = text_of(olga.get("/strategies/"))
    assert "night-shift" in html
    assert "slower" in html
    assert "ring=0; soaks 1 min" in html
    assert "rolls back at the first failed; at most 25 % unavailable" in html
    first = text_of(olga.get("/strategies/night-shift/?version=1"))
    assert "&quot;title&quot;: &quot;slowly&quot;" in first
    draft = text_of(olga.get("/new-strategy/?from=night-shift"))
    assert "slower" in draft
    assert "&quot;version&quot;" not in draft
    assert olga.post("/strategies/night-shift/retire/", {"reason": ""}).status_code == 422
    assert olga.post("/strategies/night-shift/retire/", {"reason": "old"}).status_code == 302
    assert 'value="night-shift"' not in text_of(olga.get("/rollouts/start/"))
    assert "retired" in text_of(olga.get("/strategies/night-shift/"))
    assert Strategy.objects.count() == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "This is not JSON: line 1"),
        ("[]", "strategy: must be an object with"),
        ('{"name": "x", "stages": [{"name": "A B"}]}', "stages[0].name: must be 1 to 40 of"),
        (
            '{"name": "x", "stages": [{"name": "a", "policy": {"failures_tolerated": "100%"}}]}',
            "stages[0].policy.failures_tolerated: must be",
        ),
        ('{"name": "x", "title": "\\ud800", "stages": [{"name": "a"}]}', "half a character"),
        ('{"name": "x", "title": "\\u0000", "stages": [{"name": "a"}]}', "NUL character"),
        ("[" * 5000, "This is not JSON"),
    ],
)
def test_every_fault_of_a_strategy_is_told_with_its_place_and_nothing_is_lost(
    olga: Client, text: str, said: str
) -> None:
    response = olga.post("/new-strategy/", {"document": text})
    assert response.status_code == 422
    assert said in text_of(response)
    assert response.context["form"]["document"].value() == text
    assert not Strategy.objects.exists()


def test_a_built_in_strategy_is_neither_written_over_nor_retired(olga: Client) -> None:
    text = json.dumps(DOCUMENT | {"name": "canary"})
    response = olga.post("/new-strategy/", {"document": text})
    assert response.status_code == 409
    assert "is a built-in strategy; give yours another name" in text_of(response)
    assert "cannot be retired" in text_of(olga.get("/strategies/canary/retire/"))
    assert olga.post("/strategies/canary/retire/", {"reason": "x"}).status_code == 409
    for path in ("nope/", "canary/?version=7", "canary/?version=x"):
        assert olga.get(f"/strategies/{path}").status_code == 404, path


@pytest.mark.parametrize(
    ("roll_back", "state"), [("on", RolloutState.ROLLING_BACK), ("", RolloutState.RUNNING)]
)
def test_a_version_is_quarantined_with_or_without_its_rollout_and_released(
    olga: Client, now: datetime, roll_back: str, state: RolloutState
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    path = f"/models/vad/{rollout.version.number}/"
    asked = text_of(olga.get(f"{path}quarantine/", headers=HTMX))
    assert f"Rollout {rollout.pk} is running: it pauses, or turns back" in asked
    assert olga.post(f"{path}quarantine/", {"reason": ""}).status_code == 422
    form = {"reason": "leaks", "roll_back": roll_back} if roll_back else {"reason": "leaks"}
    done = olga.post(f"{path}quarantine/", form, headers=HTMX)
    assert done.status_code == 204
    assert done["HX-Redirect"] == path
    rollout.refresh_from_db()
    assert rollout.state == state
    html = text_of(olga.get(path))
    assert "Quarantined by user:olga: leaks" in html
    assert "It is quarantined; release it first." in html
    assert olga.post(f"{path}release/", {"reason": "mended"}).status_code == 302
    rollout.version.refresh_from_db()
    assert rollout.version.state == VersionState.APPROVED


def test_who_may_not_freeze_cannot_turn_back_by_a_quarantine_in_a_freeze(
    viktor: Client, viewer: User, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    viewer.user_permissions.add(Permission.objects.get(codename="change_version"))
    freeze_sites(selector={}, reason="fair", until=None, actor=ACTOR, now=now)
    path = f"/models/vad/{rollout.version.number}/quarantine/"
    assert "roll_back" not in text_of(viktor.get(path))
    assert viktor.post(path, {"reason": "leaks", "roll_back": "on"}).status_code == 302
    assert Rollout.objects.get().state == RolloutState.RUNNING


def test_a_version_that_is_not_finished_cannot_be_quarantined(olga: Client, now: datetime) -> None:
    version = make_version("vad", registered=False, now=now)
    path = f"/models/vad/{version.number}/quarantine/"
    assert "It is not registered yet" in text_of(olga.get(path))
    assert olga.post(path, {"reason": "x"}).status_code == 409


def test_a_model_is_pinned_and_let_go_with_a_reason(olga: Client, now: datetime) -> None:
    agent = make_joined_site("fra", now=now)
    make_rollout(RolloutState.SUCCEEDED, agents=[agent], now=now)
    path = "/sites/fra/models/vad/"
    assert "It is held at version 1" in text_of(olga.get(f"{path}pin/"))
    assert olga.post(f"{path}pin/", {"reason": ""}).status_code == 422
    assert olga.post(f"{path}pin/", {"reason": "a demo"}).status_code == 302
    assert "by user:olga: a demo" in text_of(olga.get("/sites/fra/"))
    assert olga.post(f"{path}unpin/", {"reason": "over"}).status_code == 302
    assert SiteModel.objects.get().pinned_by == ""
    assert "is not pinned" in text_of(olga.get(f"{path}unpin/"))
    assert olga.get("/sites/fra/models/ocr/pin/").status_code == 404


def test_a_site_says_its_drift_its_windows_and_its_group(
    olga: Client, poll: Any, now: datetime
) -> None:
    agent = make_joined_site("fra", now=now)
    make_site("osl", now=now)
    make_rollout(RolloutState.SUCCEEDED, agents=[agent], now=now)
    tag = poll("/sites/fra/")["ETag"]
    SiteModel.objects.update(drifted_since=now - timedelta(minutes=3), reported_serving=7)
    Site.objects.update(redundancy_group="pair")
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    window = {
        "name": "night", "kind": "activation", "selector": {}, "days": days,
        "start": time(0), "minutes": 24 * 60, "timezone": "",
    }  # fmt: skip
    create_window(fields=window, actor=ACTOR, now=now)
    answer = poll("/sites/fra/", tag)
    assert answer.status_code == 200
    html = text_of(answer)
    for words in (
        "ahead", "drifted", "policy: correct", "pair, with 1 other site: never changed at once",
        "Activation window", "every day from 00:00 for 24 h, UTC", "open now",
    ):  # fmt: skip
        assert words in html, words


def test_a_site_is_retired_with_a_reason(olga: Client, now: datetime) -> None:
    make_joined_site("fra", now=now)
    assert "Its agent is revoked" in text_of(olga.get("/sites/fra/retire/"))
    assert olga.post("/sites/fra/retire/", {"reason": " "}).status_code == 422
    assert olga.post("/sites/fra/retire/", {"reason": "closed"})["Location"] == "/sites/"
    assert Site.objects.get().retired_at is not None
    assert "was retired on" in text_of(olga.get("/sites/fra/"))
