"""What would relieve the binding step: figures only from evidence, and none where there is none."""

from dataclasses import replace
from math import factorial, inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.bottleneck import Finding, find_bottleneck
from controlplane.domain.pipelines import Pipeline, Step
from controlplane.domain.queueing import erlang_c, waiting_ms
from controlplane.domain.relief import Alternative, Options, Proposal, Relief, relief
from controlplane.domain.step_times import Pool, StepEvidence

EMBED = Step(name="embed", model="embedder", request_bytes=0, response_bytes=0)
WRITE = Step(name="write", model="writer", after=("embed",))
PIPELINE = Pipeline(steps=(EMBED, WRITE))
ROOM = Pool(
    utilization=0.3,
    memory_used_bytes=4e9,
    memory_total_bytes=24e9,
    power_watts=40.0,
    power_limit_watts=72.0,
)
GB = 1e9


def measured(**changes: Any) -> StepEvidence:
    facts: dict[str, Any] = {
        "requests": 3000, "seconds": 300.0, "queue_ms": 1.0, "infer_ms": 10.0, "executions": 3000,
        "instances": 1, "round_trip_ms": 0.0, "pool": ROOM,
    }  # fmt: skip
    return StepEvidence(**{**facts, **changes})


# One instance that is busy for nine tenths: nine requests of ten wait, 90 ms on average.
STARVED = measured(requests=27_000, executions=27_000, queue_ms=90.0)
SLOW = measured(infer_ms=200.0, executions=300)


def proposals(
    write: StepEvidence, options: Options | None = None, pipeline: Pipeline = PIPELINE, **more: Any
) -> tuple[Proposal, ...]:
    evidence = {step.name: measured() for step in pipeline.steps} | {"write": write}
    found = find_bottleneck(pipeline, evidence)
    assert found.step == "write", found
    return relief(pipeline, found, evidence, options, **more)


# Queues


def erlang_c_by_its_definition(servers: int, offered: float) -> float:
    last = offered**servers / factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**k / factorial(k) for k in range(servers)) + last)


@settings(max_examples=100, deadline=None)
@given(servers=st.integers(1, 40), busy=st.floats(0.01, 0.99))
def test_erlangs_formula_is_that_of_the_books(servers: int, busy: float) -> None:
    offered = busy * servers

    expected = erlang_c_by_its_definition(servers, offered)
    assert erlang_c(servers, offered) == pytest.approx(expected)


def test_one_server_waits_as_the_simplest_queue_does() -> None:
    """M/M/1: the wait is service times rho / (1 - rho)."""
    assert waiting_ms(1, 0.9, 10.0) == pytest.approx(90.0)
    assert erlang_c(2, 2.0) == 1.0
    assert waiting_ms(2, 2.0, 10.0) == inf


# More instances


def test_more_instances_shorten_the_wait_as_erlang_says() -> None:
    [proposal] = proposals(STARVED, Options(instance_memory_bytes=2 * GB))

    # Three would wait less, but three at work would ask for 100% of the accelerator.
    assert proposal.kind is Relief.INSTANCES
    assert proposal.gain_ms == pytest.approx(90 - waiting_ms(2, 0.9, 10.0))
    assert proposal.gain_share == pytest.approx((proposal.gain_ms or 0) / 111)
    assert proposal.sentence == (
        "2 instances of write instead of 1: write takes 12.5 ms instead of 100 ms, "
        "the whole 23.5 ms instead of 111 ms"
    )
    assert proposal.rests_on == (
        "M/M/c waiting (Erlang C) with the work of 0.9 instances",
        "27000 requests in 300 s",
        "an accelerator busy for 30% of the time",
        "2 GB more memory",
    )


def test_the_measured_wait_counts_and_the_model_only_says_how_it_changes() -> None:
    [uneven] = proposals(replace(STARVED, queue_ms=180.0))
    [even] = proposals(STARVED)

    assert uneven.gain_ms == pytest.approx(2 * (even.gain_ms or 0))


