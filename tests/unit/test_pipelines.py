"""A pipeline is a graph: what is refused and where, what comes back, and which chain is longest."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import FieldError
from controlplane.domain.pipelines import (
    MAX_STEPS,
    Pipeline,
    Role,
    Step,
    parse_pipeline,
    pipeline_of,
)

MODELS = {"resize", "embedder", "writer"}


def step(name: str, *after: str, **changes: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "model": "writer", **changes}
    if after:
        entry["after"] = list(after)
    return {key: value for key, value in entry.items() if value is not ...}


def faults_of(document: object) -> list[tuple[str, str]]:
    faults: list[FieldError] = []
    assert parse_pipeline(document, "pipeline", faults, models=MODELS) is None
    return [(fault.field, fault.message) for fault in faults]


def parsed(*steps: dict[str, Any]) -> Pipeline:
    faults: list[FieldError] = []
    pipeline = parse_pipeline({"steps": list(steps)}, "pipeline", faults, models=MODELS)
    assert pipeline is not None, faults
    return pipeline


def test_a_pipeline_is_read_in_the_order_in_which_it_runs() -> None:
    pipeline = parsed(
        step("generate", "embed", "search", request_bytes=4000, response_bytes=900),
        step("search", "embed", service="https://search.example", model=...),
        step("embed", "resize", model="embedder"),
        step("resize", model="resize", role="preprocess", request_bytes=1_500_000),
    )

    assert [each.name for each in pipeline.steps] == ["resize", "embed", "search", "generate"]
    assert pipeline.models == ("resize", "embedder", "writer")
    assert pipeline.step("resize") == Step(
        name="resize", model="resize", role=Role.PREPROCESS, request_bytes=1_500_000
    )
    assert pipeline.step("search").service == "https://search.example"


def test_what_a_pipeline_says_of_itself_is_read_back_the_same() -> None:
    pipeline = parsed(
        step("a", role="preprocess", request_bytes=0), step("b", "a"), step("c", "a", "b")
    )

    assert pipeline_of(pipeline.document()) == pipeline
    assert pipeline.document() == {
        "steps": [
            {"name": "a", "model": "writer", "request_bytes": 0, "role": "preprocess"},
            {"name": "b", "model": "writer", "after": ["a"]},
            {"name": "c", "model": "writer", "after": ["a", "b"]},
        ]
    }


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        pytest.param(None, [("pipeline", "must be an object with steps")], id="nothing"),
        pytest.param([], [("pipeline", "must be an object with steps")], id="a list"),
        pytest.param(
            {"steps": []}, [("pipeline.steps", "must be a list of 1 to 50 steps")], id="no step"
        ),
        pytest.param(
            {"steps": [step(f"s{i}") for i in range(MAX_STEPS + 1)]},
            [("pipeline.steps", "must be a list of 1 to 50 steps")],
            id="too many steps",
        ),
        pytest.param(
            {"steps": [step("a")], "name": "x"},
            [("pipeline.name", "is not known; a pipeline has some of steps")],
            id="an unknown key",
        ),
        pytest.param(
            {"steps": ["a"]},
            [
                (
                    "pipeline.steps[0]",
                    "must be an object with some of name, model, service, role, request_bytes, "
                    "response_bytes, after",
                )
            ],
            id="a step that is a word",
        ),
        pytest.param(
            {"steps": [step("a", "b"), step("b", "a")]},
            [
                (
                    "pipeline.steps",
                    "go round in a circle: a before b before a; every step is after another, so "
                    "none can begin; every step is before another, so none is the last",
                )
            ],
            id="a circle with no first and no last step",
        ),
        pytest.param(
            {"steps": [step("first"), step("a", "first", "b"), step("b", "a"), step("end", "b")]},
            [("pipeline.steps", "go round in a circle: a before b before a")],
            id="a circle in the middle",
        ),
        pytest.param(
            {"steps": [step("a", "a")]},
            [
                (
                    "pipeline.steps",
                    "go round in a circle: a before a; every step is after another, so none can "
                    "begin; every step is before another, so none is the last",
                )
            ],
            id="a step after itself",
        ),
        pytest.param(
            {"steps": [step("a"), step("b", "c", "a")]},
            [("pipeline.steps[1].after", "names 'c', which is no step of this pipeline")],
            id="an unknown step",
        ),
        pytest.param(
            {"steps": [step("a", model="gone")]},
            [("pipeline.steps[0].model", "is 'gone', which the catalog does not have")],
            id="an unknown model",
        ),
        pytest.param(
            {"steps": [step("a"), step("a")]},
            [("pipeline.steps", "the name 'a' is there twice")],
            id="a name twice",
        ),
        pytest.param(
            {"steps": [step("a"), step("b", "a", "a")]},
            [("pipeline.steps[1].after", "has a name twice")],
            id="after a step twice",
        ),
        pytest.param(
            {"steps": [step("a", service="x")]},
            [("pipeline.steps[0]", "must have a model or a service, and not both")],
            id="a model and a service",
        ),
        pytest.param(
            {"steps": [step("a", model=...)]},
            [("pipeline.steps[0]", "must have a model or a service, and not both")],
            id="neither a model nor a service",
        ),
        pytest.param(
            {"steps": [step("A b", role="magic", request_bytes=-1, response_bytes=True, after=1)]},
            [
                ("pipeline.steps[0].name", "must be 1 to 40 of a-z 0-9 -, such as embed"),
                ("pipeline.steps[0].role", "must be one of inference, preprocess"),
                (
                    "pipeline.steps[0].request_bytes",
                    "must be a whole number of bytes from 0 to 1000000000000, or null",
                ),
                (
                    "pipeline.steps[0].response_bytes",
                    "must be a whole number of bytes from 0 to 1000000000000, or null",
                ),
                ("pipeline.steps[0].after", "must be a list of names of steps"),
            ],
            id="everything wrong at once",
        ),
        pytest.param(
            {"steps": [step("a", model=7)]},
            [("pipeline.steps[0].model", "must be a name of 1 to 200 characters")],
            id="a model that is a number",
        ),
    ],
)
def test_a_fault_is_told_where_it_stands(document: object, faults: list[tuple[str, str]]) -> None:
    assert faults_of(document) == faults


def test_without_a_catalog_any_model_is_taken() -> None:
    faults: list[FieldError] = []

    assert parse_pipeline({"steps": [step("a", model="gone")]}, "pipeline", faults) is not None
    assert not faults


DIAMOND = parsed(step("in"), step("left", "in"), step("right", "in"), step("out", "left", "right"))


@pytest.mark.parametrize(
    ("times", "path", "whole"),
    [
        ({"in": 1, "left": 5, "right": 3, "out": 1}, ("in", "left", "out"), 7),
        ({"in": 1, "left": 5, "right": 6, "out": 1}, ("in", "right", "out"), 8),
        ({"in": 1, "left": 5, "right": 5, "out": 1}, ("in", "left", "out"), 7),
        ({"right": 2}, ("in", "right", "out"), 2),
        ({}, ("in", "left", "out"), 0),
    ],
    ids=["left is longer", "right is longer", "as long", "others take no time", "nothing known"],
)
def test_the_critical_path_is_the_chain_that_takes_longest(
    times: dict[str, float], path: tuple[str, ...], whole: float
) -> None:
    assert DIAMOND.critical_path(times) == path
    assert DIAMOND.end_to_end(times) == whole


def test_a_pipeline_may_begin_and_end_at_several_steps() -> None:
    pipeline = parsed(step("a"), step("b"), step("c", "b"))

    assert pipeline.critical_path({"a": 9, "b": 1, "c": 1}) == ("a",)
    assert pipeline.critical_path({"a": 1, "b": 1, "c": 1}) == ("b", "c")


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Steps that come after some of those before them, shuffled."""
    count = draw(st.integers(1, 8))
    made = [
        step(f"s{i}", *sorted(draw(st.sets(st.sampled_from([f"s{j}" for j in range(i)])))))
        if i
        else step("s0")
        for i in range(count)
    ]
    return list(draw(st.permutations(made)))


@settings(max_examples=100, deadline=None)
@given(steps=graphs(), times=st.lists(st.integers(0, 100), min_size=8, max_size=8))
def test_whatever_the_graph_steps_follow_those_before_them_and_the_path_holds_together(
    steps: list[dict[str, Any]], times: list[int]
) -> None:
    pipeline = parsed(*steps)
    taken = {f"s{i}": float(ms) for i, ms in enumerate(times)}
    path = pipeline.critical_path(taken)

    order = [each.name for each in pipeline.steps]
    assert all(order.index(b) < order.index(s.name) for s in pipeline.steps for b in s.after)
    assert not pipeline.step(path[0]).after
    assert all(b in pipeline.step(a).after for b, a in pairwise(path))
    assert pipeline.end_to_end(taken) >= max(taken[name] for name in order)
    assert pipeline_of(pipeline.document()) == pipeline


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["steps", "name", "model", "role", "after", "request_bytes"]), inner
        )
    ),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(document=JSON)
def test_whatever_is_sent_is_either_read_or_refused_with_a_fault(document: object) -> None:
    faults: list[FieldError] = []
    pipeline = parse_pipeline(document, "pipeline", faults)

    assert (pipeline is None) == bool(faults)
