"""How near an answer must come: the shared table of cases, and what holds for any numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_agent.errors import Permanent
from waypost_agent.golden import compare, parse_golden
from waypost_agent.ports import Tensor
from waypost_agent.tolerances import Cosine, Exact, Near, TopK, cosine, parse_tolerance
from waypost_agent.triton_tensors import tensor_of

TABLE = Path(__file__).resolve().parents[2] / "docs" / "protocol" / "golden-tolerances.json"
CASES: list[dict[str, Any]] = json.loads(TABLE.read_bytes())["cases"]
TYPES = {
    "FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
SPECIAL = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


def answered(tensor: dict[str, Any]) -> Tensor:
    """Read apart from the code under test."""
    if tensor["datatype"] == "BYTES":
        data = np.array([text.encode() for text in tensor["data"]], dtype=object)
    else:
        values = [SPECIAL.get(v, v) if isinstance(v, str) else v for v in tensor["data"]]
        data = np.array(values, dtype=TYPES[tensor["datatype"]])
    return tensor_of("y", data.reshape(tensor["shape"]))


def outcome(case: dict[str, Any]) -> str:
    try:
        (request,) = parse_golden(json.dumps(case["document"]).encode())
        assert case["actual"] is not None, "the document was to be refused"
        compare(request, {"y": answered(case["actual"])})
    except Permanent as error:
        return {"manifest-invalid": "invalid", "golden-mismatch": "fails"}[error.code]
    return "passes"


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_case_of_the_shared_table(case: dict[str, Any]) -> None:
    assert outcome(case) == case["outcome"]


def test_the_table_has_each_outcome_for_each_kind() -> None:
    seen = {
        (key, case["outcome"])
        for case in CASES
        for output in case["document"]["requests"][0]["outputs"]
        for key in (output.get("tolerance") if isinstance(output.get("tolerance"), dict) else {})
    }
    kinds = ("absolute", "relative", "cosine", "exact", "top_k")
    assert {(kind, end) for kind in kinds for end in ("passes", "fails", "invalid")} <= seen


def tensor(row: list[Any]) -> Tensor:
    return Tensor(name="y", datatype="FP64", shape=(1, len(row)), values=tuple(row))


@pytest.mark.parametrize(
    ("value", "place_and_cure"),
    [
        ({"ssim": 1}, ' has ssim; it must be exactly one of {"absolute"'),
        ({"cosine": 2}, ".cosine must be a number over 0 and at most 1, it is 2"),
        ({"top_k": 9}, ".top_k is 9, but the output has 2 values"),
        ({"exact": False}, ".exact must be true"),
    ],
)
def test_a_refusal_says_what_would_be_right(value: Any, place_and_cure: str) -> None:
    with pytest.raises(ValueError, match=re.escape(place_and_cure)):
        parse_tolerance(value, "FP32", (2,))


def test_a_fault_names_rank_row_and_both_places() -> None:
    fault = TopK(count=2).fault(tensor([3, 2, 1]), tensor([3, 1, 2]))
    assert fault == "has 2 at rank 2 of row 0 where 1 was expected (of the 2 largest)"


def test_a_fault_of_a_cosine_names_it_and_what_is_asked() -> None:
    fault = Cosine(least=0.5).fault(tensor([1.0, 0.0]), tensor([0.0, 1.0]))
    assert fault == "has the cosine 0 to the expected one, at least 0.5 is asked"


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(FLOATS, min_size=1, max_size=30)


@given(ROWS, st.floats(2**-20, 2.0**20))
def test_the_cosine_does_not_know_how_long_a_vector_is(values: list[float], factor: float) -> None:
    longer = [value * factor for value in values]
    assert Cosine(least=1.0).fault(tensor(values), tensor(longer)) is None
    turned = [-value for value in values]
    assert cosine(values, turned) == (1.0 if not any(values) else pytest.approx(-1.0))


@given(ROWS, ROWS)
def test_the_cosine_agrees_with_the_plain_formula(one: list[float], other: list[float]) -> None:
    size = min(len(one), len(other))
    a, b = (np.array(each[:size], np.float64) for each in (one, other))
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    if 1e-100 < lengths < 1e100:
        assert cosine(one[:size], other[:size]) == pytest.approx(float(a @ b / lengths), abs=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.data())
def test_top_k_is_what_sorting_by_hand_gives(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    other = data.draw(st.lists(st.integers(-3, 3), min_size=len(values), max_size=len(values)))

    def places(row: list[int]) -> list[int]:
        return sorted(range(len(row)), key=lambda place: (-row[place], place))[:count]

    fault = TopK(count=count).fault(tensor(values), tensor(other))
    assert (fault is None) is (places(values) == places(other))


@given(st.lists(st.floats(width=32), max_size=8))
def test_what_is_exact_is_near_as_well(values: list[float]) -> None:
    assert Exact().fault(tensor(values), tensor(values)) is None
    assert Near().fault(tensor(values), tensor(values)) is None
