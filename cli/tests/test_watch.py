"""Following a rollout: deadlines, a control plane that is away, and what counts as a change."""

import pytest
from fake_api import FakeApi, Reply, problem
from rollout_documents import deployment, rollout, stage, story
from waypost_cli.api import Api
from waypost_cli.errors import ApiError, ExitCode, UnavailableError
from waypost_cli.rollout import Rollout, read_rollout
from waypost_cli.watch import Watched, changes, watch


class FakeClock:
    """Time passes only where someone sleeps."""

    def __init__(self) -> None:
        self.now_seconds = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_seconds += seconds


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failures: list[str] = []

    def changed(self, rollout: Rollout, lines: list[str], *, elapsed_seconds: float) -> None:
        self.lines += lines

    def unavailable(self, error: UnavailableError, *, elapsed_seconds: float) -> None:
        self.failures.append(error.message)


def watch_it(api: Api, notes: Notes, clock: FakeClock, timeout_seconds: float = 600) -> Watched:
    return watch(api, "1", timeout_seconds=timeout_seconds, observer=notes, clock=clock)


def test_the_deadline_is_kept_when_nothing_changes(api: Api, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")[:1]
    clock = FakeClock()

    watched = watch_it(api, Notes(), clock, timeout_seconds=40)

    assert watched.timed_out
    assert watched.exit_code is ExitCode.TIMED_OUT
    assert clock.now_seconds == pytest.approx(140)


def test_a_server_that_does_not_hold_the_request_is_asked_once_a_second(
    api: Api, fake: FakeApi
) -> None:
    fake.rollouts["1"] = story(ends="succeeded")[:1]

    watch_it(api, Notes(), FakeClock(), timeout_seconds=40)

    assert len(fake.requests("GET")) == 41


def test_the_last_request_does_not_outlast_the_deadline(api: Api, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")[:1]

    watch_it(api, Notes(), FakeClock(), timeout_seconds=30)

    waits = [int(seen.query["wait"]) for seen in fake.requests("GET") if seen.query]
    assert waits[0] == 25
    assert waits[-1] == 1
    assert waits == sorted(waits, reverse=True)


def test_each_revision_is_asked_for_by_the_etag_before(api: Api, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")

    watch_it(api, Notes(), FakeClock())

    first, *others = fake.requests("GET")
    assert "if-none-match" not in first.headers
    assert len({seen.headers["if-none-match"] for seen in others}) == 2


def test_a_control_plane_that_restarts_is_waited_for(api: Api, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")
    gateway = Reply(status=502, body=b"<html>bad gateway</html>", content_type="text/html")
    fake.intervene("GET", "rollouts", None, gateway, problem(503, "starting"))
    notes, clock = Notes(), FakeClock()

    watched = watch_it(api, notes, clock)

    assert watched.exit_code is ExitCode.OK
    assert len(notes.failures) == 2
    assert "HTTP 502 (text/html)" in notes.failures[0]
    assert clock.slept == [3.0, 3.0]


def test_a_control_plane_that_stays_away_ends_in_a_time_out_not_in_a_crash(
    api: Api, fake: FakeApi
) -> None:
    fake.rollouts["1"] = story(ends="succeeded")
    fake.intervene("GET", "rollouts", None, *[problem(503, "starting")] * 20)

    watched = watch_it(api, Notes(), FakeClock(), timeout_seconds=20)

    assert watched.timed_out
    assert watched.rollout.state == "running"


def test_a_token_that_is_revoked_while_waiting_ends_the_wait(api: Api, fake: FakeApi) -> None:
    fake.rollouts["1"] = story(ends="succeeded")
    fake.intervene("GET", "rollouts", None, problem(401, "token-invalid"))

    with pytest.raises(ApiError, match="Token invalid"):
        watch_it(api, Notes(), FakeClock())


def test_turning_back_is_followed_to_its_end(api: Api, fake: FakeApi) -> None:
    fake.rollouts["1"] = [rollout("running"), rollout("rolling_back"), rollout("rolled_back")]
    notes = Notes()

    watched = watch_it(api, notes, FakeClock())

    assert watched.rollout.state == "rolled_back"
    assert watched.exit_code is ExitCode.ROLLOUT_FAILED
    assert notes.lines == [
        "rollout 1: running", "rollout 1: rolling_back", "rollout 1: rolled_back",
    ]  # fmt: skip


def test_a_number_that_ticks_in_a_reason_is_no_change() -> None:
    before = rollout("running", stage("canary", "soaking", reason="soaked 4.5 of 30 s"))
    after = rollout("running", stage("canary", "soaking", reason="soaked 12 of 30 s"))

    assert list(changes(read_rollout(before), read_rollout(after))) == []


def test_another_phase_is_a_change_and_a_rollback_is_told_apart() -> None:
    site = deployment("edge-1", "activating", phase="proving")
    before = rollout("running", stage("canary", "running", site))
    back = deployment("edge-1", "offered", kind="rollback")
    moved = {**site, "phase": "activating"}
    after = rollout("running", stage("canary", "running", moved, back))

    assert list(changes(read_rollout(before), read_rollout(after))) == [
        "canary / edge-1: activating",
        "canary / edge-1 (rollback): offered",
    ]
