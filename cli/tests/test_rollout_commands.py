"""`waypost rollout`: what is sent, what is shown, and which exit code a job sees."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import Waypost
from fake_api import FakeApi, problem
from rollout_documents import deployment, rollout, stage, story

OUTCOMES = [
    ("succeeded", 0),
    ("rolled_back", 2),
    ("rollback_incomplete", 2),
    ("cancelled", 2),
    ("paused", 4),
]


def test_a_rollout_is_started_with_the_stages_given(waypost: Waypost, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")

    ran = waypost(
        "rollout", "start", "vad", "2", "--stage", "canary tier=edge soak=30s", "--stage", "rest",
        "--note", "faster",
    )  # fmt: skip

    assert ran.exit_code == 0, ran.stderr
    assert fake.started == [
        {
            "model": "vad",
            "version": "2",
            "note": "faster",
            "stages": [
                {"name": "canary", "select": {"tier": "edge"}, "soak_seconds": 30},
                {"name": "rest", "select": {}, "soak_seconds": 60},
            ],
        }
    ]
    assert "rollout 1: vad version 2" in ran.stdout


def test_without_stages_the_plan_is_left_to_the_control_plane(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.rollouts["1"] = story(ends="succeeded")

    waypost("rollout", "start", "vad", "2")

    assert fake.started == [{"model": "vad", "version": "2"}]


def test_stages_may_come_from_a_file(waypost: Waypost, fake: FakeApi, tmp_path: Path) -> None:
    fake.rollouts["1"] = story(ends="succeeded")
    stages = [{"name": "canary", "select": {"percent": 10}}]
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(stages))

    waypost("rollout", "start", "vad", "2", "--stages", str(path))

    assert fake.started[0]["stages"] == stages


@pytest.mark.parametrize(("state", "exit_code"), OUTCOMES)
def test_waiting_ends_with_the_exit_code_of_the_outcome(
    waypost: Waypost, fake: FakeApi, state: str, exit_code: int
) -> None:
    fake.rollouts["1"] = story(ends=state)

    ran = waypost("rollout", "start", "vad", "2", "--wait", "--output", "json")

    assert ran.exit_code == exit_code
    assert json.loads(ran.stdout)["state"] == state


@pytest.mark.parametrize(("state", "exit_code"), [*OUTCOMES, ("running", 0), ("rolling_back", 2)])
def test_status_tells_what_the_state_means_by_its_exit_code(
    waypost: Waypost, fake: FakeApi, state: str, exit_code: int
) -> None:
    fake.rollouts["1"] = [rollout(state)]

    ran = waypost("rollout", "status", "1", "--output", "json")

    assert ran.exit_code == exit_code
    assert json.loads(ran.stdout) == rollout(state)


def test_waiting_writes_a_line_for_each_change_with_its_reason(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.rollouts["1"] = story(ends="succeeded")

    ran = waypost("rollout", "wait", "1")

    lines = [line.split("] ", 1)[1] for line in ran.stderr.splitlines()]
    assert lines == [
        "canary / edge-1: offered",
        "stage canary: running",
        "rollout 1: running",
        "canary / edge-1: verifying - replaying 2",
        "canary / edge-1: succeeded",
        "stage canary: passed",
        "rollout 1: succeeded - all sites of every stage serve version 2",
    ]
    assert "edge-1" in ran.stdout


def test_a_wait_that_takes_too_long_ends_with_3_and_says_how_to_go_on(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.rollouts["1"] = story(ends="succeeded")[:1]

    ran = waypost("rollout", "wait", "1", "--timeout", "1s", "--output", "junit")

    assert ran.exit_code == 3
    assert "not ended within 1s; the rollout goes on: waypost rollout wait 1" in ran.stderr
    assert ElementTree.fromstring(ran.stdout).find(".//error[@message='offered']") is not None


def test_a_pause_that_asks_for_a_choice_names_the_verbs(waypost: Waypost, fake: FakeApi) -> None:
    verbs = ["resume", "rollback"]
    fake.rollouts["1"] = [rollout("paused", reason="too few requests", allowed_verbs=verbs)]

    ran = waypost("rollout", "status", "1")

    assert ran.exit_code == 4
    assert "waits for a person; allowed now: resume, rollback" in ran.stderr
    assert "too few requests" in ran.stdout


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "rollback"])
def test_an_order_is_sent_with_its_reason(waypost: Waypost, fake: FakeApi, verb: str) -> None:
    fake.rollouts["1"] = [rollout("running")]

    ran = waypost("rollout", verb, "1", "--reason", "wrong answers in Oslo", "-o", "json")

    assert ran.exit_code == 0
    assert fake.told == [("1", verb, {"reason": "wrong answers in Oslo"})]
    assert json.loads(ran.stdout)["id"] == 1


@pytest.mark.parametrize("verb", ["abort", "rollback"])
def test_stopping_and_going_back_need_a_reason(waypost: Waypost, fake: FakeApi, verb: str) -> None:
    ran = waypost("rollout", verb, "1")

    assert ran.exit_code == 1
    assert "--reason" in ran.stderr
    assert fake.seen == []


def test_an_order_that_is_not_allowed_names_those_that_are(waypost: Waypost, fake: FakeApi) -> None:
    refusal = problem(409, "verb-not-allowed", allowed_verbs=["abort", "rollback"])
    fake.intervene("POST", "resume", refusal)

    ran = waypost("rollout", "resume", "1")

    assert ran.exit_code == 1
    assert "cure: allowed now: abort, rollback" in ran.stderr


def test_a_rollout_in_the_way_is_named(waypost: Waypost, fake: FakeApi) -> None:
    fake.intervene("POST", "rollouts", problem(409, "rollout-active", rollout=41))

    ran = waypost("rollout", "start", "vad", "2", "--wait")

    assert ran.exit_code == 1
    assert "waypost rollout status 41" in ran.stderr


def test_a_start_is_never_sent_twice(waypost: Waypost, fake: FakeApi) -> None:
    fake.intervene("POST", "rollouts", problem(503, "busy"), problem(503, "busy"))

    ran = waypost("rollout", "start", "vad", "2")

    assert ran.exit_code == 1
    assert len(fake.requests("POST", "rollouts")) == 1


def test_the_list_follows_pages_up_to_its_limit_and_stays_on_its_server(
    waypost: Waypost, fake: FakeApi
) -> None:
    for number in range(1, 8):
        model = "asr" if number == 4 else "vad"
        fake.rollouts[str(number)] = [rollout("succeeded", id=number, model=model)]

    ran = waypost("rollout", "list", "--model", "vad", "--limit", "5", "--output", "json")

    assert [r["id"] for r in json.loads(ran.stdout)] == [1, 2, 3, 5, 6]
    assert all(seen.query["model"] == "vad" for seen in fake.requests("GET"))


def test_the_table_shows_what_was_sent_and_no_markup(waypost: Waypost, fake: FakeApi) -> None:
    reason = "[red]\x1b]0;title\x07 golden answer differs"
    site = deployment("edge-1", "failed", reason=reason)
    fake.rollouts["1"] = [
        rollout("rolled_back", stage("canary", "failed", site), excluded=[
            {"site": "far", "reason": "offline for 3 days"}
        ])
    ]  # fmt: skip

    ran = waypost("rollout", "status", "1")

    assert "[red] ]0;title  golden answer differs" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert "offline for 3 days" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start", "vad", "2", "--output", "junit"], "add --wait"),
        (["start", "vad", "2", "--timeout", "soon"], "'soon' is not a duration"),
        (["start", "vad", "2", "--stage", "canary teir=edge"], "unknown key 'teir'"),
        (["start", "vad"], "Missing argument"),
        (["list", "--output", "junit"], "--output junit is not for this command"),
        (["status", "vad"], "'vad' is not the number of a rollout"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_mistake_in_the_call_ends_with_1_and_sends_nothing(
    waypost: Waypost, fake: FakeApi, arguments: list[str], says: str
) -> None:
    ran = waypost("rollout", *arguments)

    assert ran.exit_code == 1
    assert says in ran.stderr
    assert ran.stdout == ""
    assert fake.seen == []


def test_a_site_that_was_taken_back_is_shown_so(waypost: Waypost, fake: FakeApi) -> None:
    sites = [
        deployment("edge-1", "failed"),
        deployment("edge-1", "succeeded", kind="rollback", from_version="2", to_version="1"),
    ]
    fake.rollouts["1"] = [rollout("rolled_back", stage("canary", "failed", *sites, sites=1))]

    ran = waypost("rollout", "status", "1")

    assert "0/1" in ran.stdout
    assert "succeeded (rollback)" in ran.stdout


def test_an_unknown_rollout_is_an_error_not_an_outcome(waypost: Waypost) -> None:
    ran = waypost("rollout", "wait", "9")

    assert ran.exit_code == 1
    assert "code rollout-unknown" in ran.stderr
