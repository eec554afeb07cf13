"""Which step binds a pipeline and with what: injected causes, thin evidence, and no flapping."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.bottleneck import (
    Finding,
    Marker,
    Resource,
    find_bottleneck,
    moved,
)
from controlplane.domain.pipelines import Pipeline, Role, Step
from controlplane.domain.step_times import PARTS, Pool, StepEvidence, StepTime, step_time

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
PIPELINE = Pipeline(
    steps=(
        Step(
            name="resize",
            model="resize",
            role=Role.PREPROCESS,
            request_bytes=1_500_000,
            response_bytes=20_000,
        ),
        Step(
            name="detect",
            model="detect",
            request_bytes=20_000,
            response_bytes=1_000,
            after=("resize",),
        ),
    )
)
ROOM = Pool(
    utilization=0.4,
    memory_used_bytes=4e9,
    memory_total_bytes=24e9,
    power_watts=40.0,
    power_limit_watts=72.0,
)
NO_MEMORY = replace(ROOM, memory_used_bytes=23e9)


def measured(**changes: Any) -> StepEvidence:
    """A step that does well: 3000 requests in five minutes, one by one, of 12 ms."""
    facts: dict[str, Any] = {
        "requests": 3000, "seconds": 300.0, "age_seconds": 30.0, "queue_ms": 1.0, "input_ms": 0.5,
        "infer_ms": 10.0, "output_ms": 0.5, "executions": 3000, "instances": 1,
        "round_trip_ms": 0.0, "pool": ROOM,
    }  # fmt: skip
    return StepEvidence(**{**facts, **changes})


def found(resize: dict[str, Any] | None = None, detect: dict[str, Any] | None = None) -> Finding:
    evidence = {"resize": measured(**(resize or {})), "detect": measured(**(detect or {}))}
    return find_bottleneck(PIPELINE, evidence)


# The four causes of the proof, and the rest


@pytest.mark.parametrize(
    ("resize", "detect", "step", "resource", "sentence"),
    [
        pytest.param(
            {"infer_ms": 80.0}, {}, "resize", Resource.PREPROCESSING,
            "resize takes 82 ms of 94 ms (87%): preparing the input is 99% of it",
            id="preprocessing is slow",
        ),
        pytest.param(
            {"round_trip_ms": 40.0, "bytes_per_second": 2e6}, {}, "resize", Resource.NETWORK,
            "resize takes 812 ms of 824 ms (99%): transfer is 99% of it",
            id="the link is throttled",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "executions": 29_000}, "detect", Resource.QUEUE,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, with the instances busy "
            "for 97% of the time; the accelerator, busy for 40%, has room for more instances",
            id="the queue is starved of instances",
        ),
        pytest.param(
            {}, {"infer_ms": 200.0, "executions": 300}, "detect", Resource.COMPUTE,
            "detect takes 202 ms of 214 ms (94%): computing is 99% of it",
            id="compute is slow",
        ),
        pytest.param(
            {}, {"infer_ms": 200.0, "pool": replace(ROOM, power_watts=71.0)}, "detect",
            Resource.POWER,
            "detect takes 202 ms of 214 ms (94%): computing is 99% of it, at 99% of the power "
            "that it may take",
            id="compute at the accelerator's power limit",
        ),
        pytest.param(
            {}, {"infer_ms": 200.0, "pool": Pool(site_watts=9700.0, envelope_watts=10_000.0)},
            "detect", Resource.POWER,
            "detect takes 202 ms of 214 ms (94%): computing is 99% of it, at 97% of the power "
            "that it may take",
            id="compute at the site's envelope",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "occupancy": 0.97, "pool": NO_MEMORY},
            "detect", Resource.MEMORY,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, with the instances busy "
            "for 97% of the time and 96% of the memory taken",
            id="no memory for another instance",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "occupancy": 0.97, "pool": replace(ROOM, utilization=0.99)},
            "detect", Resource.COMPUTE,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, with the instances busy "
            "for 97% of the time and 99% of the accelerator's time taken",
            id="the accelerator itself is full",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "occupancy": 0.97, "pool": replace(ROOM, power_watts=72.0)},
            "detect", Resource.POWER,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, with the instances busy "
            "for 97% of the time and 100% of the power taken",
            id="requests wait on an accelerator that is capped",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "occupancy": 0.97, "pool": None}, "detect", Resource.QUEUE,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, with the instances busy "
            "for 97% of the time; how busy the accelerator is, is not known",
            id="nothing is known of the accelerator",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "occupancy": 0.2}, "detect", None,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, but the instances are "
            "busy for 20% of the time: a delay to fill batches, or bursts shorter than the window",
            id="requests wait for idle instances",
        ),
        pytest.param(
            {}, {"queue_ms": 90.0, "instances": None}, "detect", None,
            "detect takes 101 ms of 113 ms (89%): waiting is 89% of it, but how busy the "
            "instances are is not known",
            id="nobody knows how busy the instances are",
        ),
        pytest.param(
            {}, {"input_ms": 60.0}, "detect", Resource.PREPROCESSING,
            "detect takes 71.5 ms of 83.5 ms (86%): the model's input is 84% of it",
            id="a model's own input takes longest",
        ),
        pytest.param(
            {}, {"transfer_ms": 6.0, "link_share": 0.95}, "detect", Resource.NETWORK,
            "detect takes 18 ms of 30 ms (60%): transfer is 33% of it and the link is 95% used",
            id="the link is nearly full",
        ),
        pytest.param(
            {}, {"transfer_ms": 1.0, "link_share": 0.95, "infer_ms": 30.0}, "detect",
            Resource.COMPUTE,
            "detect takes 33 ms of 45 ms (73%): computing is 92% of it",
            id="a full link that hardly matters to this step",
        ),
        pytest.param(
            {}, {"infer_ms": 200.0, "round_trip_ms": None}, "detect", Resource.COMPUTE,
            "detect takes 202 ms of 214 ms (94%): computing is 99% of it; not known: transfer of "
            "detect",
            id="transfer is not known",
        ),
    ],
)  # fmt: skip
def test_what_binds_when(
    resize: dict[str, Any],
    detect: dict[str, Any],
    step: str,
    resource: Resource | None,
    sentence: str,
) -> None:
    said = found(resize, detect)

    assert (said.step, said.resource, said.sentence) == (step, resource, sentence)
    assert said.path == ("resize", "detect")


def test_the_figures_of_the_sentence_stand_beside_it() -> None:
    said = found({}, {"queue_ms": 90.0, "occupancy": 0.97})

    assert said.figures == {
        "share_of_path": pytest.approx(101 / 113),
        "queue_share": pytest.approx(90 / 101),
        "occupancy": 0.97,
        "utilization": 0.4,
    }
    assert said.end_to_end_ms == pytest.approx(113)


def test_a_step_beside_the_longest_chain_never_binds() -> None:
    pipeline = Pipeline(
        steps=(
            Step(name="in", model="m"),
            Step(name="quick", model="m", after=("in",)),
            Step(name="slow-one", model="m", after=("in",)),
            Step(name="slow-two", model="m", after=("slow-one",)),
            Step(name="out", model="m", after=("quick", "slow-two")),
        )
    )
    times = {"in": 1.0, "quick": 50.0, "slow-one": 30.0, "slow-two": 35.0, "out": 1.0}
    said = find_bottleneck(pipeline, {name: measured(infer_ms=ms) for name, ms in times.items()})

    assert said.step == "slow-two"
    assert said.path == ("in", "slow-one", "slow-two", "out")


def test_an_external_service_is_its_own_time_and_its_transfer() -> None:
    pipeline = Pipeline(steps=(Step(name="search", service="https://search.example"),))
    evidence = StepEvidence(requests=100, seconds=60.0, infer_ms=70.0, transfer_ms=20.0)

    said = find_bottleneck(pipeline, {"search": evidence})

    assert (said.step, said.resource) == ("search", Resource.COMPUTE)


# Evidence that is no evidence


@pytest.mark.parametrize(
    ("detect", "sentence"),
    [
        pytest.param(
            {"requests": 29}, "step detect had 29 requests, 30 are asked for", id="too few requests"
        ),
        pytest.param(
            {"age_seconds": 601.0}, "the newest figures of step detect are 601 s old", id="stale"
        ),
        pytest.param(
            {"infer_ms": None}, "the times of step detect are not reported", id="no compute time"
        ),
        pytest.param(
            {"queue_ms": None}, "the times of step detect are not reported", id="no queue time"
        ),
        pytest.param({"queue_ms": -1.0}, "step detect: queue_ms is -1.0", id="negative"),
        pytest.param({"infer_ms": nan}, "step detect: infer_ms is nan", id="not a number"),
        pytest.param({"infer_ms": inf}, "step detect: infer_ms is inf", id="endless"),
        pytest.param(
            {"seconds": 0.0}, "step detect: seconds is 0, which is no window", id="no window"
        ),
        pytest.param(
            {"bytes_per_second": 0.0},
            "step detect: bytes_per_second is 0, yet requests came",
            id="a link that carries nothing",
        ),
        pytest.param(
            {"occupancy": 3.0},
            "step detect: occupancy is 3, and is a share of 1",
            id="busier than there is time",
        ),
        pytest.param(
            {"pool": Pool(utilization=97.0)},
            "step detect: utilization is 97, and is a share of 1",
            id="percent for a share",
        ),
        pytest.param(
            {"pool": Pool(memory_used_bytes=9e9, memory_total_bytes=1e9)},
            "step detect: memory_used_bytes is more than there are",
            id="more memory than there is",
        ),
    ],
)
def test_there_is_no_answer_when(detect: dict[str, Any], sentence: str) -> None:
    said = found({"infer_ms": 500.0}, detect)

    assert said.resource is None
    assert said.sentence == sentence
    assert said.time_of("resize") is not None


def test_a_step_nobody_measures_may_be_the_one_that_binds() -> None:
    said = find_bottleneck(PIPELINE, {"resize": measured(infer_ms=500.0)})

    assert said.resource is None
    assert said.sentence == "nothing is measured of step detect"


def test_steps_that_take_no_time_bind_nothing() -> None:
    nothing = {"queue_ms": 0.0, "input_ms": 0.0, "infer_ms": 0.0, "output_ms": 0.0}

    said = found(nothing, nothing)

    assert (said.resource, said.sentence) == (None, "no step takes any time")


# Transfer


@pytest.mark.parametrize(
    ("changes", "transfer", "unknown"),
    [
        ({"round_trip_ms": 0.0}, 0.0, ()),
        ({"round_trip_ms": 10.0, "bytes_per_second": 15.2e6}, 110.0, ()),
        ({"round_trip_ms": 0.0, "bytes_per_second": 15.2e6}, 100.0, ()),
        ({"round_trip_ms": 10.0}, 10.0, ("transfer",)),
        ({"round_trip_ms": None}, None, ("transfer",)),
        ({"round_trip_ms": 10.0, "transfer_ms": 3.0}, 3.0, ()),
    ],
    ids=[
        "within a site",
        "round trip and payload",
        "payload alone",
        "throughput not known",
        "nothing known",
        "as traces saw it",
    ],
)
def test_transfer_is_round_trip_and_payload(
    changes: dict[str, Any], transfer: float | None, unknown: tuple[str, ...]
) -> None:
    time = step_time(PIPELINE.steps[0], measured(**changes))

    assert time.transfer == (None if transfer is None else pytest.approx(transfer))
    assert time.unknown == unknown


def test_a_payload_nobody_stated_leaves_the_transfer_known_in_part() -> None:
    time = step_time(Step(name="a", model="m"), measured(round_trip_ms=10.0, bytes_per_second=1e6))

    assert (time.transfer, time.unknown) == (10.0, ("transfer",))


# Moves


def saying(step: str, resource: Resource | None, **times: float) -> Finding:
    return Finding(
        step=step,
        resource=resource,
        sentence="",
        times=tuple(StepTime(step=name, compute=ms) for name, ms in times.items()),
    )


RESIZE = saying("resize", Resource.PREPROCESSING, resize=55, detect=50)
DETECT = saying("detect", Resource.QUEUE, resize=50, detect=55)
CAPPED = saying("detect", Resource.POWER, resize=50, detect=55)
DETECT_CLEARLY = saying("detect", Resource.QUEUE, resize=50, detect=75)
NONE = saying("", None)


def after(*findings: Finding) -> Marker | None:
    marker: Marker | None = None
    for index, finding in enumerate(findings):
        marker = moved(marker, finding, at=NOW + index * WINDOW)
    return marker


def test_the_first_answer_is_no_move() -> None:
    assert after(NONE, RESIZE) == Marker(
        step="resize", resource=Resource.PREPROCESSING, since=NOW + WINDOW
    )
    assert after(NONE) is None


@pytest.mark.parametrize(
    ("findings", "step"),
    [
        ([RESIZE, DETECT], "resize"),
        ([RESIZE, DETECT, DETECT], "resize"),
        ([RESIZE, DETECT, DETECT, DETECT], "detect"),
        ([RESIZE, DETECT_CLEARLY], "resize"),
        ([RESIZE, DETECT_CLEARLY, DETECT_CLEARLY], "detect"),
        ([RESIZE, DETECT, DETECT, RESIZE, DETECT], "resize"),
        ([RESIZE, DETECT, CAPPED, DETECT, CAPPED], "resize"),
        ([RESIZE, DETECT, NONE, DETECT, NONE, DETECT], "detect"),
    ],
    ids=[
        "one window",
        "two windows",
        "three windows",
        "one clear window",
        "two clear windows",
        "interrupted",
        "two others in turn",
        "windows without an answer between",
    ],
)
def test_a_move_must_hold(findings: list[Finding], step: str) -> None:
    marker = after(*findings)

    assert marker is not None
    assert marker.step == step


def test_a_move_names_what_bound_before_and_since_when() -> None:
    marker = after(RESIZE, DETECT, DETECT, DETECT)

    assert marker is not None
    assert marker.moved_from == ("resize", Resource.PREPROCESSING)
    assert marker.since == NOW + 3 * WINDOW
    later = moved(marker, DETECT, at=NOW + 4 * WINDOW)
    assert later == marker


def test_another_resource_of_the_same_step_is_a_move_too() -> None:
    marker = after(DETECT, CAPPED, CAPPED, CAPPED)

    assert marker is not None
    assert marker.binding == ("detect", Resource.POWER)


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=2, max_size=30),
    between=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_the_marker_never_flaps_on_alternating_windows(
    times: list[tuple[float, float]], between: list[bool]
) -> None:
    """However far apart the two are, and whatever windows without an answer come between."""
    marker: Marker | None = None
    first: Marker | None = None
    for index, (resize, detect) in enumerate(times):
        name = ("resize", "detect")[index % 2]
        windows = [saying(name, Resource.COMPUTE, resize=resize, detect=detect)]
        for finding in windows + ([NONE] if between[index] else []):
            marker = moved(marker, finding, at=NOW + index * WINDOW)
        first = first or marker
        assert marker is not None
        assert first is not None
        assert (marker.binding, marker.moved_from) == (first.binding, None)


# Properties of the parts

MS = st.floats(0, 1e5) | st.none()
PLAUSIBLE = st.builds(
    StepEvidence,
    requests=st.integers(30, 10**6),
    seconds=st.just(300.0),
    queue_ms=st.floats(0, 1e5),
    infer_ms=st.floats(0, 1e5),
    input_ms=MS,
    output_ms=MS,
    transfer_ms=MS,
    executions=st.integers(0, 10**6) | st.none(),
    instances=st.integers(1, 8) | st.none(),
    occupancy=st.floats(0, 1) | st.none(),
    link_share=st.floats(0, 1) | st.none(),
)


@settings(max_examples=100, deadline=None)
@given(evidence=PLAUSIBLE)
def test_the_parts_are_the_whole(evidence: StepEvidence) -> None:
    time = step_time(PIPELINE.steps[0], evidence)

    assert sum(time.parts.values()) == time.total_ms
    assert tuple(time.parts) == PARTS
    if time.total_ms:
        assert sum(time.shares.values()) == pytest.approx(1.0)


@settings(max_examples=100, deadline=None)
@given(resize=PLAUSIBLE, detect=PLAUSIBLE, power=st.integers(-8, 8))
def test_times_that_all_grow_alike_leave_the_same_step_binding(
    resize: StepEvidence, detect: StepEvidence, power: int
) -> None:
    """By a power of two, which rounds nothing."""

    def scaled(evidence: StepEvidence) -> StepEvidence:
        names = ("queue_ms", "input_ms", "infer_ms", "output_ms", "transfer_ms", "seconds")
        values = {name: getattr(evidence, name) for name in names}
        return replace(evidence, **{k: v * 2.0**power for k, v in values.items() if v is not None})

    one = find_bottleneck(PIPELINE, {"resize": resize, "detect": detect})
    other = find_bottleneck(PIPELINE, {"resize": scaled(resize), "detect": scaled(detect)})

    assert (one.step, one.resource, one.path) == (other.step, other.resource, other.path)


FIGURES = [
    *("queue_ms", "infer_ms", "transfer_ms", "round_trip_ms", "bytes_per_second"),
    *("seconds", "age_seconds", "occupancy", "link_share"),
]


@settings(max_examples=150, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from(FIGURES),
        st.floats(),
    )
)
def test_no_figure_makes_it_fail(values: dict[str, float]) -> None:
    said = found({}, values)

    assert said.sentence
    assert said.resource is None or said.step in ("resize", "detect")
    assert said.end_to_end_ms is None or isfinite(said.end_to_end_ms)
