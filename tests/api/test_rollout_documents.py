"""What a rollout says of itself: why it waits, since when, for whom, and how each site stands."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.domain.gates import Verdict
from controlplane.domain.policy import OnFailure
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.approvals import approve_rollout, record_verdict
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.services import advance_rollout, tick
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import ACTOR, make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.steps import canary_then_rest, one_stage, start, turn

BY: dict[str, Any] = {"actor": "user:ann", "reason": "because"}


def agents_at(*names: str, now: datetime) -> list[FakeAgent]:
    return [make_joined_site(name, now=now) for name in names]


def parts_of(document: dict[str, Any], stage: int = 0) -> dict[str, dict[str, Any]]:
    return {row["site"]: row for row in document["stages"][stage]["deployments"]}


def test_a_pause_by_the_engine_says_for_whom_it_waits_and_what_may_be_chosen(
    api: ApiCaller, now: datetime
) -> None:
    (edge,) = agents_at("edge", now=now)
    version = make_version(now=now)
    edge.broken.add(("vad", version.number))
    rollout = start(version, one_stage(on_failure=OnFailure.PAUSE), now=now)
    turn(rollout, now=now)
    turn(rollout, edge, now=now)

    document = api.get(f"rollouts/{rollout.pk}").json()

    assert (document["state"], document["pause_code"]) == ("paused", "stage-failed")
    assert document["waits_for"] == "person"
    assert document["choices"] == ["retry", "accept", "rollback"]
    assert "resume with retry, accept or rollback" in document["reason"]
    stage = document["stages"][0]
    assert stage["why"] == document["reason"]
    assert stage["counts"] == {"forward": {"failed": 1}, "rollback": {}}


def test_a_pause_by_a_person_wants_no_choice(api: ApiCaller, now: datetime) -> None:
    document = api.get(f"rollouts/{make_rollout(RolloutState.PAUSED, now=now).pk}").json()
    assert (document["pause_code"], document["choices"]) == ("", [])
    assert document["waits_for"] == "person"


def test_the_stages_say_what_they_bear_in_whole_sites(api: ApiCaller, now: datetime) -> None:
    agents_at(*(f"s-{n}" for n in range(9)), now=now)
    policy = {"failures_tolerated": "20%", "max_unavailable": "50%", "on_failure": "pause"}
    make_version(now=now)
    body = {"model": "vad", "version": "1", "stages": [{"name": "all", "policy": policy}]}

    (stage,) = api.post("rollouts", body).json()["stages"]

    assert stage["policy"] == policy
    assert stage["limits"] == {
        "sites": 9,
        "max_concurrent": 9,
        "max_unavailable": 4,
        "failures_tolerated": 1,
        "successes_required": 8,
        "stale_tolerated": 0,
    }
    assert "stops at 2 failed of 9 and pauses" in stage["limit_sentences"]
    assert (stage["trailing"], stage["promoted_at"], stage["accepted_at"]) == (False, None, None)


def test_limits_are_of_the_sites_that_still_count(api: ApiCaller, now: datetime) -> None:
    agents = agents_at("a", "b", now=now)
    rollout = make_rollout(
        RolloutState.RUNNING, version=make_version(now=now), agents=agents, now=now
    )
    Deployment.objects.filter(site__name="b").update(state="deferred")

    (stage,) = api.get(f"rollouts/{rollout.pk}").json()["stages"]

    assert (stage["sites"], stage["limits"]["sites"]) == (2, 1)
    assert "stops at 1 failed of 1 and rolls back" in stage["limit_sentences"]


class TestWhy:
    """Each part that waits says in one sentence why not yet, since when and what releases it."""

    def test_before_its_stage(self, api: ApiCaller, now: datetime) -> None:
        make_joined_site("edge", now=now)
        make_joined_site("core", tier="regional", now=now)
        rollout = start(make_version(now=now), canary_then_rest(), now=now)
        turn(rollout, now=now)

        document = api.get(f"rollouts/{rollout.pk}").json()

        offered, waiting = parts_of(document)["edge"], parts_of(document, 1)["core"]
        assert offered["why"] == "offered; waiting for the site to take it up at its next poll"
        assert offered["waiting_since"] == offered["started_at"] is not None
        assert waiting["why"] == (
            "not offered yet: stage rest has not started; it starts when stage canary has passed"
        )
        rest = document["stages"][1]
        assert rest["why"] == "starts when stage canary has passed; that one is running"
        assert rest["waiting_since"]

    def test_in_a_freeze(self, api: ApiCaller, now: datetime) -> None:
        agents_at("edge", now=now)
        freeze_sites(selector={}, until=None, **BY, now=now)
        rollout = start(make_version(now=now), now=now)
        turn(rollout, now=now)

        document = api.get(f"rollouts/{rollout.pk}").json()

        assert document["waits_for"] == "person"
        assert "frozen by user:ann" in parts_of(document)["edge"]["why"]
        assert "until it is lifted" in parts_of(document)["edge"]["why"]

    def test_in_the_penalty_box(self, api: ApiCaller, now: datetime) -> None:
        (edge,) = agents_at("edge", now=now)
        version = make_version(now=now)
        edge.broken.add(("vad", version.number))
        rollout = start(version, one_stage(retries=1, retry_after_seconds=3600), now=now)
        turn(rollout, now=now)
        turn(rollout, edge, now=now)

        document = api.get(f"rollouts/{rollout.pk}").json()

        part = parts_of(document)["edge"]
        assert part["attempt"] == 2
        assert part["not_before"]
        again = f"{now + timedelta(hours=1):%Y-%m-%d %H:%M:%S} UTC"
        assert part["why"] == f"it failed before; offered again at {again}"

    def test_behind_the_concurrency_cap(self, api: ApiCaller, now: datetime) -> None:
        agents_at("a", "b", now=now)
        rollout = start(make_version(now=now), one_stage(max_concurrent=1), now=now)
        turn(rollout, now=now)
        second = parts_of(api.get(f"rollouts/{rollout.pk}").json())["b"]
        assert "other sites of stage all go first" in second["why"]

    def test_with_the_bytes_and_a_lease_it_has_not(self, api: ApiCaller, now: datetime) -> None:
        (edge,) = agents_at("edge", now=now)
        rollout = make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=[edge], now=now
        )
        edge.begin("vad", now=now)
        part = parts_of(api.get(f"rollouts/{rollout.pk}").json())["edge"]
        assert (part["state"], part["holds_lease"]) == ("activating", True)
        assert part["waiting_since"] == part["leased_at"] is not None

    def test_while_it_is_paused(self, api: ApiCaller, now: datetime) -> None:
        agents_at("a", "b", now=now)
        rollout = start(make_version(now=now), one_stage(max_concurrent=1), now=now)
        turn(rollout, now=now)
        api.post(f"rollouts/{rollout.pk}/pause", {"reason": "lunch"})
        part = parts_of(api.get(f"rollouts/{rollout.pk}").json())["b"]
        assert part["why"] == "not offered yet: paused by token:ci: lunch"

    def test_once_it_is_over_it_waits_for_nothing(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.SUCCEEDED, now=now)
        document = api.get(f"rollouts/{rollout.pk}").json()
        assert document["waits_for"] == "nothing"
        (stage,) = document["stages"]
        assert (stage["waiting_since"], stage["deployments"][0]["waiting_since"]) == (None, None)
        assert stage["deployments"][0]["why"]


def test_the_verdicts_of_gates_come_with_their_evidence(api: ApiCaller, now: datetime) -> None:
    agents_at("edge", now=now)
    rollout = start(make_version(now=now), one_stage(gates=("latency",)), now=now)
    record_verdict(
        rollout_id=rollout.pk,
        stage_name="all",
        gate="latency",
        verdict=Verdict.PASS,
        reason="p99 is 20 ms",
        evidence={"p99_ms": 20},
        fresh_seconds=600,
        actor="token:monitor",
        now=now,
    )
    (stage,) = api.get(f"rollouts/{rollout.pk}").json()["stages"]
    (verdict,) = stage["verdicts"]
    assert (verdict["gate"], verdict["verdict"]) == ("latency", "pass")
    assert (verdict["evidence"], verdict["actor"]) == ({"p99_ms": 20}, "token:monitor")
    assert verdict["fresh_until"]


def test_approvals_say_who_and_until_when(api: ApiCaller, now: datetime) -> None:
    agents_at("edge", now=now)
    strategy = StrategySpec(
        name="asked", version=3, stages=(StageSpec(name="all", soak_seconds=0),),
        approval_required=True,
    )  # fmt: skip
    rollout = start(make_version(now=now), strategy=strategy, now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    path = f"rollouts/{rollout.pk}"
    waiting = api.get(path).json()
    assert (waiting["reason_code"], waiting["waits_for"]) == ("approval-pending", "person")
    assert (waiting["strategy"], waiting["approval"]["required"]) == ("asked@3", True)

    approve_rollout(rollout_id=rollout.pk, plan_digest=rollout.plan_digest, **BY, now=now)

    (approval,) = api.get(path).json()["approvals"]
    assert (approval["by"], approval["stage"], approval["reason"]) == ("user:ann", None, "because")
    assert approval["expires_at"] > approval["at"]


def test_a_superseded_rollout_names_the_one_that_took_over(api: ApiCaller, now: datetime) -> None:
    first = make_rollout(RolloutState.RUNNING, now=now)
    second = make_version(now=now)
    body = {"model": "vad", "version": str(second.number), "on_conflict": "supersede"}

    newer = api.post("rollouts", body).json()

    assert (newer["state"], newer["waits_for"]) == ("queued", "sites")
    assert api.get(f"rollouts/{first.pk}").json()["superseded_by"] == newer["id"]


class TestSize:
    def queries(self, api: ApiCaller, path: str) -> int:
        with CaptureQueriesContext(connection) as seen:
            assert api.get(path).status_code == 200
        return len(seen)

    def rollout(self, *, sites: int, model: str, now: datetime) -> Rollout:
        agents = agents_at(*(f"{model}-{n}" for n in range(sites)), now=now)
        return make_rollout(
            RolloutState.RUNNING, version=make_version(model, now=now), agents=agents, now=now
        )

    @pytest.mark.parametrize("query", ["", "?deployments=false", "/deployments", "/events"])
    def test_a_document_costs_the_same_queries_however_many_sites(
        self, query: str, api: ApiCaller, now: datetime
    ) -> None:
        small = self.rollout(sites=1, model="small", now=now)
        large = self.rollout(sites=12, model="large", now=now)
        freeze_sites(selector={}, until=None, **BY, now=now)
        Deployment.objects.filter(site__name__contains="-0").update(state="pending")

        few = self.queries(api, f"rollouts/{small.pk}{query}")
        many = self.queries(api, f"rollouts/{large.pk}{query}")

        assert few == many

    def test_the_list_costs_the_same_queries_however_many_rollouts(
        self, api: ApiCaller, now: datetime
    ) -> None:
        self.rollout(sites=1, model="one", now=now)
        few = self.queries(api, "rollouts")
        for model in ("two", "three"):
            self.rollout(sites=1, model=model, now=now)
        assert self.queries(api, "rollouts") == few

    def test_the_sites_can_be_left_out(self, api: ApiCaller, now: datetime) -> None:
        rollout = self.rollout(sites=2, model="vad", now=now)
        whole = api.get(f"rollouts/{rollout.pk}").json()
        short = api.get(f"rollouts/{rollout.pk}?deployments=false").json()
        assert len(whole["stages"][0].pop("deployments")) == 2
        assert short == whole
        assert short["stages"][0]["counts"]["forward"] == {"offered": 2}

    def test_true_or_false_and_nothing_else(self, api: ApiCaller, now: datetime) -> None:
        response = api.get(f"rollouts/{make_rollout(now=now).pk}?deployments=no")
        assert fields(assert_problem(response, 422, "invalid-request")) == ["deployments"]


class TestDeployments:
    def test_come_in_pages_and_can_be_narrowed(self, api: ApiCaller, now: datetime) -> None:
        make_joined_site("edge", now=now)
        for name in ("core-1", "core-2"):
            make_joined_site(name, tier="regional", now=now)
        rollout = start(make_version(now=now), canary_then_rest(), now=now)
        turn(rollout, now=now)
        path = f"rollouts/{rollout.pk}/deployments"

        def sites(query: str) -> list[str]:
            return [row["site"] for row in api.get(f"{path}?{query}").json()["results"]]

        assert sites("") == ["edge", "core-1", "core-2"]
        assert sites("limit=1&offset=1") == ["core-1"]
        assert sites("stage=rest") == ["core-1", "core-2"]
        assert sites("state=offered") == ["edge"]
        assert sites("site=core-2") == ["core-2"]
        assert api.get(path).json()["results"][0]["stage"] == "canary"

    def test_older_attempts_are_shown_when_asked_for(self, api: ApiCaller, now: datetime) -> None:
        (edge,) = agents_at("edge", now=now)
        version = make_version(now=now)
        edge.broken.add(("vad", version.number))
        rollout = start(version, one_stage(retries=2), now=now)
        turn(rollout, now=now)
        turn(rollout, edge, now=now)
        path = f"rollouts/{rollout.pk}/deployments"

        def attempts(query: str) -> list[tuple[int, bool]]:
            rows = api.get(f"{path}?{query}").json()["results"]
            return [(row["attempt"], row["superseded"]) for row in rows]

        assert attempts("") == attempts("all_attempts=false") == [(2, False)]
        assert attempts("all_attempts=true") == [(1, True), (2, False)]

    @pytest.mark.parametrize("query", ["state=done", "all_attempts=1", "stage=%00", "site=%00"])
    def test_a_filter_that_can_not_be_is_refused(
        self, query: str, api: ApiCaller, now: datetime
    ) -> None:
        rollout = make_rollout(now=now)
        response = api.get(f"rollouts/{rollout.pk}/deployments?{query}")
        assert_problem(response, 422, "invalid-request")

    def test_of_an_unknown_rollout(self, api: ApiCaller) -> None:
        for what in ("deployments", "events", "replay"):
            assert_problem(api.get(f"rollouts/404/{what}"), 404, "rollout-unknown")


class TestHistory:
    def test_events_come_newest_first_in_pages(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.PAUSED, now=now)
        page = api.get(f"rollouts/{rollout.pk}/events?limit=1").json()
        (event,) = page["results"]
        assert (event["action"], event["actor"]) == ("rollout.paused", ACTOR)
        assert (event["data"]["before"], event["data"]["state"]) == ("running", "paused")
        assert event["reason"] == "the test wants it"
        seen = [event["id"]]
        while page["next"] is not None:
            page = api.get(page["next"].partition("/api/v1/")[2]).json()
            seen += [each["id"] for each in page["results"]]
        assert len(seen) > 1
        assert seen == sorted(set(seen), reverse=True)

    def test_a_verb_through_the_api_leaves_the_id_of_its_request(
        self, api: ApiCaller, now: datetime
    ) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        api.post(f"rollouts/{rollout.pk}/pause", {"reason": "lunch"})
        event = api.get(f"rollouts/{rollout.pk}/events").json()["results"][0]
        assert (event["actor"], bool(event["request_id"])) == ("token:ci", True)

    def test_a_replay_says_what_the_rows_say(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.SUCCEEDED, now=now)
        told = api.get(f"rollouts/{rollout.pk}/replay").json()
        assert (told["state"], told["stages"]) == ("succeeded", {"0": "passed"})
        assert told["deployments"][0]["state"] == "succeeded"
        assert told["differences"] == []

        Rollout.objects.filter(pk=rollout.pk).update(state="cancelled")
        assert api.get(f"rollouts/{rollout.pk}/replay").json()["differences"]


def test_every_sentence_of_a_long_story_is_there(api: ApiCaller, now: datetime) -> None:
    """Turn by turn, whatever waits says why and since when."""
    agents = agents_at("a", "b", now=now)
    version = make_version(now=now)
    agents[0].broken.add(("vad", version.number))
    stages = one_stage(
        soak_seconds=5,
        max_concurrent=1,
        retries=1,
        retry_after_seconds=5,
        on_failure=OnFailure.PAUSE,
    )
    rollout = start(version, stages, now=now)
    for _ in range(12):
        tick(now=now)
        document = api.get(f"rollouts/{rollout.pk}").json()
        assert document["reason"], document
        for stage in document["stages"]:
            assert stage["why"], stage
            assert all(row["why"] for row in stage["deployments"]), stage
        for agent in agents:
            agent.obey(now=now)
        now += timedelta(seconds=5)
    assert document["state"] == "paused"
    agents[0].broken.clear()
    api.post(f"rollouts/{rollout.pk}/resume", {"choice": "retry", "reason": "mended"})
    settle(rollout, agents, now=now)
