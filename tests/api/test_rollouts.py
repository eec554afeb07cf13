"""Rollouts for CI and scripts: start, watch, steer."""

from datetime import datetime
from typing import Any

import pytest

from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.services import advance_rollout
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent


@pytest.fixture
def edge_agent(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


STAGES = [
    {"name": "canary", "select": {"tier": "edge", "percent": 50}, "soak_seconds": 5},
    {"name": "rest"},
]


def start(api: ApiCaller, **body: object) -> Any:
    return api.post("rollouts", {"model": "vad", "version": "1", **body})


def test_a_rollout_is_started_and_read_back(
    api: ApiCaller, edge_agent: FakeAgent, now: datetime
) -> None:
    make_version(now=now)
    make_joined_site("core", tier="regional", now=now)

    response = start(api, stages=STAGES, note="first")

    assert response.status_code == 201
    document = response.json()
    assert response["Location"] == f"/api/v1/rollouts/{document['id']}"
    assert (document["model"], document["version"], document["state"]) == ("vad", "1", "planned")
    assert (document["final"], document["allowed_verbs"]) == (
        False,
        ["approve", "abort"],
    )
    assert (document["note"], document["created_by"]) == ("first", "token:ci")
    assert [
        (stage["name"], stage["index"], stage["sites"], stage["select"], stage["soak_seconds"])
        for stage in document["stages"]
    ] == [("canary", 0, 1, STAGES[0]["select"], 5), ("rest", 1, 1, {}, 60)]
    (deployment,) = document["stages"][0]["deployments"]
    assert (deployment["site"], deployment["state"], deployment["to_version"]) == (
        "edge",
        "pending",
        "1",
    )
    assert api.get(f"rollouts/{document['id']}").json() == document
    (summary,) = api.get("rollouts").json()["results"]
    assert summary == {key: document[key] for key in summary}


def test_a_rollout_that_is_over_says_so(api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(RolloutState.ROLLED_BACK, now=now)

    document = api.get(f"rollouts/{rollout.pk}").json()

    assert (document["state"], document["final"], document["allowed_verbs"]) == (
        "rolled_back",
        True,
        [],
    )
    kinds = [row["kind"] for row in document["stages"][0]["deployments"]]
    assert (sorted(kinds), document["stages"][0]["sites"]) == (["forward", "rollback"], 1)


def test_lists_can_be_narrowed(api: ApiCaller, now: datetime) -> None:
    make_rollout(RolloutState.SUCCEEDED, now=now)
    make_rollout(RolloutState.RUNNING, version=make_version("ocr", now=now), now=now)

    def models(query: str) -> list[str]:
        return [row["model"] for row in api.get(f"rollouts?{query}").json()["results"]]

    assert models("") == ["ocr", "vad"]
    assert models("model=vad") == ["vad"]
    assert models("state=running") == ["ocr"]
    assert models("state=running&model=vad") == []


def test_a_rollout_of_what_is_not_there(
    api: ApiCaller, edge_agent: FakeAgent, now: datetime
) -> None:
    refused = assert_problem(start(api), 422, "version-unknown")
    assert fields(refused) == ["version"]
    make_version(registered=False, now=now)
    assert_problem(start(api), 422, "version-not-registered")


def test_a_rollout_to_nowhere(api: ApiCaller, now: datetime) -> None:
    make_version(now=now)
    assert_problem(start(api), 422, "rollout-selects-no-site")
    refused = start(api, stages=[{"name": "a", "select": {"sites": ["none"]}}])
    assert_problem(refused, 422, "site-unknown")


def test_a_second_rollout_of_a_model_names_the_first(api: ApiCaller, now: datetime) -> None:
    first = make_rollout(RolloutState.RUNNING, now=now)
    document = assert_problem(start(api), 409, "rollout-active")
    assert document["rollout"] == first.pk


def test_bad_stages_are_named(api: ApiCaller, edge_agent: FakeAgent, now: datetime) -> None:
    make_version(now=now)
    response = start(api, stages=[{"name": "a", "select": {"percent": 0}}, {}])
    document = assert_problem(response, 422, "stage-invalid")
    assert fields(document) == ["stages[0].select.percent", "stages[1].name"]


class TestWatching:
    def test_nothing_new_is_304(self, api: ApiCaller, now: datetime) -> None:
        path = f"rollouts/{make_rollout(now=now).pk}"
        tag = api.get(path)["ETag"]

        response = api.get(path, headers={"If-None-Match": tag})

        assert (response.status_code, response.content, response["ETag"]) == (304, b"", tag)
        assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200

    def test_every_step_that_the_document_shows_changes_the_tag(
        self, api: ApiCaller, now: datetime
    ) -> None:
        agents = [make_joined_site(now=now) for _ in range(5)]
        rollout = make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=agents, now=now
        )
        path = f"rollouts/{rollout.pk}"
        seen = [api.get(path)]
        for phase in ("downloading", "staged", "proving", "succeeded"):
            agents[-1].report("vad", phase, now=now, reason="")
            advance_rollout(rollout_id=rollout.pk, now=now)
            seen.append(api.get(path))

        assert len({response.content for response in seen}) == 5
        assert len({response["ETag"] for response in seen}) == 5

    def test_a_wait_ends_at_once_when_there_is_news(self, api: ApiCaller, now: datetime) -> None:
        path = f"rollouts/{make_rollout(now=now).pk}"
        assert api.get(f"{path}?wait=30").status_code == 200
        old = {"If-None-Match": '"0"'}
        assert api.get(f"{path}?wait=30", headers=old).status_code == 200

    def test_an_unknown_rollout(self, api: ApiCaller) -> None:
        assert_problem(api.get("rollouts/404?wait=30"), 404, "rollout-unknown")


def test_the_whole_story_over_http_and_agents(
    api: ApiCaller, edge_agent: FakeAgent, now: datetime
) -> None:
    make_version(now=now)
    rollout = start(api, stages=[{"name": "all", "soak_seconds": 0}]).json()["id"]
    row = Rollout.objects.get(pk=rollout)

    settle(row, [edge_agent], now=now)

    assert api.get(f"rollouts/{rollout}").json()["state"] == "succeeded"
