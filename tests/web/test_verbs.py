"""What an operator does to a rollout: with and without script, allowed and refused."""

from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from controlplane.audit.models import Event
from controlplane.domain.rollout import VERBS, DeploymentState, RolloutState, StageState
from controlplane.domain.stages import StageSpec
from controlplane.rollouts.models import Deployment, Rollout, Stage
from controlplane.rollouts.services import advance_rollout
from controlplane.rollouts.verbs import pause_rollout
from controlplane.web.verbs import CONSOLE_VERBS, Situation, offers, why_not
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
        ("pause", ["No further site starts", "1 site is under way"]),
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


def test_who_does_not_wait_any_longer_says_why_and_is_told_what_follows(
    olga: Client, rollout: Rollout, now: datetime
) -> None:
    olga.post(path_of(rollout, "rollback"), {"reason": "p99 is up"})
    for headers in ({}, HTMX):
        html = olga.get(path_of(rollout, "stop-waiting"), headers=headers).content.decode()
        assert "The rollout ends without 2 sites that are under way." in html
        assert "each returns to the version it had when it can" in html
    assert olga.post(path_of(rollout, "stop-waiting"), {"reason": ""}).status_code == 422

    olga.post(path_of(rollout, "stop-waiting"), {"reason": "they loop"})
    advance_rollout(rollout_id=rollout.pk, now=now)
    assert state_of(rollout) == RolloutState.ROLLBACK_INCOMPLETE
    assert "not waited for 2 sites (a, b): by user:olga: they loop" in rollout.reason


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
        # Nothing but the state speaks against any of them.
        free = Situation(
            state=state,
            totals={DeploymentState.FAILED: 1},
            under_way=1,
            soaking="canary",
            missing=("",),
        )
        for verb in CONSOLE_VERBS:
            assert (why_not(verb, free) == "") == (state in VERBS[verb.name])
        for offer in offers(free, "no right"):
            assert offer.why_not == "no right"


def test_effects_count_each_deployment_once() -> None:
    totals = dict.fromkeys(DeploymentState, 1)
    abort = next(verb for verb in CONSOLE_VERBS if verb.name == "abort")
    lines = abort.effect(Situation(state=RolloutState.RUNNING, totals=totals))
    assert lines[0] == "1 site keeps the new version."
    assert "2 sites are switching now and will finish." in lines
    assert "4 sites are called back before switching." in lines


@pytest.mark.parametrize("part", ["stage", "site"])
def test_a_part_is_rolled_back_and_the_rest_goes_on(
    olga: Client, rollout: Rollout, part: str
) -> None:
    name = {"stage": "first", "site": "a"}[part]
    page = olga.get(f"/rollouts/{rollout.pk}/").content.decode()
    assert f"{path_of(rollout, 'rollback')}?{part}={name}" in page
    asked = olga.get(f"{path_of(rollout, 'rollback')}?{part}={name}").content.decode()
    count = "2 sites return to the version they" if part == "stage" else "1 site returns"
    assert count in asked
    assert "the rest of it goes on without them" in asked
    form = {part: name, "reason": "p99 is up"}
    assert olga.post(path_of(rollout, "rollback"), form).status_code == 302
    assert state_of(rollout) == RolloutState.RUNNING
    back = rollout.deployments.filter(kind="rollback").values_list("site__name", flat=True)
    assert sorted(back) == (["a", "b"] if part == "stage" else ["a"])
    after = olga.get(f"/rollouts/{rollout.pk}/").content.decode()
    assert f"{len(back)} sent back" in after


def test_a_part_that_never_got_the_version_is_not_rolled_back(
    olga: Client, rollout: Rollout
) -> None:
    waiting = olga.get(f"{path_of(rollout, 'rollback')}?site=c").content.decode()
    assert "1 site does not get the new version." in waiting
    assert "returns" not in waiting
    nobody = olga.get(f"{path_of(rollout, 'rollback')}?site=nobody").content.decode()
    assert "No site of it has this version or is to get it." in nobody
    gone = olga.post(path_of(rollout, "rollback"), {"stage": "nope", "reason": "x"})
    assert gone.status_code == 404
    assert olga.post(path_of(rollout, "rollback"), {"site": "d", "reason": "x"}).status_code == 409


def test_only_a_soaking_stage_is_promoted_and_only_with_a_reason(
    olga: Client, rollout: Rollout, now: datetime
) -> None:
    page = olga.get(f"/rollouts/{rollout.pk}/").content.decode()
    assert "Possible only while a stage soaks; none does." in page
    assert olga.post(path_of(rollout, "promote"), {"reason": "go"}).status_code == 409
    Stage.objects.filter(rollout=rollout, name="first").update(state=StageState.SOAKING)
    asked = olga.get(path_of(rollout, "promote")).content.decode()
    assert "The soak of stage first ends now" in asked
    assert olga.post(path_of(rollout, "promote"), {"reason": ""}).status_code == 422
    assert olga.post(path_of(rollout, "promote"), {"reason": "seen enough"}).status_code == 302
    assert Stage.objects.get(name="first").promoted_at is not None


def test_failed_sites_are_tried_again(olga: Client, rollout: Rollout) -> None:
    assert "No site has failed." in olga.get(f"/rollouts/{rollout.pk}/").content.decode()
    rows = Deployment.objects.filter(rollout=rollout, site__name="b")
    rows.update(state=DeploymentState.FAILED)
    asked = olga.get(path_of(rollout, "retry-failed")).content.decode()
    assert "1 site gets another attempt, at once." in asked
    assert olga.post(path_of(rollout, "retry-failed"), {"reason": ""}).status_code == 302
    assert rows.get(attempt=2).state == DeploymentState.PENDING


def test_a_site_is_rolled_back_from_the_page_of_its_stage_too(
    olga: Client, viktor: Client, rollout: Rollout
) -> None:
    path = f"/rollouts/{rollout.pk}/stages/first/"
    link = f"{path_of(rollout, 'rollback')}?site=a"
    assert link in olga.get(path).content.decode()
    assert link not in viktor.get(path).content.decode()
    olga.post(path_of(rollout, "rollback"), {"site": "a", "reason": "p99 is up"})
    assert link not in olga.get(path).content.decode()
