"""How near an answer must come: the table that sites keep to, and what holds for any numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waypost_cli.errors import CliError
from waypost_cli.golden import Tolerance, cosine, difference, fault, ranked_alike
from waypost_cli.golden_document import parse_golden, written
from waypost_cli.golden_tensors import Tensor, parse_tensor

TABLE = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "golden-tolerances.json"
CASES: list[dict[str, Any]] = json.loads(TABLE.read_bytes())["cases"]


def outcome(case: dict[str, Any]) -> str:
    try:
        (golden,) = parse_golden(case["document"])
    except CliError:
        return "invalid"
    (expected,) = golden.outputs
    have = parse_tensor({"name": "y", **case["actual"]}, "the answer")
    return "passes" if fault(expected.tolerance, expected.tensor, have) is None else "fails"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_case_of_the_shared_table(case: dict[str, Any]) -> None:
    assert outcome(case) == case["outcome"]


@pytest.mark.parametrize(
    "case", [c for c in CASES if c["outcome"] != "invalid"], ids=lambda case: case["name"]
)
def test_what_is_written_says_the_same(case: dict[str, Any]) -> None:
    body = written(parse_golden(case["document"]))
    assert outcome({**case, "document": json.loads(body)}) == case["outcome"]


def fp32(*data: float) -> Tensor:
    return Tensor(name="y", datatype="FP32", shape=(len(data),), data=data)


NUMBERS = st.lists(st.floats(width=32), min_size=1, max_size=8)


@given(NUMBERS)
def test_a_tensor_passes_for_itself(data: list[float]) -> None:
    tensor = fp32(*data)
    assert difference(tensor, tensor).count == 0
    for tolerance in (Tolerance(), Tolerance(kind="exact")):
        assert fault(tolerance, tensor, tensor) is None
    if not any(map(math.isnan, data)):
        assert ranked_alike(tensor, tensor) == len(data)
    if all(map(math.isfinite, data)):
        assert fault(Tolerance(kind="cosine"), tensor, tensor) is None


@given(NUMBERS, st.data())
def test_the_difference_is_the_least_absolute_tolerance(data: list[float], draw: Any) -> None:
    finite = st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        min_size=len(data),
        max_size=len(data),
    )
    want, have = fp32(*draw.draw(finite)), fp32(*draw.draw(finite))
    apart = difference(want, have).absolute
    assert fault(Tolerance(absolute=apart), want, have) is None
    if apart:
        assert fault(Tolerance(absolute=apart * 0.99), want, have) is not None
    assert -1.0000001 <= cosine(want, have) <= 1.0000001


def test_a_fault_says_what_differs_and_where() -> None:
    said = fault(Tolerance(absolute=0.1), fp32(1.0, 2.0, 3.0), fp32(1.0, 2.5, 9.0))
    assert said == "is 2.5 at 1 where 2.0 was expected (2 of 3 values)"
    assert fault(Tolerance(), fp32(1.0), None) == "is not in the answer"
    assert str(difference(fp32(1.0, 2.0), fp32(1.0, 2.5))) == "0.5 at 1 (0.25 relative)"


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128), ("UINT8", -1), ("INT64", 1 << 63), ("INT32", 1.0), ("INT32", True),
        ("BOOL", 1), ("BYTES", 1), ("BYTES", "\ud800"), ("FP32", "nan"), ("FP32", None),
        ("FP32", 1e39), ("FP16", 65_520.0), ("FP64", 10**400), ("FP32", True),
    ],
)  # fmt: skip
def test_a_value_that_its_type_cannot_hold(datatype: str, value: object) -> None:
    entry = {"name": "y", "datatype": datatype, "shape": [1], "data": [value]}
    with pytest.raises(CliError, match=datatype):
        parse_tensor(entry, "requests[0].inputs[0]")


def test_nested_data_and_server_values_are_read() -> None:
    entry = {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [[0.1, math.nan], [1, 2]]}
    tensor = parse_tensor(entry, "y")
    assert tensor.document["data"] == [0.10000000149011612, "NaN", 1.0, 2.0]
