"""The loop with the real store and journal, a fake server and a fake source of files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from versions import Version, make_version
from waypost_agent.decide import MAX_ATTEMPTS
from waypost_agent.ports import Answer
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_first_version_is_fetched_proven_switched_verified_and_committed(world: World) -> None:
    world.publish(make_version("1"))
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "1", True)
    assert world.triton.ready("echo") == {"1"}
    assert "versions: 1" in (world.folder / "repository/echo/config.pbtxt").read_text()
    committed = world.record().committed
    assert committed is not None
    assert committed.version == "1"


def test_only_what_was_proven_is_loaded_under_the_real_name(world: World) -> None:
    for number in ("1", "2", "3"):
        world.publish(make_version(number))
        world.converge()
    assert world.triton.loads == [("echo", "1"), ("echo", "2"), ("echo", "3")]
    assert world.triton.unproven == []


def test_a_wrong_candidate_is_never_loaded_under_the_real_name(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("2", answer=-5.0, golden=2.0), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "golden-mismatch")
    assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.loads == [("echo", "1")]


def test_a_version_wrong_only_when_served_is_taken_back_without_the_network(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("2", answer=2.0, wrong_when_real=True), previous="1")
    while ("echo", "2") not in world.triton.loads:
        world.cycles(1)
    world.blobs.reachable = False
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("failed", "1", True)
    assert "versions: 1" in (world.folder / "repository/echo/config.pbtxt").read_text()


@pytest.mark.parametrize("two_faced", [False, True], ids=["right", "wrong when served"])
def test_repository_and_journal_name_only_what_was_verified_at_every_step(
    world: World, two_faced: bool
) -> None:
    world.publish(make_version("1"))
    world.converge()
    named: dict[str, tuple[str, str]] = {}

    def look(name: str) -> None:
        config = (world.folder / "repository/echo/config.pbtxt").read_text()
        committed = world.record().committed
        assert committed is not None
        in_config = config.partition("versions: ")[2][0]
        named[name] = (in_config, committed.version)

    world.at_checkpoint = look
    world.publish(make_version("2", wrong_when_real=two_faced), previous="1")
    world.converge()
    later = {"config-committed": ("2", "1"), "committed": ("2", "2"), "pruned": ("2", "2")}
    expected = dict.fromkeys(named, ("1", "1"))
    if not two_faced:
        expected |= {name: state for name, state in later.items() if name in named}
    assert named == expected
    assert ("restored" if two_faced else "committed") in named


def test_a_failed_version_is_tried_again_only_for_a_newer_wish(world: World) -> None:
    broken = make_version("1", raises=True)
    world.publish(broken)
    world.converge()
    before = world.passed_checkpoints.count("attempt-journaled")
    world.cycles(20)
    assert world.passed_checkpoints.count("attempt-journaled") == before
    world.publish(broken)
    world.converge()
    assert world.passed_checkpoints.count("attempt-journaled") == before + 1


def test_a_version_that_failed_when_served_must_be_proven_again(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    two_faced = make_version("2", wrong_when_real=True)
    for _ in range(2):
        before = world.passed_checkpoints.count("candidate-written")
        world.publish(two_faced, previous="1")
        world.converge()
        assert world.passed_checkpoints.count("candidate-written") == before + 1


def test_going_back_to_the_previous_version_needs_neither_proof_nor_download(
    world: World,
) -> None:
    for number in ("1", "2"):
        world.publish(make_version(number), previous="1")
        world.converge()
    world.blobs.reachable = False
    proofs = world.passed_checkpoints.count("candidate-written")
    world.publish(make_version("1"), previous="2")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "1")
    assert world.passed_checkpoints.count("candidate-written") == proofs


def test_a_model_no_longer_wished_is_unloaded_and_comes_back(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.publish(None)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.target) == ("succeeded", None, None)
    assert not (world.folder / "repository/echo/config.pbtxt").exists()
    world.publish(make_version("1"))
    world.converge()
    assert world.triton.ready("echo") == {"1"}


def test_a_model_that_an_answer_does_not_name_is_left_as_it_is(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("1", model="other"), model="other")
    del world.wishes["echo"]
    world.generation += 1
    world.poll()
    world.converge()
    assert world.triton.ready("echo") == {"1"}
    assert [report.model for report in world.loop.reports()] == ["other"]
    world.triton.restart()
    world.start()
    for _ in range(30):
        world.cycles(1)
    assert world.triton.ready("echo") == {"1"}


def test_a_damaged_file_is_noticed_before_the_load_and_fetched_again(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    file = world.folder / "repository/echo/1/model.py"
    damaged = bytearray(file.read_bytes())
    damaged[-2] ^= 1
    file.chmod(0o644)
    file.write_bytes(damaged)
    world.triton.restart()
    world.converge()
    assert world.triton.ready("echo") == {"1"}
    assert file.read_bytes() == make_version("1").files["model.py"]
    assert (world.folder / "state/quarantine/echo/1/model.py").exists()
    assert world.triton.unproven == []


def test_bytecode_that_no_manifest_covers_is_gone_before_a_load(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    cache = world.folder / "repository/echo/1/__pycache__"
    cache.parent.chmod(0o755)
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"planted")
    cache.parent.chmod(0o555)
    world.triton.restart()
    world.converge()
    assert not cache.exists()


def test_a_full_disk_is_reported_and_cured_by_room(world: World) -> None:
    world.publish(make_version("1"))
    world.free_bytes = 100
    world.cycles(6)
    report = world.report()
    assert report is not None
    assert (report.phase, report.reason_code) == ("pending", "disk-full")
    assert "100 free" in report.reason
    world.free_bytes = 1 << 40
    world.converge()
    assert world.triton.ready("echo") == {"1"}


def test_a_reused_version_number_is_refused_and_what_serves_is_not_touched(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("1", answer=7.0))
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "version-conflict")
    assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.loads == [("echo", "1")]


def test_a_config_with_another_name_fails_before_any_load(world: World) -> None:
    good = make_version("1")
    config = good.files["config.pbtxt"].replace(b'"echo"', b'"other"')
    world.publish(Version(number="1", files={**good.files, "config.pbtxt": config}))
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "config-invalid")


def test_old_versions_go_and_the_previous_one_stays(world: World) -> None:
    for number in ("1", "2", "3"):
        world.publish(make_version(number), previous=str(max(int(number) - 1, 1)))
        world.converge()
    world.cycles(5)
    folder = world.folder / "repository/echo"
    assert {entry.name for entry in folder.iterdir()} == {"2", "3", "config.pbtxt"}


def test_a_version_that_kills_the_server_each_time_is_given_up(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.publish(make_version("2"), previous="1")
    world.triton.dies_loading.add("echo--candidate")
    before = world.passed_checkpoints.count("candidate-written")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "candidate-failed")
    assert (report.serving, report.healthy) == ("1", True)
    assert world.passed_checkpoints.count("candidate-written") == before + MAX_ATTEMPTS


def test_a_restart_without_the_centre_serves_what_was_wished(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.triton.restart()
    world.blobs.reachable = False
    world.start()
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "1", True)


def test_while_a_download_hangs_the_old_version_is_still_restored(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    world.blobs.reachable = False
    world.publish(make_version("2"), previous="1")
    world.blobs.data.clear()
    world.cycles(5)
    world.triton.restart()
    world.cycles(20)
    assert world.triton.ready("echo") == {"1"}
    report = world.report()
    assert report is not None
    assert (report.phase, report.reason_code) == ("pending", "download-failed")


def test_a_stop_while_a_version_loads_is_no_attempt_of_that_version(world: World) -> None:
    world.publish(make_version("1", load_seconds=30.0))
    while "candidate-written" not in world.passed_checkpoints:
        world.clock.while_asleep = world.loop.stop
        world.cycles(1)
    attempts = world.record().attempts
    assert attempts is not None
    assert attempts.count == 0
    world.clock.while_asleep = lambda: None
    world.start()
    world.poll()
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "1")


def test_a_long_download_makes_way_for_a_model_that_must_be_restored(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    pieces = 0

    def time_passes() -> None:
        nonlocal pieces
        pieces += 1
        world.clock.now += 6.0
        if pieces == 10:
            world.triton.restart()

    world.blobs.between_pieces = time_passes
    world.publish(make_version("1", model="big", extra={"data": bytes(50_000)}), model="big")
    world.converge()
    # Restored in the middle of the download, which then went on where it was.
    assert world.triton.loads == [("echo", "1"), ("echo", "1"), ("big", "1")]
    assert any(0 < offset < 50_000 for _, offset in world.blobs.opened)


def test_a_newer_wish_interrupts_a_download(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()

    def change_of_mind() -> None:
        world.blobs.between_pieces = lambda: None
        world.publish(make_version("1"))

    world.blobs.between_pieces = change_of_mind
    world.publish(make_version("2", extra={"data": bytes(50_000)}), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.target, report.serving) == ("succeeded", "1", "1")
    assert not (world.folder / "repository/echo/2").exists()
    world.cycles(3)
    assert not list((world.folder / "state/staging").glob("echo/*"))


GOOD = [make_version(str(number)) for number in (1, 2, 3)]
BROKEN = [
    make_version("4", answer=-4.0, golden=4.0),
    make_version("5", raises=True),
    make_version("6", wrong_when_real=True),
    make_version("7", load_seconds=100.0),
]
SLOW = [make_version("8", load_seconds=8.0)]

_steps = st.one_of(
    st.tuples(st.just("wish"), st.sampled_from([*GOOD, *BROKEN, *SLOW, None])),
    st.tuples(st.just("run"), st.integers(1, 8)),
    st.tuples(st.just("die"), st.integers(1, 14)),
    st.tuples(st.just("restart server"), st.none()),
    st.tuples(st.just("stop server"), st.none()),
    st.tuples(st.just("lose network"), st.none()),
    st.tuples(st.just("damage"), st.sampled_from(["1", "2", "3"])),
    st.tuples(
        st.just("leases"), st.sampled_from(["grant", "refuse", "lose", "die asking", "die granted"])
    ),
    st.tuples(st.just("sleep"), st.sampled_from([5.0, 59.95, 600.0])),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.booleans(), st.lists(_steps, min_size=1, max_size=14))
def test_whatever_happens_nothing_unproven_serves_and_the_wish_is_reached(
    lease_required: bool, steps: list[tuple[str, object]]
) -> None:
    """Nor does anything begin without the lease it requires: the world looks at every begin."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.lease_required = lease_required
        world.publish(GOOD[0])
        wished: Version | None = GOOD[0]
        for kind, value in steps:
            if kind == "wish":
                assert value is None or isinstance(value, Version)
                wished = value
            disturb(world, kind, value)
            assert world.triton.unproven == []
        world.blobs.reachable = world.triton.running = True
        world.leases.fate = "grant"
        world.converge()
        assert lease_required or not world.leases.questions
        assert world.triton.unproven == []
        check_outcome(world, wished)


