"""A version on probation: it answers users, its requests are counted, a breach takes it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from versions import make_version
from waypost_agent.journal import Journal
from waypost_agent.probation import Counts, Probation, breach_of, parse_probation
from waypost_agent.protocol import ModelReport
from waypost_agent.triton_metrics import ModelCounts, Scrape
from world import World

RULES = {"seconds": 60, "max_error_rate": 0.05, "min_requests": 20, "max_mean_latency_ms": 250}
TRIED = {"probation": RULES}


def counts(succeeded: int = 0, failed: int = 0, mean_ms: float = 1.0) -> Counts:
    return Counts(succeeded=succeeded, failed=failed, request_us=int(succeeded * mean_ms * 1000))


BREACHES = [
    ("nothing asked", counts(), ""),
    ("too few to judge", counts(0, 19), ""),
    ("just enough, all failed", counts(0, 20), "20 of 20 requests failed (100.0%), at most 5.0%"),
    ("as many as may", counts(95, 5), ""),
    ("one more", counts(94, 6), "6 of 100 requests failed (6.0%), at most 5.0% may"),
    ("as slow as may be", counts(20, mean_ms=250), ""),
    ("slower", counts(20, mean_ms=251), "20 requests took 251.0 ms on average, at most 250 ms"),
]


@pytest.mark.parametrize(("seen", "said"), [c[1:] for c in BREACHES], ids=[c[0] for c in BREACHES])
def test_a_bound_is_broken_when(seen: Counts, said: str) -> None:
    breach = breach_of(parse_probation(RULES), seen)
    assert breach.startswith(said)
    assert bool(breach) is bool(said)


def test_a_bound_that_is_not_given_is_not_judged() -> None:
    rules = Probation(seconds=60)
    assert breach_of(rules, counts(0, 1000)) == ""
    assert breach_of(rules, counts(1000, mean_ms=10_000)) == ""


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"seconds": -1},
        {"seconds": "60"},
        {"seconds": True},
        {"seconds": 86_401},
        {**RULES, "max_error_rate": 1.1},
        {**RULES, "max_error_rate": "5%"},
        {**RULES, "min_requests": 0},
        {**RULES, "min_requests": 1.5},
        {**RULES, "max_mean_latency_ms": -1},
    ],
)
def test_rules_that_make_no_sense_are_refused(document: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_probation(document)


def test_rules_go_to_the_journal_and_back() -> None:
    rules = parse_probation({**RULES, "of_a_newer_centre": 5})
    assert parse_probation(rules.document()) == rules
    assert rules.document() == RULES


# In the loop


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 1 serves; version 2 answers users and is on probation."""
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.lease_required = True
    counted(world)
    world.publish(make_version("2"), previous="1", also=TRIED)
    while report_of(world).reason_code != "probation":
        world.cycles(1)
    return world


def counted(
    world: World, succeeded: int = 0, failed: int = 0, mean_ms: float = 1.0, reason: str = "BACKEND"
) -> None:
    """What Triton's metrics say of version 2 from now on."""
    world.triton.counted = Scrape(
        models={
            ("echo", "2"): ModelCounts(
                succeeded=succeeded,
                failures={reason: failed},
                request_us=int(succeeded * mean_ms * 1000),
            )
        },
        gpus={},
    )


def report_of(world: World) -> ModelReport:
    report = world.report()
    assert report is not None
    return report


def config_of(world: World) -> str:
    return (world.folder / "repository/echo/config.pbtxt").read_text()


def pass_seconds(world: World, seconds: float) -> None:
    until = world.clock.now + seconds
    while world.clock.now < until:
        world.cycles(1)


