"""Whether a build can live at a site: each question by itself, with its numbers and its cure."""

from typing import Any

import pytest

from controlplane.domain.fit import best_of, judge
from controlplane.domain.fit_facts import (
    Answer,
    Demand,
    Footprint,
    Gpu,
    Loaded,
    Machine,
    Profile,
    SiteFacts,
    Triton,
    Verdict,
)

GIB = 1 << 30
L4 = Gpu(name="NVIDIA L4", memory_bytes=24 * GIB, compute_capability="8.9", driver="550.54.15")
A10 = Gpu(name="NVIDIA A10", memory_bytes=24 * GIB, compute_capability="8.6", driver="535.1")
BARE = Gpu(name="NVIDIA L4")
SAFE = Triton(version="2.70.0", backends=frozenset({"onnxruntime"}), tensorrt="10.3.0.26")


def asks(size_bytes: int = 1, content_class: str = "data", **more: Any) -> Demand:
    return Demand(model="vad", size_bytes=size_bytes, content_class=content_class, **more)


def site(
    *gpus: Gpu,
    free: int | None = 100 * GIB,
    total: int | None = None,
    triton: Triton = SAFE,
    memory: int | None = 64 * GIB,
    unseen: bool = False,
    **rules: Any,
) -> SiteFacts:
    machine = Machine(memory_bytes=memory, gpus=None if unseen else gpus, tritons=(triton,))
    profile = Profile(machine=machine, hardware=" + ".join(g.name for g in gpus), **rules)
    return SiteFacts(profile=profile, disk_free_bytes=free, disk_total_bytes=total)


def the(verdict: Verdict, name: str) -> Answer:
    (check,) = [check for check in verdict.checks if check.name == name]
    return check.verdict


OK, NO, UNKNOWN = Answer.OK, Answer.NO, Answer.UNKNOWN


@pytest.mark.parametrize(
    ("free", "total", "answer"),
    [
        (None, None, UNKNOWN),
        (GIB - 1, None, NO),
        (GIB, None, UNKNOWN),  # the agent's reserve would not be left
        (3 * GIB, None, OK),
        (3 * GIB - 1, None, UNKNOWN),
        (5 * GIB, 100 * GIB, UNKNOWN),  # a tenth of the disk is more than two gibibytes
        (11 * GIB, 100 * GIB, OK),
    ],
)
def test_the_disk_must_hold_it_and_leave_the_reserve(
    free: int | None, total: int | None, answer: Answer
) -> None:
    assert the(judge(asks(GIB), site(free=free, total=total)), "disk") is answer


@pytest.mark.parametrize(
    ("requires", "gpus", "name", "answer"),
    [
        ({"compute_capability": "8.6"}, (L4,), "compute-capability", OK),
        ({"compute_capability": "8.9"}, (A10,), "compute-capability", NO),
        ({"compute_capability": "8.9"}, (A10, L4), "compute-capability", OK),
        ({"compute_capability": "8.9"}, (BARE,), "compute-capability", UNKNOWN),
        ({"compute_capability": "10.0"}, (L4,), "compute-capability", NO),
        ({"compute_capability_exact": "8.9"}, (L4,), "compute-capability", OK),
        ({"compute_capability_exact": "8.6"}, (L4,), "compute-capability", NO),
        ({"compute_capability_exact": "8.9"}, (L4, A10), "compute-capability", UNKNOWN),
        ({"compute_capability_exact": "8.9"}, (BARE,), "compute-capability", UNKNOWN),
        ({"compute_capability_exact": "8.9"}, (), "accelerator", NO),
        ({"driver": "550.54"}, (L4,), "driver", OK),
        ({"driver": "550.54"}, (A10,), "driver", NO),
        ({"driver": "535.1.0"}, (A10,), "driver", OK),
        ({"driver": "550.54"}, (BARE,), "driver", UNKNOWN),
        ({"accelerator_memory_bytes": 1}, (), "accelerator", NO),
    ],
)
def test_accelerators_are_asked_for_by_their_figures(
    requires: dict[str, object], gpus: tuple[Gpu, ...], name: str, answer: Answer
) -> None:
    assert the(judge(asks(requires=requires), site(*gpus)), name) is answer


def test_where_nobody_could_look_an_accelerator_is_not_refused() -> None:
    judged = judge(asks(requires={"compute_capability": "8.9"}), site(unseen=True))
    assert judged.verdict is UNKNOWN
    assert judged.fits


