"""No site begins with a version before its lease: the loop on a clock of the test's own.

The world itself fails a test whose agent begins without a lease of this life, or too late.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from versions import Version, make_version
from waypost_agent.protocol import LeaseRefusal, ModelReport
from world import Died, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 1 serves; from here on every wish requires a lease."""
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.lease_required = True
    return world


def run_until_asked(world: World, times: int = 1, limit: int = 500) -> None:
    for _ in range(limit):
        if len(world.leases.questions) >= times:
            return
        world.cycles(1)
    raise AssertionError(f"only {len(world.leases.questions)} questions")


def report_of(world: World, model: str = "echo") -> ModelReport:
    report = world.report(model)
    assert report is not None
    return report


def loads(world: World) -> list[str]:
    return [number for _, number in world.triton.loads]


def refuse(code: str, reason: str, retry_seconds: float) -> LeaseRefusal:
    return LeaseRefusal(reason_code=code, reason=reason, retry_seconds=retry_seconds)


def test_one_lease_carries_a_version_from_its_proof_to_its_commit(world: World) -> None:
    version = make_version("2")
    world.publish(version, previous="1")
    phases: list[tuple[str, int | None]] = []
    for _ in range(100):
        world.cycles(1)
        phases.append((report_of(world).phase, report_of(world).lease))
    ((_, question),) = world.leases.questions
    assert (question.model, question.generation, question.epoch) == ("echo", 2, 1)
    assert (question.deployment, question.manifest_digest) == (1, version.digest)
    told = list(dict.fromkeys(phases))
    # `staged` shows up without a lease first; what follows names it until the outcome is there.
    assert told[-1] == ("succeeded", None)
    assert ("staged", None) in told
    assert {("proving", 17), ("activating", 17), ("verifying", 17)} <= set(told)
    assert all(lease is None for phase, lease in told if phase in ("downloading", "staged"))


def test_the_question_comes_only_when_every_byte_is_on_disk(world: World) -> None:
    world.blobs.reachable = False
    world.publish(make_version("2"), previous="1")
    world.cycles(50)
    assert world.leases.questions == []


def test_a_refused_site_says_why_in_the_centres_words_and_asks_again_when_told(
    world: World,
) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 3)
    world.cycles(1)
    report = report_of(world)
    assert (report.phase, report.reason_code) == ("staged", "max-unavailable")
    assert (report.reason, report.lease) == ("1 of 1 may change now", None)
    assert (report.serving, report.healthy) == ("1", True)
    times = [at for at, _ in world.leases.questions]
    # 15 s and the jitter at its most, and the tenth of a second that an answer takes.
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([18.1, 18.1])
    world.leases.fate = "grant"
    assert world.converge() is not None
    assert report_of(world).serving == "2"


def test_a_refusal_stays_said_while_the_next_question_is_out(world: World) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    world.cycles(1)
    before = len(world.said)
    run_until_asked(world, 5)
    assert len(world.said) == before
    assert report_of(world).reason_code == "max-unavailable"


def test_a_centre_that_says_at_once_is_not_asked_in_a_tight_loop(world: World) -> None:
    world.leases.fate = "refuse"
    world.leases.refusal = refuse("max-unavailable", "not yet", 0.001)
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 10)
    times = [at for at, _ in world.leases.questions]
    assert all(b - a >= 1.0 for a, b in itertools.pairwise(times))


def test_a_centre_that_is_away_is_asked_less_and_less_and_what_serves_goes_on(
    world: World,
) -> None:
    world.leases.fate = "lose"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 9)
    world.cycles(1)
    report = report_of(world)
    assert (report.phase, report.reason_code) == ("staged", "lease-unreachable")
    assert (report.serving, report.healthy, report.lease) == ("1", True, None)
    assert loads(world) == ["1"]
    times = [at for at, _ in world.leases.questions]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(60.1)


def test_a_lost_answer_is_asked_for_again(world: World) -> None:
    world.leases.fate = "lose"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    world.leases.fate = "grant"
    world.converge()
    assert len(world.leases.questions) == 2
    first, second = (question for _, question in world.leases.questions)
    assert replace(second, asked=first.asked) == first
    assert second.asked.uptime_seconds > first.asked.uptime_seconds
    assert report_of(world).serving == "2"


def test_a_lease_that_ran_out_before_its_step_is_not_begun_under(world: World) -> None:
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    before = len(world.passed_checkpoints)
    world.clock.now += 60.0
    world.cycles(1)
    assert (report_of(world).phase, report_of(world).lease) == ("staged", None)
    assert len(world.passed_checkpoints) == before
    world.converge()
    assert len(world.leases.questions) == 2
    assert report_of(world).serving == "2"


