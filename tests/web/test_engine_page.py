"""A rollout's page says why not yet, who is waited for, what holds, and what may be answered."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.domain.gates import Verdict
from controlplane.domain.policy import OnFailure, StagePolicy
from controlplane.domain.rollout import DeploymentState, ResumeChoice, RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.domain.windows import DAYS
from controlplane.fleet.services import create_window
from controlplane.rollouts.approvals import record_verdict
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import Approval, Deployment, Rollout
from controlplane.rollouts.services import advance_rollout
from controlplane.rollouts.strategies import create_strategy, find_strategy
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version
from tests.fake_agent import FakeAgent
from tests.web.conftest import text_of

ASKS = StagePolicy(on_failure=OnFailure.PAUSE)


def stages_of(policy: StagePolicy, soak: float = 0) -> list[StageSpec]:
    first = StageSpec(name="first", sites=frozenset({"a"}), soak_seconds=soak, policy=policy)
    return [first, StageSpec(name="rest", soak_seconds=0)]


@pytest.fixture
def agents(now: datetime) -> list[FakeAgent]:
    return [make_joined_site(name, now=now) for name in "abc"]


@pytest.fixture
def asking(agents: list[FakeAgent], now: datetime) -> Rollout:
    """Paused by the engine: `a` failed, `b` and `c` are to come."""
    agents[0].broken.add(("vad", 1))
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, stages=stages_of(ASKS), now=now)
    agents[0].obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    rollout.refresh_from_db()
    assert rollout.pause_code == "stage-failed"
    return rollout


def path_of(rollout: Rollout, verb: str = "") -> str:
    return f"/rollouts/{rollout.pk}/{verb}"


def test_a_pause_of_the_engine_shows_its_cause_and_three_choices_with_their_effect(
    olga: Client, viktor: Client, asking: Rollout
) -> None:
    html = text_of(olga.get(path_of(asking)))
    for words in (
        "waits for a person", "The engine paused it and asks a person",
        "1 site gets another attempt, at once.",
        "1 site stays without the new version", "1 site returns to the version it had.",
    ):  # fmt: skip
        assert words in html, words
    for choice in ResumeChoice:
        assert f"/rollouts/{asking.pk}/resume/?choice={choice}" in html
    looking = text_of(viktor.get(path_of(asking)))
    assert "Somebody who may steer rollouts has to answer." in looking
    assert "?choice=" not in looking


@pytest.mark.parametrize(
    ("choice", "state"),
    [
        (ResumeChoice.RETRY, RolloutState.RUNNING),
        (ResumeChoice.ACCEPT, RolloutState.RUNNING),
        (ResumeChoice.ROLLBACK, RolloutState.ROLLING_BACK),
    ],
)
def test_resuming_then_demands_a_choice_and_a_reason(
    olga: Client, asking: Rollout, choice: ResumeChoice, state: RolloutState
) -> None:
    path = path_of(asking, "resume/")
    assert f'value="{choice}" checked' in text_of(olga.get(f"{path}?choice={choice}"))
    without = olga.post(path, {"reason": ""})
    assert without.status_code == 422
    assert set(without.context["form"].errors) == {"choice", "reason"}
    assert olga.post(path, {"choice": choice, "reason": "looked at it"}).status_code == 302
    asking.refresh_from_db()
    assert asking.state == state
    if choice is ResumeChoice.RETRY:
        html = text_of(olga.get(path_of(asking)))
        assert "1 earlier attempt: 1 failed" in html
        assert "attempt 2" in html


def test_a_page_of_before_the_engine_paused_is_told_that_a_choice_is_needed(
    olga: Client, asking: Rollout
) -> None:
    Rollout.objects.filter(pk=asking.pk).update(pause_code="")
    assert 'name="choice"' not in text_of(olga.get(path_of(asking, "resume/")))
    Rollout.objects.filter(pk=asking.pk).update(pause_code="stage-failed")
    response = olga.post(path_of(asking, "resume/"), {"reason": "go"})
    assert response.status_code == 422
    assert "Say what is to become of the cause of the pause." in text_of(response)


def test_limits_waits_and_left_places_of_a_stage_are_told(
    olga: Client, agents: list[FakeAgent], now: datetime
) -> None:
    policy = StagePolicy(retries=1, retry_after_seconds=900, on_failure=OnFailure.PAUSE)
    stages = [StageSpec(name="all", soak_seconds=0, policy=policy)]
    agents[0].broken.add(("vad", 1))
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, stages=stages, now=now)
    agents[0].obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    for name, state in (("b", DeploymentState.TIMED_OUT), ("c", DeploymentState.REJECTED)):
        Deployment.objects.filter(site__name=name).update(state=state)
    html = text_of(olga.get(path_of(rollout)))
    for words in (
        "stops at 1 failed of 2 and pauses", "1 in the penalty box", "1 timed out",
        "1 with other hardware now", "1 earlier attempt: 1 failed",
        "The first leaves the penalty box at",
    ):  # fmt: skip
        assert words in html, words


def test_a_frozen_site_is_held_with_the_reason(
    olga: Client, poll: Callable[..., Any], agents: list[FakeAgent], now: datetime
) -> None:
    rollout = make_rollout(agents=agents, stages=stages_of(ASKS), now=now)
    tag = poll(path_of(rollout))["ETag"]
    freeze_sites(selector={"sites": ["b"]}, reason="fair", until=None, actor=ACTOR, now=now)
    answer = poll(path_of(rollout), tag)
    assert answer.status_code == 200
    assert b"Held: b (frozen by user:tests since" in answer.content
    assert b'id="frozen"' in answer.content
    assert poll(path_of(rollout), answer["ETag"]).status_code == 304


def test_a_window_that_closes_is_seen_though_no_row_of_the_rollout_changes(
    poll: Callable[..., Any], agents: list[FakeAgent], now: datetime
) -> None:
    rollout = make_rollout(agents=agents, stages=stages_of(ASKS), now=now)
    tag = poll(path_of(rollout))["ETag"]
    later = now + timedelta(hours=12)
    window = {
        "name": "night", "kind": "download", "selector": {"sites": ["c"]}, "minutes": 30,
        "days": [DAYS[later.weekday()]], "start": later.time(), "timezone": "UTC",
    }  # fmt: skip
    create_window(fields=window, actor=ACTOR, now=now)
    answer = poll(path_of(rollout), tag)
    assert answer.status_code == 200
    assert "Held: c (its download window is closed until" in text_of(answer)
    assert "1 held" in text_of(answer)


def test_gates_tell_what_they_saw_and_who_said_it(
    olga: Client, poll: Callable[..., Any], agents: list[FakeAgent], now: datetime
) -> None:
    policy = StagePolicy(gates=("latency", "accuracy"))
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, stages=stages_of(policy), now=now)
    said = {
        "rollout_id": rollout.pk, "stage_name": "first", "gate": "latency", "reason": "too few",
        "evidence": {"p99_ms": 12.5}, "actor": "token:ci",
    }  # fmt: skip
    record_verdict(**said, verdict=Verdict.INCONCLUSIVE, fresh_seconds=60, now=now)  # type: ignore[arg-type]
    first = poll(path_of(rollout))
    html = text_of(first)
    for words in (
        "inconclusive", "too few", "said by token:ci", "&quot;p99_ms&quot;: 12.5",
        "has not said anything",
    ):  # fmt: skip
        assert words in html, words
    assert "out of date" not in html
    long_ago = now - timedelta(hours=1)
    record_verdict(**said, verdict=Verdict.PASS, fresh_seconds=60, now=long_ago)  # type: ignore[arg-type]
    old = poll(path_of(rollout), first["ETag"])
    assert old.status_code == 200
    assert "out of date" in text_of(old)


@pytest.fixture
def unapproved(agents: list[FakeAgent], now: datetime) -> Rollout:
    """By a strategy whose plan, and whose first stage, somebody else has to approve."""
    stages = [{"name": "first", "select": {"sites": ["a"]}, "policy": {"approval": True}}]
    create_strategy(
        document={
            "name": "four-eyes",
            "stages": [*stages, {"name": "rest"}],
            "approval": {"required": True},
        },
        actor=ACTOR,
        now=now,
    )
    rollout = make_rollout(
        version=make_version(now=now),
        agents=agents,
        stages=find_strategy("four-eyes").stages,
        now=now,
    )
    Rollout.objects.update(approval_required=True, strategy_name="four-eyes", strategy_version=1)
    rollout.refresh_from_db()
    return rollout


def test_an_approval_binds_to_the_plan_that_was_shown(olga: Client, unapproved: Rollout) -> None:
    html = text_of(olga.get(path_of(unapproved)))
    assert "waits for somebody other than tests" in html
    assert "Approve the plan" in html
    path = path_of(unapproved, "approve/")
    asked = text_of(olga.get(path))
    assert f'name="plan_digest" value="{unapproved.plan_digest}"' in asked
    other = olga.post(path, {"plan_digest": "sha256:" + "0" * 64, "reason": ""})
    assert other.status_code == 409
    assert "The approval is for another plan" in text_of(other)
    for stage in ("", "first"):
        form = {"plan_digest": unapproved.plan_digest, "stage": stage, "reason": "read it"}
        assert olga.post(path, form).status_code == 302
    assert set(Approval.objects.values_list("stage__name", flat=True)) == {None, "first"}
    after = text_of(olga.get(path_of(unapproved)))
    assert after.count("approved by user:olga") == 2
    assert "Nothing waits for an approval." in after


def test_the_one_who_started_it_cannot_approve_it(olga: Client, unapproved: Rollout) -> None:
    Rollout.objects.update(created_by="token:ci", author="olga")
    html = text_of(olga.get(path_of(unapproved)))
    assert "You started it; somebody else has to approve it." in html
    assert "Approve the plan" not in html
    form = {"plan_digest": unapproved.plan_digest, "reason": ""}
    response = olga.post(path_of(unapproved, "approve/"), form)
    assert response.status_code == 403
    assert not Approval.objects.exists()


def test_an_approval_that_ran_out_is_missing_again(
    olga: Client, poll: Callable[..., Any], unapproved: Rollout
) -> None:
    form = {"plan_digest": unapproved.plan_digest, "reason": ""}
    olga.post(path_of(unapproved, "approve/"), form)
    tag = poll(path_of(unapproved))["ETag"]
    Approval.objects.update(expires_at=timezone.now())
    answer = poll(path_of(unapproved), tag)
    assert answer.status_code == 200
    assert "Approve the plan" in text_of(answer)


def test_new_states_are_filters_with_their_words(olga: Client, now: datetime) -> None:
    agent = make_joined_site(now=now)
    make_rollout(RolloutState.SUCCEEDED, agents=[agent], now=now)
    for state, word in (
        ("succeeded_with_exceptions", "succeeded with exceptions"),
        ("superseded", "superseded"),
        ("queued", "queued"),
    ):
        Rollout.objects.update(state=state)
        html = text_of(olga.get(f"/rollouts/?state={state}"))
        assert f'<option value="{state}" selected>{word}</option>' in html
        assert f"<span>{word}</span>" in html