def test_instances_that_are_wholly_busy_have_no_model_of_now_and_keep_the_measured_wait() -> None:
    [proposal] = proposals(replace(STARVED, occupancy=1.0, queue_ms=500.0))

    assert proposal.gain_ms == pytest.approx(500 - waiting_ms(3, 1.0, 10.0))


@pytest.mark.parametrize(
    ("changes", "options", "refused"),
    [
        pytest.param(
            {"pool": replace(ROOM, memory_used_bytes=23.5 * GB)}, Options(),
            "98% of the memory is taken", id="memory is full",
        ),
        pytest.param(
            {"pool": replace(ROOM, power_watts=72.0)}, Options(), "100% of the power is taken",
            id="power is capped",
        ),
        pytest.param(
            {}, Options(instance_memory_bytes=21 * GB), "they take 21 GB, 20 GB are free",
            id="one more would not fit",
        ),
        pytest.param(
            {"pool": replace(ROOM, utilization=0.7)}, Options(),
            "there is no room beside those that work", id="two would not run beside each other",
        ),
        pytest.param(
            {"instances": 64, "occupancy": 0.99}, Options(),
            "there is no room beside those that work", id="there are as many as there can be",
        ),
    ],
)  # fmt: skip
def test_more_instances_are_refused_when(
    changes: dict[str, Any], options: Options, refused: str
) -> None:
    [proposal] = proposals(replace(STARVED, **changes), options)

    assert (proposal.refused, proposal.gain_ms) == (refused, None)


def test_nothing_is_promised_where_the_accelerator_is_not_known() -> None:
    [proposal] = proposals(replace(STARVED, pool=None))

    assert (proposal.gain_ms, proposal.refused) == (None, "")
    assert proposal.sentence == (
        "3 instances of write instead of 1: how much it would gain is not known, as how busy the "
        "accelerator is, is not reported"
    )


def test_nothing_is_promised_where_nobody_knows_how_many_instances_there_are() -> None:
    [proposal] = proposals(replace(STARVED, instances=None, occupancy=0.9))

    assert (proposal.kind, proposal.gain_ms) == (Relief.INSTANCES, None)


def test_instances_that_wait_for_nobody_are_not_multiplied() -> None:
    assert proposals(SLOW) == ()


# Larger batches


def test_the_best_of_the_measured_batches_that_fill_is_proposed() -> None:
    found = proposals(
        replace(STARVED, pool=None),
        Options(batch_infer_ms={1: 10.0, 4: 16.0, 8: 24.0, 64: 100.0, 128: nan, 2: -1.0}),
    )

    best = found[0]
    assert best.kind is Relief.BATCH
    # 90 requests a second for 90 ms: 8.1 wait, which fill batches of eight and never of 64.
    assert best.sentence.startswith("batches of 4 instead of 1: ")
    assert best.rests_on[1] == (
        "8.1 requests wait on average and fill such batches without a delay"
    )


def test_batches_that_nobody_measured_are_not_proposed() -> None:
    assert [each.kind for each in proposals(STARVED)] == [Relief.INSTANCES]


def test_batches_that_would_never_fill_are_not_proposed() -> None:
    found = proposals(STARVED, Options(batch_infer_ms={64: 11.0}))

    assert [each.kind for each in found] == [Relief.INSTANCES]


def test_batches_that_take_too_long_are_not_proposed() -> None:
    found = proposals(STARVED, Options(batch_infer_ms={4: 400.0}))

    assert [each.kind for each in found] == [Relief.INSTANCES]


# Another variant, tier or site