def disturb(world: World, kind: str, value: object) -> None:
    if kind == "wish":
        assert value is None or isinstance(value, Version)
        world.publish(value)
    elif kind in ("run", "die"):
        assert isinstance(value, int)
        world.cycles(value if kind == "run" else 12, die_after=None if kind == "run" else value)
    elif kind == "restart server":
        world.triton.restart()
    elif kind == "stop server":
        world.triton.running = False
    elif kind == "lose network":
        world.blobs.reachable = False
    elif kind == "leases":
        world.leases.fate = str(value)
    elif kind == "sleep":
        assert isinstance(value, float)
        world.clock.suspended_seconds += value
    else:
        file = world.folder / f"repository/echo/{value}/model.py"
        if file.exists():
            file.chmod(0o644)
            file.write_bytes(file.read_bytes()[:-1] + b"#")


def check_outcome(world: World, wished: Version | None) -> None:
    report = world.report()
    assert report is not None
    ready = world.triton.ready("echo")
    if wished is None:
        assert (report.phase, ready) == ("succeeded", set())
    elif wished in BROKEN:
        committed = world.record().committed
        assert report.phase == "failed"
        assert ready == (set() if committed is None else {committed.version})
        assert committed is None or committed.version in {v.number for v in [*GOOD, *SLOW]}
    else:
        assert report.phase == "succeeded" or report.reason_code == "candidate-failed"
        assert report.phase != "succeeded" or ready == {wished.number}


