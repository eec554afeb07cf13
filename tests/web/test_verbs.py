"""What an operator does to a rollout: with and without script, allowed and refused."""

from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from controlplane.audit.models import Event
from controlplane.domain.rollout import VERBS, DeploymentState, RolloutState
from controlplane.domain.selection import StageSpec
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.services import pause_rollout
from controlplane.web.verbs import CONSOLE_VERBS, offers, why_not
from tests.factories import make_joined_site, make_rollout

HTMX = {"HX-Request": "true"}
STAGES = (
    StageSpec(name="first", sites=frozenset({"a", "b"}), soak_seconds=0),
    StageSpec(name="rest", soak_seconds=0),
)


@pytest.fixture
def rollout(now: datetime) -> Rollout:
    """Running; `a` verified, `b` downloading, `c` to come."""
    agents = [make_joined_site(name, now=now) for name in "abc"]
    made = make_rollout(RolloutState.RUNNING, agents=agents, stages=STAGES, now=now)
    agents[0].report(made.model.name, "succeeded", now=now)
    agents[1].report(made.model.name, "downloading", now=now)
    return made


def path_of(rollout: Rollout, verb: str) -> str:
    return f"/rollouts/{rollout.pk}/{verb}/"


def state_of(rollout: Rollout) -> str:
    rollout.refresh_from_db()
    return rollout.state


@pytest.mark.parametrize(
    ("verb", "effects"),
    [
        ("pause", ["No further stage starts", "1 site goes on with the version already offered"]),
        ("abort", ["1 site keeps the new version", "1 site is called back before switching",
                   "1 site does not get it"]),
        ("rollback", ["2 sites return to the version they had", "1 site does not get"]),
    ],
)  # fmt: skip
def test_the_question_names_the_effect_in_sites(
    olga: Client, rollout: Rollout, verb: str, effects: list[str]
) -> None:
    for headers in ({}, HTMX):
        html = olga.get(path_of(rollout, verb), headers=headers).content.decode()
        for effect in effects:
            assert effect in html
        assert html.count("<form") == (1 if headers else 2)  # the page has the logout form besides


@pytest.mark.parametrize(
    ("verb", "state", "action"),
    [
        ("pause", RolloutState.PAUSED, "rollout.paused"),
        ("abort", RolloutState.CANCELLING, "rollout.aborted"),
        ("rollback", RolloutState.ROLLING_BACK, "rollout.rolling_back"),
    ],
)
def test_a_verb_works_without_script(
    olga: Client, rollout: Rollout, verb: str, state: str, action: str
) -> None:
    response = olga.post(path_of(rollout, verb), {"reason": "p99 is up"}, follow=True)
    assert response.redirect_chain == [(f"/rollouts/{rollout.pk}/", 302)]
    assert f"Rollout {rollout.pk} is " in response.content.decode()
    assert state_of(rollout) == state
    event = Event.objects.filter(action=action).get()
    assert event.actor == "user:olga"
    assert "p99 is up" in event.reason


def test_a_verb_in_the_dialog_sends_the_page_on(olga: Client, rollout: Rollout) -> None:
    response = olga.post(path_of(rollout, "pause"), {"reason": ""}, headers=HTMX)
    assert response.status_code == 204
    assert response["HX-Redirect"] == f"/rollouts/{rollout.pk}/"
    assert state_of(rollout) == RolloutState.PAUSED


def test_a_paused_rollout_is_resumed(olga: Client, rollout: Rollout) -> None:
    olga.post(path_of(rollout, "pause"), {"reason": ""})
    olga.post(path_of(rollout, "resume"), {"reason": "fixed"})
    assert state_of(rollout) == RolloutState.RUNNING


@pytest.mark.parametrize("verb", ["abort", "rollback"])
@pytest.mark.parametrize("reason", ["", "   "])
def test_what_cannot_be_undone_needs_a_reason(
    olga: Client, rollout: Rollout, verb: str, reason: str
) -> None:
    for headers in ({}, HTMX):
        response = olga.post(path_of(rollout, verb), {"reason": reason}, headers=headers)
        assert response.status_code == 422
        html = response.content.decode()
        assert "Say why; it is kept with the rollout." in html
        assert 'aria-invalid="true"' in html
        assert 'aria-describedby="id_reason_error"' in html
        assert 'id="id_reason_error"' in html
    assert state_of(rollout) == RolloutState.RUNNING


def test_a_reason_that_is_too_long_is_kept_in_the_form(olga: Client, rollout: Rollout) -> None:
    response = olga.post(path_of(rollout, "abort"), {"reason": "x" * 401})
    assert response.status_code == 422
    assert "x" * 401 in response.content.decode()
    assert state_of(rollout) == RolloutState.RUNNING


def test_when_somebody_was_faster_the_page_says_what_is_possible_now(
    olga: Client, rollout: Rollout, now: datetime
) -> None:
    pause_rollout(rollout_id=rollout.pk, reason="mine", actor="user:otto", now=now)
    for headers in ({}, HTMX):
        response = olga.post(path_of(rollout, "pause"), {"reason": "me too"}, headers=headers)
        assert response.status_code == 409
        html = response.content.decode()
        assert 'role="alert"' in html
        assert "is paused: pause is not possible" in html
        assert path_of(rollout, "resume") in html
        assert path_of(rollout, "abort") in html
    assert Event.objects.filter(action="rollout.paused").count() == 1


def test_a_question_that_is_out_of_date_is_not_asked(olga: Client, rollout: Rollout) -> None:
    html = olga.get(path_of(rollout, "resume")).content.decode()
    assert "Possible only while paused; the rollout is running." in html
    assert "<textarea" not in html


def test_a_post_without_its_token_is_refused(operator: Any, rollout: Rollout) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    response = client.post(path_of(rollout, "abort"), {"reason": "forged"})
    assert response.status_code == 403
    assert "This form is out of date" in response.content.decode()
    assert state_of(rollout) == RolloutState.RUNNING


def test_a_get_never_does_anything(olga: Client, rollout: Rollout) -> None:
    revision = rollout.revision
    for verb in CONSOLE_VERBS:
        assert olga.get(path_of(rollout, verb.name), {"reason": "x"}).status_code == 200
    rollout.refresh_from_db()
    assert rollout.revision == revision


def test_the_console_offers_the_verbs_of_the_domain() -> None:
    assert {verb.name for verb in CONSOLE_VERBS} == set(VERBS)
    for state in RolloutState:
        for verb in CONSOLE_VERBS:
            assert (why_not(verb, state) == "") == (state in VERBS[verb.name])
        for offer in offers(state, "no right"):
            assert offer.why_not == "no right"


def test_effects_count_each_deployment_once() -> None:
    totals = dict.fromkeys(DeploymentState, 1)
    abort = next(verb for verb in CONSOLE_VERBS if verb.name == "abort")
    lines = abort.effect(totals)
    assert lines[0] == "1 site keeps the new version."
    assert "2 sites are switching now and will finish." in lines
    assert "4 sites are called back before switching." in lines
