"""What a version asks of a machine: refused with the numbers before any byte moves; what nobody
knows refuses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from versions import Version, make_version
from waypost_agent.preflight import (
    Gpu,
    Learned,
    Machine,
    Question,
    judge,
    missing_backends,
)
from waypost_agent.requires import Requires, parse_requires
from waypost_agent.situation import AUTO, REPLACE, SURGE
from world import World

GB = 1_000_000_000
SMALL = Gpu(
    name="NVIDIA T4",
    compute_capability="7.5",
    driver="535.1",
    free_bytes=2 * GB,
    total_bytes=16 * GB,
)
LARGE = Gpu(name="NVIDIA L4", compute_capability="8.9", free_bytes=20 * GB, total_bytes=24 * GB)
UNKNOWN = Machine()
SITE = Machine(
    triton_version="2.51.0",
    backends=frozenset({"python", "identity"}),
    gpus=(SMALL,),
    memory_free_bytes=4 * GB,
    memory_total_bytes=8 * GB,
)


def question(switch: str = SURGE, serving: str | None = "1", **requires: Any) -> Question:
    return Question(
        version="2",
        requires=Requires(**requires),
        learned=Learned(),
        serving=serving,
        serving_learned=Learned(),
        switch=switch,
    )


REFUSALS = [
    ("older Triton", {"triton": "2.60.0"}, "triton-too-old", ["2.60.0", "2.51.0"]),
    ("newer by digits, not letters", {"triton": "2.100.0"}, "triton-too-old", ["2.100.0"]),
    ("backend", {"backends": ("onnxruntime", "python")}, "backend-missing",
     ["onnxruntime", "identity, python"]),
    ("compute capability", {"compute_capability": "8.0"}, "hardware-incompatible",
     ["8.0", "7.5", "NVIDIA T4"]),
    ("another capability", {"compute_capability_exact": "8.9"}, "hardware-incompatible",
     ["8.9", "no other", "7.5"]),
    ("older driver", {"driver": "550.54"}, "hardware-incompatible", ["550.54", "535.1"]),
    ("GPU memory", {"accelerator_memory_bytes": 6 * GB}, "memory-insufficient",
     ["6.00 GB", "2.00 GB of 16.00 GB", "NVIDIA T4", "beside version 1", "by its manifest"]),
    ("memory", {"memory_bytes": 5 * GB}, "memory-insufficient", ["5.00 GB", "4.00 GB of 8.00 GB"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("requires", "code", "said"), [case[1:] for case in REFUSALS], ids=[c[0] for c in REFUSALS]
)
def test_a_version_is_refused_with_the_numbers(
    requires: dict[str, Any], code: str, said: list[str]
) -> None:
    fit = judge(question(**requires), SITE)
    assert fit.reason_code == code
    assert not [each for each in said if each not in fit.reason], fit.reason


@pytest.mark.parametrize("requires", [case[1] for case in REFUSALS], ids=[c[0] for c in REFUSALS])
def test_what_nobody_knows_refuses_nothing(requires: dict[str, Any]) -> None:
    assert judge(question(**requires), UNKNOWN).reason_code == ""
    blind = replace(SITE, gpus=(Gpu(name="NVIDIA T4"),), triton_version="nightly", backends=None)
    if "memory_bytes" not in requires:
        assert judge(question(**requires), blind).reason_code == ""


@pytest.mark.parametrize(
    "requires",
    [
        {"triton": "2.51.0"},
        {"triton": "2.9.9"},
        {"backends": ("python", "ensemble")},
        {"compute_capability": "7.5"},
        {"compute_capability_exact": "7.5"},
        {"driver": "535.1"},
        {"tensorrt": "10.3"},
        {"accelerator_memory_bytes": 2 * GB},
        {"memory_bytes": 4 * GB},
        {},
    ],
)
def test_a_minimum_that_is_just_met_is_met(requires: dict[str, Any]) -> None:
    assert judge(question(**requires), SITE).reason_code == ""


@pytest.mark.parametrize(
    "requires",
    [
        {"compute_capability": "8.0"},
        {"compute_capability_exact": "8.0"},
        {"driver": "1.0"},
        {"accelerator_memory_bytes": 1},
    ],
)
def test_a_machine_without_any_accelerator_is_told_so(requires: dict[str, Any]) -> None:
    fit = judge(question(**requires), replace(SITE, gpus=()))
    assert fit.reason_code == "hardware-incompatible"
    assert "none" in fit.reason


def test_one_fitting_gpu_of_several_is_enough() -> None:
    both = replace(SITE, gpus=(SMALL, LARGE))
    asked = question(compute_capability="8.0", accelerator_memory_bytes=19 * GB)
    assert judge(asked, both).reason_code == ""


def test_in_its_place_a_version_may_need_what_the_serving_one_holds() -> None:
    for switch in (REPLACE, AUTO):
        fit = judge(question(switch, accelerator_memory_bytes=6 * GB), SITE)
        assert (fit.reason_code, fit.beside) == ("", False)
        assert "16.00 GB without it" in fit.reason


def test_what_the_serving_one_is_known_to_free_is_counted() -> None:
    asked = replace(
        question(REPLACE, accelerator_memory_bytes=6 * GB),
        serving_learned=Learned(accelerator_memory_bytes=3 * GB),
    )
    fit = judge(asked, SITE)
    assert fit.reason_code == "memory-insufficient"
    assert "5.00 GB without it" in fit.reason


def test_nothing_is_freed_where_nothing_serves() -> None:
    fit = judge(question(REPLACE, serving=None, accelerator_memory_bytes=6 * GB), SITE)
    assert fit.reason_code == "memory-insufficient"
    assert "beside" not in fit.reason


def test_what_an_earlier_load_took_counts_like_a_requirement() -> None:
    asked = replace(question(), learned=Learned(accelerator_memory_bytes=3 * GB))
    fit = judge(asked, SITE)
    assert fit.reason_code == "memory-insufficient"
    assert "as its last load here took" in fit.reason


@pytest.mark.parametrize(("free", "beside"), [(6 * GB, True), (6 * GB - 1, False), (None, None)])
def test_whether_both_fit_together(free: int | None, beside: bool | None) -> None:
    gpu = replace(SMALL, free_bytes=free)
    asked = question(AUTO, accelerator_memory_bytes=6 * GB, memory_bytes=1)
    assert judge(asked, replace(SITE, gpus=(gpu,))).beside is beside


def test_a_version_that_asks_for_nothing_says_nothing_of_memory() -> None:
    assert judge(question(AUTO), SITE).beside is None


def test_backends_are_compared_only_where_they_can_be_listed() -> None:
    assert missing_backends(["onnxruntime"], UNKNOWN) == ""
    assert missing_backends(["ensemble"], SITE) == ""
    assert "onnxruntime" in missing_backends(["onnxruntime"], SITE)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"memory_bytes": -1},
        {"memory_bytes": True},
        {"memory_bytes": 1.5},
        {"memory_bytes": 1 << 60},
        {"compute_capability": 8.0},
        {"compute_capability": "8"},
        {"compute_capability_exact": "8.x"},
        {"driver": 550},
        {"tensorrt": "10"},
        {"triton": "newest"},
        {"triton": "2.51.0\n"},
        {"backends": "python"},
        {"backends": ["../python"]},
        {"backends": [1]},
    ],
)
def test_requirements_that_make_no_sense_are_refused(document: object) -> None:
    with pytest.raises(ValueError, match="requires"):
        parse_requires(document)


def test_requirements_of_a_newer_centre_are_passed_over() -> None:
    assert parse_requires({"quantum_bits": 5, "triton": "2.51"}) == Requires(triton="2.51")


# In the loop


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.publish(make_version("1"))
    world.converge()
    world.lease_required = True
    return world


def asking(number: str, **requires: Any) -> Version:
    return replace(make_version(number), requires=requires)


def test_refused_before_any_byte_moves(world: World) -> None:
    world.machine.machine = SITE
    opened = len(world.blobs.opened)
    world.publish(asking("2", backends=["onnxruntime"]), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "backend-missing")
    assert (report.serving, report.healthy) == ("1", True)
    assert len(world.blobs.opened) == opened
    assert world.leases.questions == []


def test_a_version_that_fits_is_not_held_up(world: World) -> None:
    world.machine.machine = SITE
    world.publish(asking("2", accelerator_memory_bytes=GB, backends=["python"]), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_its_own_memory_does_not_speak_against_a_version(world: World) -> None:
    """What it loads fills what was free; that must not turn into a refusal."""
    world.machine.machine = SITE
    world.publish(asking("2", memory_bytes=3 * GB), previous="1")

    def fill(name: str) -> None:
        loaded = name in ("candidate-loaded", "candidate-proven", "switched")
        free = GB if loaded else 4 * GB
        world.machine.machine = replace(SITE, memory_free_bytes=free)

    world.at_checkpoint = fill
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_nor_does_a_candidate_that_an_agent_before_left_loading(world: World) -> None:
    world.machine.machine = SITE
    version = replace(make_version("2", load_seconds=20.0), requires={"memory_bytes": 3 * GB})
    world.publish(version, previous="1")

    def die_while_it_loads() -> None:
        if "LOADING" in world.triton.states("echo--candidate"):
            world.clock.while_asleep = lambda: None
            world.machine.machine = replace(SITE, memory_free_bytes=GB)
            world.die_now()

    def free(name: str) -> None:
        if name == "candidate-unloaded":
            world.machine.machine = SITE

    world.clock.while_asleep = die_while_it_loads
    world.at_checkpoint = free
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_auto_makes_room_only_where_both_do_not_fit(world: World) -> None:
    world.machine.machine = SITE
    world.triton.most_loaded = 1
    world.publish(
        asking("2", accelerator_memory_bytes=6 * GB), previous="1", also={"switch": "auto"}
    )
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert "room-made" in world.passed_checkpoints
    world.triton.most_loaded = None
    world.passed_checkpoints.clear()
    world.publish(asking("3", accelerator_memory_bytes=GB), previous="2", also={"switch": "auto"})
    world.converge()
    assert "room-made" not in world.passed_checkpoints


def test_the_config_names_a_backend_that_this_server_has_not(world: World) -> None:
    """Known only once config.pbtxt is here: refused before anything is loaded."""
    world.machine.machine = replace(SITE, backends=frozenset({"identity"}))
    world.publish(make_version("2"), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.reason_code) == ("failed", "backend-missing")
    assert "it needs the backend python; this server has identity" in report.reason
    assert "candidate-loaded" not in world.passed_checkpoints[-8:]


def test_a_refusal_holds_until_a_newer_wish(world: World) -> None:
    world.machine.machine = SITE
    world.publish(asking("2", memory_bytes=5 * GB), previous="1")
    world.converge()
    world.machine.machine = replace(SITE, memory_free_bytes=8 * GB)
    world.cycles(20)
    assert world.report() is not None
    assert world.report().phase == "failed"  # type: ignore[union-attr]
    world.publish(asking("2", memory_bytes=5 * GB), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")


# What loads teach


def test_what_a_load_took_is_kept_and_reported(world: World) -> None:
    def grow(name: str) -> None:
        if name == "candidate-written":
            world.machine.used = (3 * GB, 0)
            world.clock.while_asleep = lambda: setattr(world.machine, "used", (4 * GB, None))

    world.at_checkpoint = grow
    version = make_version("2", load_seconds=3.0)
    world.publish(version, previous="1")
    report = world.converge()
    assert report is not None
    assert report.learned is not None
    assert report.learned["load_seconds"] == pytest.approx(3.0, abs=0.2)
    assert report.learned["memory_bytes"] == GB
    assert report.learned["accelerator_memory_bytes"] is None
    assert report.document()["learned"] == report.learned
    world.start()
    world.poll()
    again = world.converge()
    assert again is not None
    assert again.learned == report.learned