def test_alternatives_come_in_the_order_of_what_they_gain() -> None:
    options = Options(
        alternatives=[
            Alternative(kind=Relief.VARIANT, name="int8", requests=500, compute=120.0),
            Alternative(
                kind=Relief.TIER, name="regional", requests=500, transfer=30.0, compute=40.0
            ),
            Alternative(kind=Relief.SITE, name="fra-2", requests=500, transfer=3.0),
            Alternative(kind=Relief.VARIANT, name="fp8", requests=12, compute=1.0),
            Alternative(kind=Relief.TIER, name="hyperscale", requests=500, compute=1.0),
            Alternative(kind=Relief.VARIANT, name="odd", requests=500, compute=-5.0),
        ]
    )
    found = proposals(replace(SLOW, transfer_ms=10.0), options)

    assert [(each.sentence.split(":")[0], each.gain_ms) for each in found] == [
        ("write in tier regional", pytest.approx(140.0)),
        ("write as variant int8", pytest.approx(80.0)),
        ("write at fra-2", pytest.approx(7.0)),
        ("write as variant fp8", None),
        ("write in tier hyperscale", None),
        ("write as variant odd", None),
    ]
    assert found[1].rests_on == (
        "500 requests measured there",
        "transfer, queue, input, output as with the present one",
    )
    assert found[3].rests_on == ("of 12 requests there; 30 are asked for",)
    assert found[4].rests_on == ("as its transfer is not measured there",)
    assert found[5].rests_on == ("as it is said to take -5 ms",)


def test_what_would_take_no_less_time_is_refused() -> None:
    options = Options(
        alternatives=[Alternative(kind=Relief.VARIANT, name="fp32", requests=500, compute=300.0)]
    )
    [proposal] = proposals(SLOW, options)

    assert (proposal.refused, proposal.gain_ms) == ("it would take no less time", None)


def test_a_step_gains_no_more_than_until_another_chain_takes_longest() -> None:
    beside = Pipeline(steps=(EMBED, Step(name="write", model="writer")))
    options = Options(
        alternatives=[Alternative(kind=Relief.VARIANT, name="int8", requests=500, compute=1.0)]
    )
    [proposal] = proposals(SLOW, options, beside)

    # The step loses 199 ms; embed takes 11 ms beside it.
    assert proposal.gain_ms == pytest.approx(201 - 11)


def test_the_price_is_the_planners_word() -> None:
    options = Options(
        alternatives=[
            Alternative(kind=Relief.TIER, name="a", requests=99, transfer=1.0, compute=1.0),
            Alternative(kind=Relief.TIER, name="b", requests=99, transfer=1.0, compute=900.0),
        ]
    )
    found = proposals(SLOW, options, price=lambda each: 3.5 if each.kind is Relief.TIER else None)

    assert [(each.price, bool(each.refused)) for each in found] == [(3.5, False), (None, True)]


def test_without_an_answer_nothing_is_proposed() -> None:
    assert relief(PIPELINE, Finding(sentence="nothing is measured"), {}, Options()) == ()
    partly = Finding(step="write", sentence="how busy is not known", end_to_end_ms=3.0)
    assert relief(PIPELINE, partly, {"write": STARVED}, Options()) == ()


@settings(max_examples=100, deadline=None)
@given(
    queue=st.floats(0, 1e4),
    infer=st.floats(0.1, 1e4),
    occupancy=st.floats(0, 1),
    instances=st.integers(1, 20),
    utilization=st.floats(0, 1),
    batches=st.dictionaries(st.integers(2, 64), st.floats(), max_size=3),
    compute=st.floats(),
)
def test_no_gain_is_more_than_the_step_takes(
    queue: float,
    infer: float,
    occupancy: float,
    instances: int,
    utilization: float,
    batches: dict[int, float],
    compute: float,
) -> None:
    write = measured(
        queue_ms=queue,
        infer_ms=infer,
        occupancy=occupancy,
        instances=instances,
        pool=replace(ROOM, utilization=utilization),
    )
    evidence = {"embed": measured(queue_ms=0.0, infer_ms=0.01), "write": write}
    found = find_bottleneck(PIPELINE, evidence)
    options = Options(
        batch_infer_ms=batches,
        alternatives=[Alternative(kind=Relief.VARIANT, name="x", requests=99, compute=compute)],
    )

    for each in relief(PIPELINE, found, evidence, options):
        assert each.gain_ms is None or 0 < each.gain_ms <= queue + infer + 0.01
        assert (each.gain_ms is None) == (each.gain_share is None)
        assert not (each.refused and each.gain_ms)
        assert each.refused or each.rests_on
