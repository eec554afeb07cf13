"""A version that takes the place of the one before it: declared downtime, never two in memory.

The fake server has memory for one version: whoever loads a second one beside it is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_triton import Loaded
from versions import make_version
from waypost_agent.decide import MAX_ATTEMPTS
from waypost_agent.protocol import ModelReport
from world import World

REPLACE = {"switch": "replace"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Version 1 serves and there is memory for no other."""
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.lease_required = True
    world.triton.most_loaded = 1
    return world


def report_of(world: World) -> ModelReport:
    report = world.report()
    assert report is not None
    return report


def die_at(world: World, checkpoint: str) -> None:
    """The agent is gone at the first such checkpoint, and a new one starts."""

    def look(name: str) -> None:
        if name == checkpoint:
            world.at_checkpoint = lambda other: None
            world.die_now()

    world.at_checkpoint = look


def test_the_old_version_is_unloaded_before_the_new_one_is_loaded(world: World) -> None:
    world.publish(make_version("2", load_seconds=2.0), previous="1", also=REPLACE)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)
    assert world.triton.unproven == []
    order = [name for name in world.passed_checkpoints if name in ("room-made", "candidate-loaded")]
    assert order[-2:] == ["room-made", "candidate-loaded"]


def test_beside_the_old_one_there_would_have_been_no_memory(world: World) -> None:
    world.publish(make_version("2"), previous="1", also={"switch": "surge"})
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code, report.serving) == ("failed", "load-failed", "1")
    assert "out of memory" in report.reason


def test_the_downtime_is_measured_and_said(world: World) -> None:
    world.publish(make_version("2", load_seconds=2.0), previous="1", also=REPLACE)
    gone: list[float] = []

    def look(name: str) -> None:
        if name == "room-journaled":
            gone.append(world.clock.now)
        if name == "switched":
            gone.append(world.clock.now)

    world.at_checkpoint = look
    report = world.converge()
    assert report is not None
    away = gone[-1] - gone[-2]
    assert away > 4.0  # as a candidate and under its own name
    assert f"it did not answer for {away:.1f} s, as declared" in report.reason


def test_while_nothing_serves_the_report_says_that_it_is_being_replaced(world: World) -> None:
    world.publish(make_version("2"), previous="1", also=REPLACE)
    told: list[tuple[str, str, str | None, int | None]] = []
    for _ in range(100):
        world.cycles(1)
        report = report_of(world)
        told.append((report.phase, report.reason_code, report.serving, report.lease))
    # Shown before it begins: it still serves then.
    assert ("activating", "replacing", "1", 17) in told
    away = {(phase, lease) for phase, _, serving, lease in told if serving is None}
    assert away
    assert away <= {("proving", 17), ("activating", 17), ("verifying", 17)}
    assert told[-1][:3] == ("succeeded", "ok", "2")


def test_a_version_that_fails_gives_its_place_back(world: World) -> None:
    world.publish(make_version("2", raises=True), previous="1", also=REPLACE)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "load-failed")
    assert (report.serving, report.healthy) == ("1", True)
    assert "it did not answer for" in report.reason
    assert world.record().room is None


def test_a_version_wrong_only_when_served_gives_its_place_back(world: World) -> None:
    world.publish(make_version("2", wrong_when_real=True), previous="1", also=REPLACE)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("failed", "1", True)


def test_going_back_replaces_too(world: World) -> None:
    world.publish(make_version("2"), previous="1", also=REPLACE)
    world.converge()
    world.publish(make_version("1"), previous="2", lease_required=False, also=REPLACE)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "1")


def test_nothing_is_unloaded_before_the_lease(world: World) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("2"), previous="1", also=REPLACE)
    world.cycles(100)
    assert world.triton.ready("echo") == {"1"}
    assert "room-journaled" not in world.passed_checkpoints


def test_an_agent_that_lost_its_lease_puts_the_old_version_back(world: World) -> None:
    world.publish(make_version("2"), previous="1", also=REPLACE)
    die_at(world, "room-made")
    world.leases.after_grant = lambda: setattr(world.leases, "fate", "refuse")
    world.cycles(60)  # until it dies
    world.cycles(60)
    assert world.triton.ready("echo") == {"1"}
    report = report_of(world)
    assert (report.phase, report.reason_code) == ("staged", "max-unavailable")
    assert (report.serving, report.healthy) == ("1", True)
    world.leases.after_grant = lambda: None
    world.leases.fate = "grant"
    assert world.converge() is not None
    assert report_of(world).serving == "2"


def test_no_report_after_a_restart_says_that_nothing_had_begun(world: World) -> None:
    """Such a phase would free the slot while nobody is answered."""
    world.triton.unload_seconds = 5.0
    world.publish(make_version("2"), previous="1", also=REPLACE)

    def die_while_it_unloads() -> None:
        if "UNLOADING" in world.triton.states("echo"):
            world.clock.while_asleep = lambda: None
            world.die_now()

    world.clock.while_asleep = die_while_it_unloads
    world.cycles(60)  # until it dies
    assert world.triton.states("echo") == {"UNLOADING"}
    told = []
    for _ in range(60):
        world.cycles(1)
        if (report := world.report()) is not None:
            told.append((report.phase, report.serving))
    assert ("activating", None) in told
    assert not [
        phase
        for phase, serving in told
        if serving is None and phase in ("pending", "downloading", "staged")
    ]