def test_a_slow_version_is_refused_by_the_bound_of_its_golden_requests(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    slow = make_version("2", answer_seconds=0.3, max_latency_ms=250)
    world.publish(slow, previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "golden-mismatch")
    assert "took 300.0 ms, the fastest of 3; at most 250 ms are allowed" in report.reason
    assert (report.serving, report.healthy) == ("1", True)
    world.publish(make_version("3", answer_seconds=0.2, max_latency_ms=250), previous="1")
    quick = world.converge()
    assert quick is not None
    assert quick.serving == "3"


def test_after_a_failed_load_the_old_version_must_show_that_it_still_answers(world: World) -> None:
    """Triton keeps the old one through a failed load; that is seen here and not believed."""
    world.publish(make_version("1"))
    world.converge()
    asked: list[str] = []
    infer = world.triton.infer

    def count(model: str, *rest: Any) -> Answer:
        asked.append(model)
        return infer(model, *rest)

    world.triton.infer = count  # type: ignore[method-assign]
    world.publish(make_version("2", raises=True), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving, report.healthy) == ("failed", "1", True)
    assert asked == ["echo"]


def test_an_old_version_that_broke_with_the_failed_load_is_said(world: World) -> None:
    world.publish(make_version("1"))
    world.converge()
    answer = world.triton.answer

    def broken(model: str, source: str) -> float:
        failed = world.record().failed is not None
        return -1.0 if failed and not model.endswith("--candidate") else answer(model, source)

    world.triton.answer = broken  # type: ignore[method-assign]
    world.publish(make_version("2", raises=True), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "restore-failed")
    assert report.healthy is False
