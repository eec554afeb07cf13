"""Freezing from the console: the banner on every page, who may, and what stays possible."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from controlplane.accounts.models import User
from controlplane.audit.models import Event
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.freezes import fleet_budget, freeze_sites
from controlplane.rollouts.models import Freeze, Rollout
from tests.factories import make_joined_site, make_rollout, make_site
from tests.web.conftest import text_of


def freeze(now: datetime, **selector: Any) -> Freeze:
    return freeze_sites(
        selector=selector, reason="the fair", until=None, actor="user:otto", now=now
    )


def allow(user: User, *codenames: str) -> None:
    for codename in codenames:
        user.user_permissions.add(Permission.objects.get(codename=codename))


def test_every_page_says_what_is_frozen_and_leads_there(
    olga: Client, paths: list[str], now: datetime
) -> None:
    make_site("lab", tier="regional", now=now)
    freeze(now, tier="edge")
    for path in paths:
        html = text_of(olga.get(path))
        assert "Frozen: tier edge" in html, path
        assert "1 site held, by user:otto since" in html, path
        assert "until it is lifted: the fair" in html, path
        assert 'id="freeze-entry" href="/freezes/"' in html, path


def test_a_freeze_reaches_a_panel_and_leaves_it_when_it_is_over(
    poll: Callable[..., Any], now: datetime
) -> None:
    make_site("fra", now=now)  # no event of it is on the page that is asked
    tag = poll("/rollouts/")["ETag"]
    made = freeze(now)
    shown = poll("/rollouts/", tag)
    assert shown.status_code == 200
    assert "Frozen: the whole fleet" in text_of(shown)
    assert poll("/rollouts/", shown["ETag"]).status_code == 304
    make_site("oslo", now=now)
    assert "2 sites held" in text_of(poll("/rollouts/", shown["ETag"]))
    Freeze.objects.filter(pk=made.pk).update(until=now - timedelta(seconds=1))
    assert "Frozen" not in text_of(poll("/rollouts/", shown["ETag"]))


def test_the_whole_fleet_or_the_matching_sites_are_frozen(olga: Client, now: datetime) -> None:
    make_site("fra", tier="edge", region="eu-west", labels={"ring": "0"}, now=now)
    until = now + timedelta(days=2)
    form = {
        "scope": "some", "tier": "edge", "region": "eu-west", "labels": "ring=0",
        "sites": "fra, oslo", "reason": "the fair", "until": f"{until:%Y-%m-%dT%H:%M}",
    }  # fmt: skip
    assert olga.post("/freezes/", form).status_code == 302
    made = Freeze.objects.get()
    assert made.selector == {
        "tier": "edge", "region": "eu-west", "labels": {"ring": "0"}, "sites": ["fra", "oslo"],
    }  # fmt: skip
    assert made.created_by == "user:olga"
    assert f"{made.until:%Y-%m-%dT%H:%M}" == form["until"]
    assert olga.post("/freezes/", {"scope": "fleet", "reason": "all"}).status_code == 302
    assert Freeze.objects.filter(selector={}).count() == 1


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"scope": "fleet", "tier": "edge"}, "scope"),
        ({"scope": "some"}, "scope"),
        ({"scope": "fleet", "reason": " "}, "reason"),
        ({"scope": "some", "labels": "ring"}, "labels"),
        ({"scope": "some", "region": "atlantis"}, "region"),
        ({"scope": "fleet", "until": "2020-01-01T00:00"}, "until"),
    ],
)
def test_a_freeze_that_could_be_a_slip_is_asked_again(
    olga: Client, typed: dict[str, str], field: str
) -> None:
    response = olga.post("/freezes/", {"reason": "why"} | typed)
    assert response.status_code == 422
    assert list(response.context["form"].errors) == [field]
    assert not Freeze.objects.exists()


def test_lifting_takes_a_reason_and_happens_once(olga: Client, now: datetime) -> None:
    make_site("fra", now=now)
    made = freeze(now)
    path = f"/freezes/{made.pk}/lift/"
    assert "1 site is free again" in text_of(olga.get(path))
    assert olga.post(path, {"reason": ""}).status_code == 422
    assert olga.post(path, {"reason": "over"}).status_code == 302
    assert Event.objects.get(action="freeze.lifted").reason == "over"
    assert "is over already" in text_of(olga.get(path))
    assert olga.post(path, {"reason": "again"}).status_code == 409
    assert olga.get("/freezes/999/lift/").status_code == 404
    assert "lifted by user:olga" in text_of(olga.get("/freezes/"))


def test_freezing_needs_the_right_to_steer_and_one_of_its_own(
    viktor: Client, viewer: User, now: datetime
) -> None:
    form = {"scope": "fleet", "reason": "why"}
    for codename in ("change_rollout", "add_freeze"):
        assert viktor.post("/freezes/", form).status_code == 403
        allow(viewer, codename)
    assert viktor.post("/freezes/", form).status_code == 302
    lift = f"/freezes/{Freeze.objects.get().pk}/lift/"
    assert viktor.post(lift, {"reason": "why"}).status_code == 403
    allow(viewer, "change_freeze")
    # Permissions are read once a request, from a fresh user.
    assert viktor.post(lift, {"reason": "why"}).status_code == 302


def test_during_a_freeze_a_rollback_is_for_those_who_may_freeze(
    olga: Client, viktor: Client, viewer: User, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, agents=[make_joined_site("fra", now=now)], now=now)
    freeze(now, tier="regional")
    allow(viewer, "change_rollout")
    path = f"/rollouts/{rollout.pk}/"
    html = text_of(viktor.get(path))
    assert "Rolling back during a freeze needs the right to freeze" in html
    assert "/rollback/" not in html
    refused = viktor.post(f"{path}rollback/", {"reason": "now"})
    assert refused.status_code == 403
    assert "Rolling back during a freeze" in text_of(refused)
    assert "/rollback/" in text_of(olga.get(path))
    assert olga.post(f"{path}rollback/", {"reason": "now"}).status_code == 302
    assert Rollout.objects.get().state == RolloutState.ROLLING_BACK


def test_the_budget_is_set_and_taken_away(olga: Client) -> None:
    assert "There is no budget" in text_of(olga.get("/freezes/"))
    for typed, kept in (("15", 15), ("", None)):
        form = {"changing_percent": typed, "reason": "careful"}
        assert olga.post("/budget/", form).status_code == 302
        assert fleet_budget().changing_percent == kept
    for wrong in ("0", "101", "many"):
        response = olga.post("/budget/", {"changing_percent": wrong, "reason": "x"})
        assert response.status_code == 422
    assert Event.objects.filter(action="budget.changed").count() == 2