@pytest.mark.parametrize(
    ("requires", "triton", "name", "answer"),
    [
        ({"triton": "2.70"}, SAFE, "triton", OK),
        ({"triton": "2.71.0"}, SAFE, "triton", NO),
        ({"triton": "2.71.0"}, Triton(), "triton", UNKNOWN),
        ({"backends": ["onnxruntime", "ensemble"]}, SAFE, "backends", OK),
        ({"backends": ["tensorrt"]}, SAFE, "backends", NO),
        ({"backends": ["tensorrt"]}, Triton(), "backends", UNKNOWN),
        ({"tensorrt": "10.3"}, SAFE, "tensorrt", OK),
        ({"tensorrt": "10.30"}, SAFE, "tensorrt", NO),
        ({"tensorrt": "8.6"}, SAFE, "tensorrt", NO),
        ({"tensorrt": "8.6"}, Triton(), "tensorrt", UNKNOWN),
    ],
)
def test_the_server_is_asked_for_its_versions(
    requires: dict[str, object], triton: Triton, name: str, answer: Answer
) -> None:
    assert the(judge(asks(requires=requires), site(L4, triton=triton)), name) is answer


def test_of_several_tritons_the_one_that_takes_the_model_is_asked() -> None:
    old = Triton(version="2.51.0", models=("vad",))
    rest = Triton(version="2.70.0")
    machine = Machine(gpus=(), tritons=(rest, old))
    facts = SiteFacts(profile=Profile(machine=machine), disk_free_bytes=100 * GIB)
    assert judge(asks(requires={"triton": "2.60"}), facts).verdict is NO


# Two versions in memory


@pytest.mark.parametrize(
    ("need", "before", "others", "answer", "by_replace"),
    [
        (10, 10, 0, OK, False),
        (10, 15, 0, OK, True),
        (10, None, 0, UNKNOWN, False),
        (25, 0, 0, NO, False),
        (10, 5, 15, NO, False),
        (10, 5, 12, OK, True),
    ],
)
def test_both_versions_must_find_memory_or_one_in_place_of_the_other(
    need: int, before: int | None, others: int, answer: Answer, by_replace: bool
) -> None:
    loaded = (
        Loaded(model="vad", accelerator_memory_bytes=None if before is None else before * GIB),
        Loaded(model="asr", accelerator_memory_bytes=others * GIB),
    )
    demand = asks(requires={"accelerator_memory_bytes": need * GIB})
    judged = judge(demand, site(L4, loaded=loaded))
    assert (the(judged, "accelerator-memory"), judged.only_by_replace) == (answer, by_replace)
    if by_replace:
        assert "fits only by replace" in judged.checks[-1].sentence


def test_what_was_learned_on_such_hardware_counts_when_it_is_more() -> None:
    learned = {"NVIDIA L4": Footprint(accelerator_memory_bytes=30 * GIB)}
    demand = asks(requires={"accelerator_memory_bytes": 6 * GIB}, learned=learned)
    assert judge(demand, site(L4)).verdict is NO
    assert judge(demand, site(A10)).verdict is OK
    assert "30.0 GiB" in judge(demand, site(L4)).against


def test_of_several_accelerators_no_model_is_larger_than_the_largest() -> None:
    demand = asks(requires={"accelerator_memory_bytes": 30 * GIB})
    assert judge(demand, site(L4, A10)).verdict is NO


# Code of the version's author: closed until the site opens it


@pytest.mark.parametrize(
    ("allowed", "answer"), [(True, OK), (False, NO), (None, NO)], ids=["yes", "no", "not said"]
)
def test_code_needs_the_sites_own_yes(allowed: bool | None, answer: Answer) -> None:
    judged = judge(asks(content_class="executable"), site(executable_allowed=allowed))
    assert the(judged, "executable") is answer
    assert answer is OK or "allow_executable = true" in judged.against


@pytest.mark.parametrize(
    ("version", "waiver", "answer"),
    [
        ("2.70.0", "", OK),
        ("2.51.0", "", NO),
        ("", "", NO),
        ("2.51.0", "the wheel is older (user:ann)", OK),
        ("", "the wheel is older (user:ann)", OK),
    ],
)
def test_code_needs_a_triton_at_the_floor_or_a_waiver(
    version: str, waiver: str, answer: Answer
) -> None:
    facts = site(triton=Triton(version=version), executable_allowed=True, floor_waiver=waiver)
    judged = judge(asks(content_class="executable"), facts)
    assert the(judged, "triton-floor") is answer
    assert answer is OK or "waive the floor" in judged.against


def test_data_asks_for_neither() -> None:
    names = {check.name for check in judge(asks(), site(triton=Triton(version="2.51"))).checks}
    assert names == {"disk"}


@pytest.mark.parametrize(
    ("signed_by", "allowed", "answer"),
    [("aa", False, OK), ("bb", False, NO), ("bb", True, OK), ("bb", None, UNKNOWN)],
)
def test_a_plan_needs_a_signature_that_the_site_trusts(
    signed_by: str, allowed: bool | None, answer: Answer
) -> None:
    facts = site(executable_allowed=allowed, trusted_keys=frozenset({"aa"}))
    demand = asks(content_class="opaque", signed_by=frozenset({signed_by}))
    assert judge(demand, facts).verdict is answer


def test_of_several_servers_the_one_that_speaks_least_against_it_counts() -> None:
    demand = asks(requires={"compute_capability": "8.9"})
    assert best_of(judge(demand, facts) for facts in (site(A10), site(L4))).verdict is OK