def test_a_lease_that_runs_out_between_the_look_and_the_step_is_not_begun_under(
    world: World,
) -> None:
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    (plan,) = world.loop.plan()
    assert type(plan.action).__name__ == "Prove"
    before = len(world.passed_checkpoints)
    world.clock.now += 60.0
    world.loop._perform(plan)
    assert len(world.passed_checkpoints) == before
    world.converge()
    assert len(world.leases.questions) == 2


def test_a_lease_that_lapses_each_time_is_asked_for_less_and_less(world: World) -> None:
    def too_long() -> None:
        world.clock.suspended_seconds += 59.95  # the answer itself takes the other tenth

    world.leases.begin_within_seconds = 60.0
    world.publish(make_version("2"), previous="1")
    world.leases.after_grant = too_long
    run_until_asked(world, 6)
    world.cycles(1)
    assert report_of(world).reason_code == "lease-lapsed"
    times = [at for at, _ in world.leases.questions]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 1.0
    assert loads(world) == ["1"]


def test_the_time_counts_from_before_the_question_was_sent(world: World) -> None:
    world.leases.answer_seconds = 61.0
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 2)
    world.cycles(1)
    assert report_of(world).reason_code == "lease-lapsed"
    assert loads(world) == ["1"]
    world.leases.answer_seconds = 50.0
    world.converge()
    assert report_of(world).serving == "2"


def test_time_that_a_machine_sleeps_through_counts(world: World) -> None:
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    world.clock.suspended_seconds += 61.0  # monotonic clocks do not see it
    world.cycles(1)
    assert loads(world) == ["1"]
    world.converge()
    assert len(world.leases.questions) == 2


def test_what_began_in_time_goes_on_to_its_end_however_long_that_takes(world: World) -> None:
    world.leases.begin_within_seconds = 10.0
    world.publish(make_version("2", load_seconds=50.0), previous="1")
    world.converge()
    assert report_of(world).serving == "2"
    assert len(world.leases.questions) == 1


def test_a_restart_voids_the_lease(world: World) -> None:
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    world.start()
    world.poll()
    world.cycles(1)
    assert report_of(world).lease is None
    world.converge()
    assert len(world.leases.questions) == 2
    assert report_of(world).serving == "2"


def test_a_newer_wish_voids_the_lease_also_for_the_same_version(world: World) -> None:
    version = make_version("2")
    world.publish(version, previous="1")
    run_until_asked(world)
    world.publish(version, previous="1")
    world.converge()
    assert [question.generation for _, question in world.leases.questions] == [2, 3]


@pytest.mark.parametrize("fate", ["die asking", "die granted"])
def test_killed_before_or_after_the_answer_it_asks_again_and_converges(
    world: World, fate: str
) -> None:
    world.leases.fate = fate
    world.publish(make_version("2"), previous="1")
    disk_before = world.record()
    run_until_asked(world)
    assert world.record() == disk_before
    world.converge()
    assert len(world.leases.questions) == 2
    assert (report_of(world).phase, report_of(world).serving) == ("succeeded", "2")


def test_killed_at_any_step_it_converges_under_leases(world: World) -> None:
    for number, die_after in enumerate(range(1, 22), start=2):
        world.publish(make_version(str(number)), previous=str(number - 1))
        world.cycles(40, die_after=die_after)
        world.converge()
        assert world.triton.ready("echo") == {str(number)}


def test_a_version_proven_before_a_restart_needs_a_lease_for_its_switch(world: World) -> None:
    def die(name: str) -> None:
        if name == "proven-journaled":
            world.at_checkpoint = lambda name: None
            raise Died

    world.at_checkpoint = die
    world.publish(make_version("2"), previous="1")
    while "proven-journaled" not in world.passed_checkpoints[30:]:
        world.cycles(1)
    world.leases.fate = "refuse"
    world.cycles(10)
    assert (report_of(world).phase, report_of(world).serving) == ("staged", "1")
    assert loads(world) == ["1"]
    world.leases.fate = "grant"
    world.converge()
    assert report_of(world).serving == "2"


def test_a_server_that_comes_back_empty_gets_the_committed_version_without_a_lease(
    world: World,
) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    world.triton.restart()
    world.cycles(10)
    assert world.triton.ready("echo") == {"1"}


def test_a_settled_version_is_restored_without_a_lease(world: World) -> None:
    world.publish(make_version("2"), previous="1")
    world.converge()
    world.leases.fate = "lose"
    world.triton.restart()
    world.start()
    world.cycles(20)
    assert world.triton.ready("echo") == {"2"}
    assert len(world.leases.questions) == 1


