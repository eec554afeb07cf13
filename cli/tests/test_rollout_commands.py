"""`waypost rollout`: what is sent, what is shown, and which exit code a job sees."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import Waypost
from fake_api import FakeApi, Reply, problem
from rollout_documents import deployment, rollout, stage, story

OUTCOMES = [
    ("succeeded", 0),
    ("rolled_back", 2),
    ("rollback_incomplete", 2),
    ("cancelled", 2),
    ("superseded", 2),
    ("succeeded_with_exceptions", 0),
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
    assert ran.stderr.splitlines() == [
        "rollout 1 waits for a person: too few requests; allowed now: resume, rollback"
    ]
    assert "too few requests" in ran.stdout


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "stop-waiting", "rollback"])
def test_an_order_is_sent_with_its_reason(waypost: Waypost, fake: FakeApi, verb: str) -> None:
    fake.rollouts["1"] = [rollout("running")]

    ran = waypost("rollout", verb, "1", "--reason", "wrong answers in Oslo", "-o", "json")

    assert ran.exit_code == 0
    assert fake.told == [("1", verb, {"reason": "wrong answers in Oslo"})]
    assert json.loads(ran.stdout)["id"] == 1


@pytest.mark.parametrize("verb", ["abort", "stop-waiting", "rollback"])
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


def test_a_start_that_is_sent_again_is_the_same_call(waypost: Waypost, fake: FakeApi) -> None:
    fake.rollouts["1"] = [rollout("running")]
    busy = Reply(status=503, body=b"", content_type="text/plain", headers={"Retry-After": "0"})
    fake.intervene("POST", "rollouts", busy)

    for _ in range(2):
        ran = waypost("rollout", "start", "vad", "2")
        assert ran.exit_code == 0, ran.stderr

    keys = [seen.headers["idempotency-key"] for seen in fake.requests("POST", "rollouts")]
    assert keys[0] == keys[1] != keys[2]
    assert all(len(key) >= 32 for key in keys)


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


class TestAsking:
    """Every option of a start is an option of its plan, and both send the same."""

    OPTIONS = (
        "--strategy", "edge-first@2", "--exclude-site", "oslo", "--exclude-site", "rome",
        "--barrier", "--start-at", "2026-12-01T22:00:00+01:00", "--on-conflict", "supersede",
    )  # fmt: skip

    def test_what_is_asked_for_is_sent(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.rollouts["1"] = [rollout("queued")]
        asked = {
            "model": "vad",
            "version": "2",
            "strategy": "edge-first@2",
            "exclude": {"sites": ["oslo", "rome"]},
            "barrier": True,
            "start_at": "2026-12-01T22:00:00+01:00",
            "on_conflict": "supersede",
        }

        ran = waypost("rollout", "start", "vad", "2", *self.OPTIONS)
        waypost("rollout", "plan", "vad", "2", *self.OPTIONS)

        assert "rollout 1 of vad version 2 waits in the queue" in ran.stderr
        assert fake.started == [asked]
        assert fake.requests("POST", "rollouts")[1].body == asked

    def test_a_barrier_of_the_strategy_can_be_left_out(
        self, waypost: Waypost, fake: FakeApi
    ) -> None:
        fake.rollouts["1"] = [rollout("planned")]
        waypost("rollout", "start", "vad", "2", "--strategy", "stage-everywhere", "--no-barrier")
        assert fake.started[0]["barrier"] is False

    def test_labels_to_leave_out_are_those_of_one_site(
        self, waypost: Waypost, fake: FakeApi
    ) -> None:
        fake.rollouts["1"] = [rollout("planned")]
        labels = ("--exclude-label", "ring=0", "--exclude-label", "rack=a")
        waypost("rollout", "start", "vad", "2", *labels)
        assert fake.started[0]["exclude"] == {"labels": {"ring": "0", "rack": "a"}}

    def test_policies_come_from_a_file(
        self, waypost: Waypost, fake: FakeApi, tmp_path: Path
    ) -> None:
        fake.rollouts["1"] = [rollout("planned")]
        stages = [{"name": "all", "policy": {"max_unavailable": "10%"}, "trailing": True}]
        path = tmp_path / "stages.json"
        path.write_text(json.dumps(stages))
        waypost("rollout", "start", "vad", "2", "--stages-file", str(path))
        assert fake.started[0]["stages"] == stages

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--strategy", "canary", "--stage", "all"], "--strategy and stages are both given"),
            (["--exclude-site", "a", "--exclude-label", "b=c"], "are both given"),
            (["--exclude-label", "b"], "is not key=value"),
            (["--on-conflict", "fight"], "fight"),
        ],
    )
    def test_what_contradicts_itself_is_not_sent(
        self, waypost: Waypost, fake: FakeApi, options: list[str], says: str
    ) -> None:
        for command in ("plan", "start"):
            ran = waypost("rollout", command, "vad", "2", *options)
            assert ran.exit_code == 1
            assert says in ran.stderr
        assert fake.seen == []


class TestVerbs:
    @pytest.mark.parametrize(
        ("arguments", "verb", "body"),
        [
            (
                ["resume", "1", "--choice", "accept", "--reason", "known"],
                "resume",
                {"choice": "accept", "reason": "known"},
            ),
            (["promote", "1", "--reason", "fine"], "promote", {"reason": "fine"}),
            (["retry-failed", "1"], "retry-failed", {}),
            (
                ["rollback", "1", "--reason", "noisy", "--stage", "canary"],
                "rollback",
                {"stage": "canary", "reason": "noisy"},
            ),
            (
                ["rollback", "1", "--reason", "noisy", "--site", "oslo"],
                "rollback",
                {"site": "oslo", "reason": "noisy"},
            ),
            (
                ["approve", "1", "--plan", "sha256:7", "--stage", "rest"],
                "approve",
                {"plan_digest": "sha256:7", "stage": "rest"},
            ),
        ],
    )
    def test_an_order_is_sent_as_it_was_given(
        self,
        waypost: Waypost,
        fake: FakeApi,
        arguments: list[str],
        verb: str,
        body: dict[str, str],
    ) -> None:
        fake.rollouts["1"] = [rollout("running")]
        ran = waypost("rollout", *arguments)
        assert ran.exit_code == 0, ran.stderr
        assert fake.told == [("1", verb, body)]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["promote", "1"], "--reason"),
            (["approve", "1"], "--plan"),
            (["resume", "1", "--choice", "ignore"], "ignore"),
        ],
    )
    def test_an_order_that_is_not_whole_is_not_sent(
        self, waypost: Waypost, fake: FakeApi, arguments: list[str], says: str
    ) -> None:
        ran = waypost("rollout", *arguments)
        assert ran.exit_code == 1
        assert says in ran.stderr
        assert fake.seen == []

    @pytest.mark.parametrize(
        ("verb", "refusal", "cure"),
        [
            (
                "resume",
                problem(409, "choice-required", choices=["retry", "accept"]),
                "add --choice with one of retry, accept, and --reason",
            ),
            ("approve", problem(409, "plan-changed"), "look at the plan again"),
            ("approve", problem(403, "approver-is-author"), "use one that has the scope"),
            ("rollback", problem(403, "frozen"), "lift the freeze"),
            ("promote", problem(409, "nothing-soaks", detail="No stage is soaking"), ""),
            ("abort", problem(409, "verb-not-allowed", allowed_verbs=[]), "the rollout has ended"),
        ],
    )
    def test_a_refusal_says_what_would_help(
        self, waypost: Waypost, fake: FakeApi, verb: str, refusal: Reply, cure: str
    ) -> None:
        fake.intervene("POST", verb, refusal)
        plan = ["--plan", "sha256:7"] if verb == "approve" else []
        ran = waypost("rollout", verb, "1", "--reason", "x", *plan)
        assert ran.exit_code == 1
        assert cure in ran.stderr


class TestBadInput:
    """What the control plane refuses is told field by field, and is exit code 1: no outcome."""

    @pytest.mark.parametrize(
        ("code", "status", "field", "message"),
        [
            ("stage-invalid", 422, "stages[0].policy.failures_tolerated", "could never trip"),
            ("stage-invalid", 422, "stages[1].select.sites", "is named by stage 'a' already"),
            ("rollout-selects-no-site", 422, "stages", "no site is left"),
            ("strategy-unknown", 422, "strategy", "There is no strategy 'x' in use."),
            ("start-in-the-past", 422, "start_at", "must be in the future"),
            ("version-quarantined", 422, "version", "is quarantined"),
            ("exclude-invalid", 422, "exclude.sites", "must be a list of site names"),
        ],
    )
    @pytest.mark.parametrize("command", ["plan", "start"])
    def test_of_a_plan(
        self,
        waypost: Waypost,
        fake: FakeApi,
        command: str,
        code: str,
        status: int,
        field: str,
        message: str,
    ) -> None:
        errors = [{"field": field, "message": message}]
        fake.intervene("POST", "rollouts", problem(status, code, errors=errors))

        ran = waypost("rollout", command, "vad", "2")

        assert ran.exit_code == 1
        assert f"{field}: {message}" in ran.stderr
        assert f"code {code}" in ran.stderr
        assert ran.stdout == ""

    def test_a_site_deleted_while_it_activates_is_shown_as_removed(
        self, waypost: Waypost, fake: FakeApi
    ) -> None:
        gone = deployment("oslo", "removed", why="the site was retired")
        fake.rollouts["1"] = [rollout("running", stage("all", "running", gone))]
        ran = waypost("rollout", "status", "1")
        assert ran.exit_code == 0
        assert "removed" in ran.stdout
        assert "the site was retired" in ran.stdout


class TestStanding:
    """`status` says in one sentence why not yet, since when, and what would release it."""

    def stands(self, waypost: Waypost, fake: FakeApi, state: str, **members: object) -> str:
        fake.rollouts["1"] = [rollout(state, waiting_since="2026-11-23T13:00:00Z", **members)]
        ran = waypost("rollout", "status", "1")
        (sentence,) = ran.stderr.splitlines()
        return sentence

    def test_for_time_or_sites(self, waypost: Waypost, fake: FakeApi) -> None:
        reason = "stage all: 1 of 4 verified; waiting for oslo"
        sentence = self.stands(waypost, fake, "running", waits_for="sites", reason=reason)
        assert sentence == f"rollout 1 waits for its sites since 2026-11-23 13:00 UTC: {reason}"

    def test_for_a_choice(self, waypost: Waypost, fake: FakeApi) -> None:
        sentence = self.stands(
            waypost, fake, "paused", waits_for="person", pause_code="stage-failed",
            reason="1 of 4 failed", choices=["retry", "accept"], allowed_verbs=["resume"],
        )  # fmt: skip
        assert sentence == (
            "rollout 1 waits for a person since 2026-11-23 13:00 UTC: 1 of 4 failed; allowed now:"
            " resume; resume wants --choice retry, accept"
        )

    def test_for_an_approval(self, waypost: Waypost, fake: FakeApi) -> None:
        sentence = self.stands(
            waypost, fake, "planned", waits_for="person", reason_code="approval-pending",
            reason="the plan waits for an approval", plan_digest="sha256:7",
        )  # fmt: skip
        assert sentence.endswith("; waypost rollout approve 1 --plan sha256:7")

    def test_of_one_that_was_superseded(self, waypost: Waypost, fake: FakeApi) -> None:
        fake.rollouts["1"] = [rollout("superseded", superseded_by=4)]
        ran = waypost("rollout", "status", "1")
        assert (ran.exit_code, ran.stderr) == (2, "rollout 4 takes the place of rollout 1\n")

    def test_a_success_with_exceptions_is_one_with_a_warning(
        self, waypost: Waypost, fake: FakeApi
    ) -> None:
        reason = "verified at 9 sites; not at 1 site"
        fake.rollouts["1"] = [rollout("succeeded_with_exceptions", reason=reason)]
        for form in ("table", "json", "junit"):
            ran = waypost("rollout", "wait", "1", "-o", form)
            assert ran.exit_code == 0
            assert f"warning: rollout 1 has succeeded with exceptions: {reason}" in ran.stderr


def test_a_wait_ends_at_once_with_4_when_an_approval_is_needed(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.rollouts["1"] = [
        rollout("planned", waits_for="engine"),
        rollout("planned", waits_for="person", reason_code="approval-pending"),
    ]
    ran = waypost("rollout", "start", "vad", "2", "--strategy", "asked", "--wait")
    assert ran.exit_code == 4
    assert "waits for a person" in ran.stderr


def test_a_second_try_is_shown_with_what_it_waits_for(waypost: Waypost, fake: FakeApi) -> None:
    site = deployment(
        "oslo", "pending", attempt=2, why="it failed before; offered again at 14:00",
        waiting_since="2026-11-23T13:00:00Z",
    )  # fmt: skip
    fake.rollouts["1"] = [rollout("running", stage("all", "running", site, why="2 of 3 verified"))]
    shown = waypost("rollout", "status", "1").stdout
    for words in ("pending, try 2", "it failed before", "11-23 13:00", "2 of 3 verified"):
        assert words in shown


def test_what_happened_is_listed_newest_first(waypost: Waypost, fake: FakeApi) -> None:
    actions = ("rollout.paused", "rollout.started", "rollout.created")
    fake.lists["rollouts/1/events"] = [
        {"at": "13:00", "actor": "user:ann", "action": action, "reason": "lunch"}
        for action in actions
    ]
    ran = waypost("rollout", "events", "1", "--limit", "2")
    assert ran.stdout.index("rollout.paused") < ran.stdout.index("rollout.started")
    assert "rollout.created" not in ran.stdout
    assert "user:ann" in ran.stdout
