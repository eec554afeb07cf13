"""An operator goes back by hand: which version, for how long, and that no crash undoes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test_preflight import GB, SITE, asking
from versions import make_version
from waypost_agent import decide as d
from waypost_agent.errors import ROLLED_BACK, Retryable
from waypost_agent.journal import Journal
from waypost_agent.rollback import Order, Refused, RollbackDesk, make_order, obey
from waypost_agent.situation import Failure, Observed, Record, Target, Wish
from world import World

ONE, TWO, THREE = (Target(version=str(n), digest=f"sha256:{n}") for n in (1, 2, 3))
INSTALLED = {"1": "sha256:1", "2": "sha256:2", "3": "sha256:3"}


def wish(target: Target | None, generation: int = 7, lease_required: bool = False) -> Wish:
    return Wish(
        model="m", epoch=1, generation=generation, target=target, lease_required=lease_required
    )


def served(ready: Target) -> Observed:
    return Observed(
        triton_live=True,
        states={ready.version: "READY"},
        candidate_states={},
        candidate_on_disk=False,
        installed=INSTALLED,
        recorded=frozenset(INSTALLED),
    )


# Which version


def test_from_a_version_that_serves_it_goes_back_to_the_one_before() -> None:
    order = make_order(wish(TWO), "m", Record(committed=TWO, previous=ONE), "users complain")
    assert (order.target, order.back_to, order.reason) == (TWO, ONE, "users complain")


def test_a_version_under_way_is_given_up_and_what_served_stays() -> None:
    order = make_order(wish(THREE), "m", Record(committed=TWO, previous=ONE), "")
    assert (order.target, order.back_to, order.reason) == (THREE, TWO, "no reason given")


def test_after_a_failure_it_goes_back_behind_what_serves_since() -> None:
    failure = Failure(epoch=1, generation=7, target=THREE, reason_code="x", reason="x")
    order = make_order(wish(THREE), "m", Record(committed=TWO, previous=ONE, failed=failure), "")
    assert order.back_to == ONE


@pytest.mark.parametrize(
    ("wished", "record", "why"),
    [
        (None, Record(), "never wished"),
        (wish(None), Record(previous=ONE), "nothing serves"),
        (wish(ONE), Record(), "no verified version"),
        (wish(ONE), Record(committed=ONE), "no verified version of m before 1"),
        (
            wish(TWO),
            Record(
                committed=THREE,
                previous=TWO,
                failed=Failure(epoch=1, generation=7, target=TWO, reason_code="x", reason="x"),
            ),
            "no verified version of m before 3",
        ),
    ],
)
def test_without_an_earlier_verified_version_nothing_changes(
    wished: Wish | None, record: Record, why: str
) -> None:
    with pytest.raises(Refused, match=why):
        make_order(wished, "m", record, "")


# What the agent makes of it, by the rules that any failure follows


def back_from_two() -> tuple[Order, Record]:
    record = Record(committed=TWO, previous=ONE, proven=frozenset({"sha256:2", "sha256:1"}))
    return make_order(wish(TWO), "m", record, "users complain"), record


def test_it_makes_the_agent_switch_back_without_a_lease() -> None:
    order, record = back_from_two()
    held = obey(order, wish(TWO), record, INSTALLED)
    action = d.decide(wish(TWO, lease_required=True), held, served(TWO))
    assert isinstance(action, d.Switch)
    assert (action.target, action.restoring) == (ONE, True)
    assert "by hand at this site: users complain" in action.reason


def test_obeying_the_same_order_again_changes_nothing_more() -> None:
    order, record = back_from_two()
    held = obey(order, wish(TWO), record, INSTALLED)
    assert obey(order, wish(TWO), held, INSTALLED) == held
    assert obey(order, wish(TWO), held, {}) == held  # it is under way, whatever its files are now


def test_a_second_order_does_not_swing_forward_again() -> None:
    order, record = back_from_two()
    held = obey(order, wish(TWO), record, INSTALLED)
    with pytest.raises(Refused, match="no verified version of m before 1"):
        make_order(wish(TWO), "m", held, "")


def test_a_newer_wish_ends_it_and_must_prove_the_version_anew() -> None:
    order, record = back_from_two()
    held = obey(order, wish(TWO), record, INSTALLED)
    assert isinstance(d.decide(wish(TWO, generation=8), held, served(ONE)), d.Prove)


def test_an_order_for_an_older_wish_is_refused() -> None:
    order, record = back_from_two()
    for newer in (wish(TWO, generation=8), wish(THREE), None):
        with pytest.raises(Refused, match="something newer"):
            obey(order, newer, record, INSTALLED)


def test_it_never_goes_back_to_what_is_not_whole_or_not_verified() -> None:
    order, record = back_from_two()
    with pytest.raises(Refused, match="not complete"):
        obey(order, wish(TWO), record, {"1": "sha256:other", "2": "sha256:2"})
    with pytest.raises(Refused, match="no longer the verified one"):
        obey(order, wish(TWO), Record(committed=TWO, previous=THREE), INSTALLED)


# The loop obeys


@pytest.fixture
def world(tmp_path: Path) -> World:
    """It serves version 2 and has 1 behind it; the centre is gone."""
    return at_two(tmp_path)


def at_two(folder: Path) -> World:
    world = World(folder)
    for number in ("1", "2"):
        world.publish(make_version(number), previous="1")
        world.converge()
    world.blobs.reachable = False
    return world


def order_back(world: World) -> Order:
    (wished,) = world.loop.wishes()
    order = make_order(wished, "echo", world.record(), "users complain")
    world.orders.submit(order)
    return order


def test_the_loop_goes_back_without_the_centre_and_reports_why(world: World) -> None:
    order = order_back(world)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", ROLLED_BACK)
    assert (report.target, report.serving, report.healthy) == ("2", "1", True)
    assert "users complain" in report.reason
    assert world.triton.ready("echo") == {"1"}
    assert "versions: 1" in (world.folder / "repository/echo/config.pbtxt").read_text()
    answer = world.orders.answer_to(order)
    assert answer is not None
    assert answer.accepted
    assert not world.orders.waiting()


def test_what_the_agent_chose_to_replace_goes_back_by_replacing_too(tmp_path: Path) -> None:
    """There is memory for one version; the centre said auto, and that is long ago."""
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.machine.machine = SITE
    world.triton.most_loaded = 1
    version = asking("2", accelerator_memory_bytes=6 * GB)
    world.publish(version, previous="1", also={"switch": "auto"})
    world.converge()
    world.start()
    world.poll()
    said = world.converge()
    assert said is not None
    assert said.serving == "2"
    world.passed_checkpoints.clear()
    order_back(world)
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", ROLLED_BACK)
    assert (report.serving, report.healthy) == ("1", True)
    assert world.passed_checkpoints.count("room-made") == 1
    assert world.record().room is None


def test_a_wish_that_made_room_leaves_nothing_for_the_next_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.machine.machine = SITE
    version = asking("2", accelerator_memory_bytes=6 * GB)
    world.publish(version, previous="1", also={"switch": "auto"})
    world.converge()
    world.publish(version, previous="1", also={"switch": "auto"})
    world.start()
    world.poll()
    report = world.converge()
    assert report is not None
    assert "did not answer" not in report.reason
    assert world.record().room is None


def test_the_wish_that_was_held_back_stays_so_over_a_restart_of_agent_and_server(
    world: World,
) -> None:
    order_back(world)
    world.converge()
    world.triton.restart()
    world.start()
    report = world.converge()
    assert report is not None
    assert (report.reason_code, report.serving) == (ROLLED_BACK, "1")


def test_a_newer_wish_ends_the_hold(world: World) -> None:
    order_back(world)
    world.converge()
    world.blobs.reachable = True
    world.publish(make_version("2"), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert world.triton.unproven == []


STEPS = (
    "rollback-journaled",
    "rollback-answered",
    "rollback-taken",
    "restored",
    "verified",
    "config-committed",
    "committed",
)


def test_the_walk_below_names_every_step(world: World) -> None:
    world.passed_checkpoints.clear()
    order_back(world)
    world.converge()
    assert tuple(world.passed_checkpoints) == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_goes_back_once(world: World, step: str) -> None:
    deaths: list[str] = []

    def die(name: str) -> None:
        if name == step and not deaths:
            deaths.append(name)
            world.die_now()

    world.at_checkpoint = die
    order = order_back(world)
    report = world.converge()  # with another agent, once this one is gone
    assert deaths == [step]
    assert report is not None
    assert (report.reason_code, report.serving, report.healthy) == (ROLLED_BACK, "1", True)
    assert not world.orders.waiting()
    answer = world.orders.answer_to(order)
    assert answer is not None
    assert answer.accepted


def test_a_version_in_the_midst_of_its_download_is_given_up_at_once(tmp_path: Path) -> None:
    world = at_two(tmp_path)
    world.blobs.reachable = True
    world.publish(make_version("3", extra={"weights.bin": b"w" * 100_000}), previous="2")
    ordered: list[Order] = []

    def give_order() -> None:
        if not ordered:
            ordered.append(order_back(world))

    world.blobs.between_pieces = give_order
    report = world.converge()
    assert report is not None
    assert (report.reason_code, report.serving) == (ROLLED_BACK, "2")
    assert not (world.folder / "repository/echo/3").exists()


def test_an_order_that_cannot_be_read_is_removed_and_changes_nothing(world: World) -> None:
    folder = world.folder / "state/rollback"
    for number, text in enumerate(("", "{", "[]", '{"model": "echo"}', '{"target": 1}')):
        (folder / f"m{number}.json").write_text(text)
    world.cycles(1)
    assert not world.orders.waiting()
    assert world.triton.ready("echo") == {"2"}


class FullJournal(Journal):
    def save(self, model: str, record: Record) -> None:
        raise Retryable("disk-full", "the disk is full while writing the journal")


def test_a_disk_that_refuses_is_told_and_does_not_spin(world: World) -> None:
    order, before = order_back(world), world.record()
    desk = RollbackDesk(
        world.folder / "state", FullJournal(world.folder / "state/journal"), world.store
    )
    desk.obey(world.loop.wishes())
    answer = desk.answer_to(order)
    assert answer is not None
    assert (answer.accepted, desk.waiting()) == (False, False)
    assert answer.sentence == "the disk is full while writing the journal; nothing changed"
    assert world.record() == before


def test_a_disk_that_cannot_be_looked_at_is_told_and_does_not_spin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_back(world)

    def refuse(model: str) -> dict[str, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(world.store, "installed", refuse)
    world.orders.obey(world.loop.wishes())
    answer = world.orders.answer_to(order)
    assert answer is not None
    assert answer.sentence == "the disk failed: Input/output error; nothing changed"
    assert not world.orders.waiting()


def test_an_order_that_cannot_be_taken_away_is_heeded_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_back(world)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    world.orders.obey(world.loop.wishes())
    monkeypatch.undo()
    assert not world.orders.waiting()
    world.start()  # another process heeds it again, which changes nothing more
    assert world.orders.waiting()
    report = world.converge()
    assert report is not None
    assert (report.reason_code, report.serving) == (ROLLED_BACK, "1")


# Whatever else happens

VERSIONS = {number: make_version(number) for number in ("1", "2", "3")}
VERSIONS["4"] = make_version("4", wrong_when_real=True)
_steps = st.one_of(
    st.tuples(st.just("wish"), st.sampled_from(sorted(VERSIONS))),
    st.tuples(st.just("back"), st.none()),
    st.tuples(st.just("run"), st.integers(1, 12)),
    st.tuples(st.just("die"), st.integers(1, 12)),
    st.tuples(st.just("restart server"), st.none()),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_steps, min_size=1, max_size=12))
def test_whatever_happens_an_order_that_was_taken_holds_and_users_are_answered(
    steps: list[tuple[str, object]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.publish(VERSIONS["1"])
        world.converge()
        order: Order | None = None
        for kind, value in steps:
            if kind == "wish":
                world.publish(VERSIONS[str(value)], previous="1")
                order = None
            elif kind == "back":
                order = try_back(world) or order
            elif kind == "restart server":
                world.triton.restart()
            else:
                assert isinstance(value, int)
                world.cycles(value if kind == "run" else 12, value if kind == "die" else None)
        report = world.converge()
        assert report is not None
        assert world.triton.unproven == []
        assert world.triton.ready("echo") == {report.serving}
        assert not world.orders.waiting()
        if order is not None and accepted(world, order):
            assert (report.reason_code, report.serving) == (ROLLED_BACK, order.back_to.version)


def try_back(world: World) -> Order | None:
    try:
        return order_back(world)
    except Refused:
        return None


def accepted(world: World, order: Order) -> bool:
    answer = world.orders.answer_to(order)
    assert answer is not None
    return answer.accepted