def test_a_lease_is_over_with_the_outcome(world: World) -> None:
    world.publish(make_version("2"), previous="1")
    world.converge()
    told = len(world.said)
    world.triton.restart()
    world.cycles(20)
    later = [report for reports in world.said[told:] for report in reports]
    assert {report.phase for report in later} >= {"activating", "verifying"}
    assert {report.lease for report in later} == {None}


def test_a_version_that_fails_when_served_is_taken_back_without_a_lease(world: World) -> None:
    world.publish(make_version("2", wrong_when_real=True), previous="1")
    while "switched" not in world.passed_checkpoints[20:]:
        world.cycles(1)
    world.leases.fate = "lose"
    world.start()
    world.poll()
    world.converge()
    assert (report_of(world).phase, report_of(world).serving) == ("failed", "1")
    assert len(world.leases.questions) == 1
    assert report_of(world).lease is None


def test_a_rollback_that_requires_no_lease_asks_for_none(world: World) -> None:
    world.publish(make_version("2"), previous="1")
    world.converge()
    world.leases.fate = "lose"
    world.publish(make_version("1"), previous="2", lease_required=False)
    world.converge()
    assert report_of(world).serving == "1"
    assert len(world.leases.questions) == 1


def test_a_switch_that_a_restart_forgot_is_called_activating_until_it_shows(world: World) -> None:
    world.publish(make_version("2", load_seconds=4.0), previous="1")
    while "proven-journaled" not in world.passed_checkpoints[20:]:
        world.cycles(1)
    world.clock.while_asleep = _die
    world.cycles(5)  # the agent dies inside the load of the real model
    world.clock.while_asleep = lambda: None
    world.triton.models["echo"]["2"].until = world.clock.now + 3.0
    world.leases.fate = "refuse"
    world.cycles(1)
    report = report_of(world)
    assert world.triton.models["echo"]["2"].state == "LOADING"
    # Not a phase from before the switch: the centre would take the slot for free.
    assert (report.phase, report.lease) == ("activating", None)
    world.converge()
    assert report_of(world).serving == "2"


def _die() -> None:
    raise Died


def test_another_models_question_waits_until_the_step_under_a_lease_is_done(world: World) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("1", model="other"), model="other")
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 2)
    asked = len(world.leases.questions)
    passed = len(world.passed_checkpoints)
    world.leases.fate = "grant"
    world.clock.now += 60.0
    steps: list[list[str]] = []
    world.leases.after_grant = lambda: steps.append(world.passed_checkpoints[passed:])
    world.converge()
    assert {question.model for _, question in world.leases.questions[asked:]} == {"echo", "other"}
    first, second = steps
    assert first == []
    assert "committed" in second


def test_a_long_download_does_not_keep_another_model_from_its_turn(world: World) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    asked_in_between: list[int] = []
    pieces = 0

    def time_passes() -> None:
        nonlocal pieces
        pieces += 1
        world.clock.now += 6.0
        asked_in_between.append(len(world.leases.questions))
        if pieces == 40:
            world.leases.fate = "grant"

    world.blobs.between_pieces = time_passes
    big: Version = make_version("1", model="big", extra={"data": bytes(80_000)})
    world.publish(big, model="big")
    world.converge()
    # Refusals cut nothing: until the grant the download ran on in one piece.
    assert asked_in_between[38] > 5
    assert min(offset for _, offset in world.blobs.opened if offset) >= 39_000
    assert world.triton.loads.index(("echo", "2")) < world.triton.loads.index(("big", "1"))


def test_an_old_wish_is_not_asked_for_in_a_loop_and_a_newer_one_at_once(world: World) -> None:
    world.leases.fate = "superseded"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 4)
    world.cycles(1)
    assert (report_of(world).phase, report_of(world).reason_code) == ("staged", "wish-superseded")
    times = [at for at, _ in world.leases.questions]
    assert all(b - a >= 1.0 for a, b in itertools.pairwise(times))
    world.leases.fate = "grant"
    before = world.clock.now
    world.publish(make_version("3"), previous="1")
    run_until_asked(world, 5)
    assert world.clock.now - before < 1.0


def test_a_centre_that_names_a_time_is_not_asked_before_it(world: World) -> None:
    world.leases.fate = "busy"
    world.publish(make_version("2"), previous="1")
    run_until_asked(world, 3)
    times = [at for at, _ in world.leases.questions]
    assert all(b - a >= 300.0 for a, b in itertools.pairwise(times))


def test_nothing_begins_in_the_last_seconds_of_a_lease(world: World) -> None:
    """Else a report made right after its end could say "not begun" of what has just begun."""
    world.publish(make_version("2"), previous="1")
    run_until_asked(world)
    world.clock.suspended_seconds += 57.0
    world.cycles(1)
    assert loads(world) == ["1"]
    world.converge()
    assert len(world.leases.questions) == 2