def test_until_it_is_over_nothing_on_disk_names_the_new_version(world: World) -> None:
    report = report_of(world)
    assert (report.phase, report.serving, report.healthy) == ("verifying", "2", True)
    assert report.lease == 17
    pass_seconds(world, 50)
    assert "versions: 1" in config_of(world)
    committed = world.record().committed
    assert committed is not None
    assert committed.version == "1"
    counted(world, 1000)
    final = world.converge()
    assert final is not None
    assert (final.phase, final.serving) == ("succeeded", "2")
    assert "versions: 2" in config_of(world)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"succeeded": 10, "failed": 10}, "10 of 20 requests failed (50.0%)"),
        ({"succeeded": 100, "mean_ms": 300.0}, "100 requests took 300.0 ms on average"),
    ],
    ids=["errors", "latency"],
)
def test_a_breach_takes_it_back_at_once_also_without_the_centre(
    world: World, seen: dict[str, Any], said: str
) -> None:
    world.blobs.reachable = False
    world.leases.fate = "lose"
    counted(world, **seen)
    began = world.clock.now
    report = world.converge()
    assert world.clock.now - began < 10.0
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "probation-failed")
    assert said in report.reason
    assert (report.serving, report.healthy) == ("1", True)
    assert world.record().trial is None
    assert "versions: 1" in config_of(world)


def test_a_failed_version_that_does_not_unload_does_not_hold_up_the_verdict(world: World) -> None:
    """As one does on a real server whose python process died."""
    world.triton.never_gone.add("2")
    counted(world, failed=100)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "probation-failed")
    assert (report.serving, report.healthy) == ("1", True)
    assert (world.folder / "repository/echo/2").is_dir()  # nothing of a model in motion is touched


def test_requests_that_their_callers_gave_up_do_not_speak_against_it(world: World) -> None:
    counted(world, succeeded=10, failed=90, reason="CANCELED")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_what_failed_before_its_trial_does_not_speak_against_it(tmp_path: Path) -> None:
    """Failures are counted on over an unload: those of an earlier try are still there."""
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    counted(world, failed=500)
    world.publish(make_version("2"), previous="1", also=TRIED)
    while report_of(world).reason_code != "probation":
        world.cycles(1)
    counted(world, succeeded=100, failed=501)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_counts_that_began_anew_with_the_server_are_read_as_such(world: World) -> None:
    counted(world, succeeded=1000, failed=0)
    world.cycles(2)
    counted(world, succeeded=5, failed=30)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "probation-failed")
    assert "30 of 35" in report.reason


def test_a_server_without_metrics_is_judged_by_its_golden_requests_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("2"), previous="1", also=TRIED)
    while report_of(world).reason_code != "probation":
        world.cycles(1)
    assert "its requests cannot be counted" in report_of(world).reason
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


@pytest.fixture
def uncounted(tmp_path: Path) -> World:
    """Version 2 is on probation, and the metrics could not be read when it began."""
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("2"), previous="1", also=TRIED)
    while report_of(world).reason_code != "probation":
        world.cycles(1)
    return world


def test_one_missed_look_at_its_beginning_does_not_switch_it_off(uncounted: World) -> None:
    counted(uncounted, failed=500)  # of an earlier try
    pass_seconds(uncounted, 2)
    assert report_of(uncounted).phase == "verifying"
    counted(uncounted, failed=600)
    report = uncounted.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "probation-failed")
    assert "100 of 100 requests failed" in report.reason
    assert report.serving == "1"


def test_counted_late_it_lasts_its_whole_time_from_then_on(uncounted: World) -> None:
    pass_seconds(uncounted, 40)
    counted(uncounted)
    began = uncounted.clock.now
    uncounted.converge()
    assert uncounted.clock.now - began >= 60.0


def test_one_missed_look_at_its_end_does_not_pass_it(world: World) -> None:
    pass_seconds(world, 50)
    world.triton.counted = None
    pass_seconds(world, 15)
    assert report_of(world).reason_code == "probation"
    counted(world, failed=100)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "probation-failed")


def test_metrics_that_stay_away_hold_it_up_for_a_bounded_time(world: World) -> None:
    pass_seconds(world, 50)
    world.triton.counted = None
    began = world.clock.now
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert 30.0 <= world.clock.now - began < 60.0


