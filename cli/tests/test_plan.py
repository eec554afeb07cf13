"""`waypost rollout plan`: what is shown before anything starts, and how a start is tied to it."""

import json

from conftest import Waypost
from fake_api import FakeApi, problem
from rollout_documents import story

PLAN = {
    "model": "vad",
    "version": "2",
    "plan_digest": "sha256:" + "7" * 64,
    "sites": 10,
    "bytes_to_move": 23_068_672,
    "soak_seconds": 330.0,
    "stages": [
        {"name": "canary", "select": {"percent": 10}, "soak_seconds": 300.0, "sites": ["fra-1"]},
        {"name": "rest", "select": {}, "soak_seconds": 30.0, "sites": [f"s-{n}" for n in range(9)]},
    ],
    "excluded": [{"site": "oslo-3", "reason": "no agent has joined"}],
}


def test_the_plan_names_stages_sites_and_who_is_left_out_and_starts_nothing(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.plan = PLAN

    ran = waypost("rollout", "plan", "vad", "2", "--stage", "canary percent=10 soak=5m")

    assert ran.exit_code == 0, ran.stderr
    assert fake.started == []
    assert fake.requests("POST", "rollouts")[0].body["stages"][0]["select"] == {"percent": 10}
    for shown in (
        "canary",
        "fra-1",
        "5m",
        "s-0, s-1",
        "and 1 more",
        "oslo-3",
        "no agent has joined",
    ):
        assert shown in ran.stdout
    assert "10 sites, at most 22.0 MiB to move, at least 5m30s of soak" in ran.stderr
    assert f"--expect-plan {PLAN['plan_digest']}" in ran.stderr


def test_a_plan_of_several_builds_says_how_many_sites_get_which(
    waypost: Waypost, fake: FakeApi
) -> None:
    stages = [{"name": "all", "sites": ["a"], "variants": {"trt": 2, "onnx": 7}}]
    fake.plan = {**PLAN, "stages": stages}
    assert "onnx 7, trt 2" in " ".join(waypost("rollout", "plan", "vad", "2").stdout.split())
    fake.plan = {**PLAN, "stages": [{**stages[0], "variants": {"default": 9}}]}
    assert "variants" not in waypost("rollout", "plan", "vad", "2").stdout


def test_as_json_the_plan_is_passed_on_as_it_is(waypost: Waypost, fake: FakeApi) -> None:
    fake.plan = PLAN
    ran = waypost("rollout", "plan", "vad", "2", "--output", "json")
    assert json.loads(ran.stdout) == PLAN


def test_a_start_can_be_tied_to_a_plan(waypost: Waypost, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")
    waypost("rollout", "start", "vad", "2", "--expect-plan", str(PLAN["plan_digest"]))
    assert fake.started[0]["expect_plan"] == PLAN["plan_digest"]


def test_a_plan_that_is_another_now_is_refused_with_the_reason(
    waypost: Waypost, fake: FakeApi
) -> None:
    refusal = problem(409, "plan-changed", detail="look at the plan again")
    fake.intervene("POST", "rollouts", refusal)
    ran = waypost("rollout", "start", "vad", "2", "--expect-plan", "sha256:0")
    assert ran.exit_code == 1
    assert "look at the plan again" in ran.stderr