def test_without_a_lease_to_lose_the_new_agent_goes_on(world: World) -> None:
    world.publish(make_version("2"), previous="1", lease_required=False, also=REPLACE)
    die_at(world, "room-made")
    before = world.triton.loads.copy()
    report = world.converge()
    assert report is not None
    assert report.serving == "2"
    assert world.triton.loads[len(before) :] == [("echo", "2")]  # the old one was not put back


def test_a_machine_that_was_restarted_cannot_tell_how_long_nobody_was_answered(
    world: World,
) -> None:
    world.publish(make_version("2"), previous="1", lease_required=False, also=REPLACE)

    def look(name: str) -> None:
        if name == "room-made":
            world.at_checkpoint = lambda other: None
            world.clock.boot = "boot-2"
            world.triton.restart()
            world.die_now()

    world.at_checkpoint = look
    report = world.converge()
    assert report is not None
    assert report.serving == "2"
    assert "how long it did not answer is not known" in report.reason


def test_a_newer_wish_finds_the_old_version_put_back_first(world: World) -> None:
    world.publish(make_version("2", load_seconds=30.0), previous="1", also=REPLACE)
    while "room-made" not in world.passed_checkpoints:
        world.cycles(1)
    world.publish(make_version("3"), previous="1", also=REPLACE)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "3")


def test_a_server_that_dies_each_time_costs_only_so_many_downtimes(world: World) -> None:
    world.publish(make_version("2"), previous="1", also=REPLACE)
    world.triton.dies_loading.add("echo--candidate")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code, report.serving) == ("failed", "candidate-failed", "1")
    assert world.passed_checkpoints.count("room-made") <= MAX_ATTEMPTS


def rot(world: World, version: str) -> None:
    path = world.folder / "repository/echo" / version / "model.py"
    path.write_bytes(path.read_bytes()[:-1] + b"#")


def watch_who_answers_while_files_are_fetched(world: World) -> list[set[str]]:
    answering = []

    def look(name: str) -> None:
        if name in ("download-started", "room-journaled"):
            answering.append(world.triton.ready("echo"))

    world.at_checkpoint = look
    return answering


def test_a_new_version_that_rotted_is_found_before_anything_is_unloaded(world: World) -> None:
    world.leases.fate = "refuse"
    world.publish(make_version("2"), previous="1", also=REPLACE)
    world.cycles(60)
    rot(world, "2")
    world.leases.fate = "grant"
    answering = watch_who_answers_while_files_are_fetched(world)
    report = world.converge()
    assert report is not None
    assert report.serving == "2"
    assert answering == [{"1"}] * 2  # fetched anew, then unloaded


def test_the_old_version_gets_sound_files_before_it_is_unloaded(world: World) -> None:
    rot(world, "1")
    world.publish(make_version("2", raises=True), previous="1", also=REPLACE)
    answering = watch_who_answers_while_files_are_fetched(world)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("failed", "1", True)
    assert answering[:3] == [{"1"}] * 3  # the new one, the old one anew, and only then the unload


def test_without_a_sound_way_back_nothing_is_unloaded(world: World) -> None:
    world.publish(make_version("2"), previous="1", also=REPLACE)
    one = make_version("1")
    for data in one.files.values():
        world.blobs.data.pop(hashlib.sha256(data).hexdigest(), None)
    for data in make_version("2").files.values():
        world.blobs.data[hashlib.sha256(data).hexdigest()] = data
    rot(world, "1")
    world.cycles(200)
    assert world.triton.ready("echo") == {"1"}
    assert "room-journaled" not in world.passed_checkpoints
    assert report_of(world).reason_code == "download-failed"


def test_a_version_of_somebody_else_is_not_unloaded(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    (world.folder / "state/journal/models/echo.json").unlink()
    world.triton.models["echo"] = {"9": Loaded("READY", source="ANSWER = 9.0\nANSWER_SECONDS = 0")}
    world.start()
    world.publish(make_version("2"), also=REPLACE)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "version-conflict")
    assert world.triton.ready("echo") == {"9"}


def test_a_failed_version_that_never_unloads_does_not_keep_users_unanswered(world: World) -> None:
    """As one does on a real server whose python process died; its memory is free again."""
    world.publish(make_version("2", wrong_when_real=True), previous="1", also=REPLACE)

    def look(name: str) -> None:
        if name == "failed-journaled":
            world.triton.never_gone.add("2")
            world.triton.most_loaded = None

    world.at_checkpoint = look
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("failed", "1", True)
    assert world.triton.states("echo") == {"READY", "UNLOADING"}


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    deaths=st.lists(st.integers(min_value=1, max_value=14), max_size=4),
    kind=st.sampled_from(["good", "raises", "two-faced"]),
    restarts=st.lists(st.booleans(), max_size=5),
)
def test_killed_anywhere_it_ends_with_a_verified_version_and_never_two_in_memory(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int], kind: str, restarts: list[bool]
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    world.publish(make_version("1"))
    world.converge()
    world.lease_required = True
    world.triton.most_loaded = 1
    version = make_version("2", raises=kind == "raises", wrong_when_real=kind == "two-faced")
    world.publish(version, previous="1", also=REPLACE)
    for index, death in enumerate(deaths):
        world.cycles(40, die_after=death)
        if index < len(restarts) and restarts[index]:
            world.triton.restart()
    report = world.converge()
    assert report is not None
    expected = ("succeeded", "2") if kind == "good" else ("failed", "1")
    assert (report.phase, report.serving) == expected
    assert report.healthy is True
    assert world.triton.unproven == []