def test_a_restarted_agent_goes_on_where_the_trial_was(world: World) -> None:
    pass_seconds(world, 40)
    world.start()
    world.poll()
    began = world.clock.now
    report = world.converge()
    assert report is not None
    assert report.serving == "2"
    assert world.clock.now - began < 30.0  # of the 60 that a new one would take


def test_a_restarted_machine_begins_the_trial_anew(world: World) -> None:
    pass_seconds(world, 40)
    world.clock.boot = "boot-2"
    world.triton.restart()
    world.start()
    world.poll()
    began = world.clock.now
    report = world.converge()
    assert report is not None
    assert report.serving == "2"
    assert world.clock.now - began >= 60.0


def test_a_restart_that_the_server_outlived_begins_the_trial_anew_too(world: World) -> None:
    """Seconds since another start of the machine say nothing."""
    pass_seconds(world, 40)
    world.clock.boot = "boot-2"
    world.start()
    world.poll()
    began = world.clock.now
    world.converge()
    assert world.clock.now - began >= 60.0


def test_a_suspended_machine_lets_the_trial_pass(world: World) -> None:
    world.clock.suspended_seconds += 3600
    began = world.clock.now
    world.converge()
    assert world.clock.now - began < 30.0


def test_a_server_that_dies_under_the_new_version_begins_the_trial_anew(world: World) -> None:
    pass_seconds(world, 50)
    world.triton.restart()
    began = world.clock.now
    report = world.converge()
    assert report is not None
    assert report.serving == "2"
    assert world.clock.now - began >= 60.0


def test_a_server_that_dies_under_the_new_version_each_time_gets_the_old_one_back(
    world: World,
) -> None:
    for _ in range(10):
        pass_seconds(world, 20)
        if report_of(world).phase == "failed":
            break
        world.triton.restart()
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("failed", "1")


def test_it_is_asked_once_more_at_the_end(world: World) -> None:
    """A bound that nobody set, or too few requests: what it answers then must still be right."""
    answer = world.triton.answer
    world.triton.answer = lambda model, source: (  # type: ignore[method-assign]
        -1.0 if "ANSWER = 2.0" in source else answer(model, source)
    )
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "golden-mismatch")
    assert (report.serving, report.healthy) == ("1", True)


def test_a_newer_wish_ends_the_trial(world: World) -> None:
    world.publish(make_version("1"), previous="2", lease_required=False)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "1")
    assert world.record().trial is None


def test_its_sentence_is_renewed_every_ten_seconds_and_not_at_every_look(world: World) -> None:
    said = set()
    for second in range(30):
        counted(world, succeeded=second)
        pass_seconds(world, 1)
        said.add(report_of(world).reason)
    assert 2 <= len(said) <= 5


def test_the_journal_of_an_agent_that_knew_no_probation_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = Journal(folder)
    journal.prepare()
    (folder / "models" / "echo.json").write_text(
        '{"committed": {"version": "1", "digest": "sha256:x"}, "previous": null,'
        ' "proven": ["sha256:x"], "failed": null, "attempts": null}'
    )
    record = journal.load("echo")
    assert record.committed is not None
    assert (record.room, record.trial) == (None, None)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    deaths=st.lists(st.integers(min_value=1, max_value=16), max_size=4),
    is_bad=st.booleans(),
    replaces=st.booleans(),
)
def test_killed_anywhere_a_bad_version_is_never_committed(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int], is_bad: bool, replaces: bool
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    world.publish(make_version("1"))
    world.converge()
    world.lease_required = True
    counted(world)
    also = {**TRIED, **({"switch": "replace"} if replaces else {})}
    world.publish(make_version("2"), previous="1", also=also)

    def serve(name: str) -> None:
        if name == "probation-begun" and is_bad:
            counted(world, succeeded=50, failed=50)
        committed = world.record().committed
        assert committed is not None
        assert not (is_bad and committed.version == "2")

    world.at_checkpoint = serve
    for death in deaths:
        world.cycles(40, die_after=death)
    report = world.converge()
    assert report is not None
    expected = ("failed", "1") if is_bad else ("succeeded", "2")
    assert (report.phase, report.serving, report.healthy) == (*expected, True)
