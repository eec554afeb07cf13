"""What counts as the expected answer, and what golden.json may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import triton_to_np_dtype

from versions import golden_document
from waypost_agent.errors import Permanent
from waypost_agent.golden import GoldenRequest, compare, parse_golden, require_speed
from waypost_agent.tolerances import Near
from waypost_agent.triton_tensors import array_of, tensor_of

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"


def golden(
    datatype: str, data: list[Any], shape: list[int] | None = None, **tolerance: float
) -> GoldenRequest:
    tensor = {"name": "y", "datatype": datatype, "shape": shape or [len(data)], "data": data}
    request = {
        "name": "one",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0]}],
        "outputs": [{**tensor, "tolerance": tolerance}],
    }
    body = json.dumps({"schema": "waypost.golden/1", "requests": [request]})
    (parsed,) = parse_golden(body.encode())
    return parsed


def passes(request: GoldenRequest, actual: Any) -> bool:
    try:
        compare(request, {"y": tensor_of("y", actual)})
    except Permanent:
        return False
    return True


FP32 = np.float32
CASES = [
    ("exact", golden("FP32", [1.5]), np.array([1.5], FP32), True),
    ("off by a little without tolerance", golden("FP32", [1.5]), np.array([1.5001], FP32), False),
    ("within absolute", golden("FP32", [1.5], absolute=0.01), np.array([1.509], FP32), True),
    ("beyond absolute", golden("FP32", [1.5], absolute=0.01), np.array([1.52], FP32), False),
    ("within relative", golden("FP32", [100.0], relative=0.01), np.array([100.9], FP32), True),
    ("beyond relative", golden("FP32", [100.0], relative=0.01), np.array([101.1], FP32), False),
    ("not a number", golden("FP32", [1.0], absolute=9.0), np.array([np.nan], FP32), False),
    ("expected not a number", golden("FP32", ["NaN"]), np.array([np.nan], FP32), True),
    ("number for not a number", golden("FP32", ["NaN"], absolute=9), np.array([1], FP32), False),
    ("infinity", golden("FP32", ["Infinity"]), np.array([np.inf], FP32), True),
    ("other infinity", golden("FP32", ["Infinity"]), np.array([-np.inf], FP32), False),
    ("infinity for a number", golden("FP32", [1.0], relative=9), np.array([np.inf], FP32), False),
    ("other shape", golden("FP32", [1.0, 2.0], [2, 1]), np.array([1.0, 2.0], FP32), False),
    ("other type", golden("FP32", [1.0]), np.array([1.0], np.float64), False),
    ("integer", golden("INT64", [3]), np.array([3]), True),
    ("big integers differ by one", golden("INT64", [2**60]), np.array([2**60 + 1]), False),
    ("integer within", golden("INT32", [3], absolute=1), np.array([4], np.int32), True),
    ("boolean", golden("BOOL", [True, False]), np.array([True, False]), True),
    ("wrong boolean", golden("BOOL", [True]), np.array([False]), False),
    ("text", golden("BYTES", ["cat"]), np.array([b"cat"], object), True),
    ("other text", golden("BYTES", ["cat"]), np.array([b"dog"], object), False),
    ("half precision", golden("FP16", [0.5]), np.array([0.5], np.float16), True),
    ("empty", golden("FP32", [], [0]), np.zeros([0], FP32), True),
]


@pytest.mark.parametrize(
    ("request_", "actual", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_an_answer_is_judged(request_: GoldenRequest, actual: Any, expected: bool) -> None:
    assert passes(request_, actual) is expected


def test_an_output_that_is_missing_fails_and_says_which() -> None:
    with pytest.raises(Permanent, match="'y' is not in the answer"):
        compare(golden("FP32", [1.0]), {"z": tensor_of("z", np.array([1.0], FP32))})


def test_the_reason_names_request_output_position_and_both_values() -> None:
    actual = tensor_of("y", np.array([1.1, 7.1], FP32))
    with pytest.raises(Permanent) as caught:
        compare(golden("FP32", [1.1, 2.1]), {"y": actual})
    assert caught.value.code == "golden-mismatch"
    for part in ("'one'", "'y'", "position 1", "is 7.1 ", "where 2.1 ", "1 of 2"):
        assert part in caught.value.reason


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5),
    st.floats(0, 10),
)
def test_an_answer_always_passes_against_itself(values: list[float], absolute: float) -> None:
    assert passes(golden("FP32", values, absolute=absolute), np.array(values, FP32))


@given(st.floats(-1e6, 1e6, width=32), st.floats(2.0**-20, 1e3), st.floats(1.01, 100))
def test_beyond_the_tolerance_never_passes(value: float, absolute: float, factor: float) -> None:
    request = golden("FP64", [value], absolute=absolute)
    assert not passes(request, np.array([value + absolute * factor + 1e-6], np.float64))


def _document(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0], **changes}
    output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}
    request = {"name": "one", "inputs": [tensor], "outputs": [output]}
    return {"schema": "waypost.golden/1", "requests": [request]}


TENSOR = '{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}, '
BAD = [
    ("not json", b"{"),
    ("not an object", b"[]"),
    ("another schema", b'{"schema": "waypost.golden/2", "requests": []}'),
    ("no requests", b'{"schema": "waypost.golden/1", "requests": []}'),
    ("a key twice", b'{"schema": "waypost.golden/1", "schema": "waypost.golden/1"}'),
    ("a bare NaN", json.dumps(_document(data=[float("nan")])).encode()),
    ("deep nesting", b"[" * 100_000),
    ("unknown datatype", json.dumps(_document(datatype="BF16")).encode()),
    ("too few values", json.dumps(_document(shape=[2])).encode()),
    ("negative shape", json.dumps(_document(shape=[-1])).encode()),
    ("true as a number", json.dumps(_document(data=[True])).encode()),
    ("text as a number", json.dumps(_document(data=["one"])).encode()),
    ("a fraction as integer", json.dumps(_document(datatype="INT8", data=[0.5])).encode()),
    ("too big an integer", json.dumps(_document(datatype="INT8", data=[300])).encode()),
    ("larger than any double", json.dumps(_document()).replace("1.0", "1e999").encode()),
    ("a size beyond all bounds", json.dumps(_document(shape=[10**4000] * 2)).encode()),
    ("too many axes", json.dumps(_document(shape=[1] * 17)).encode()),
    ("too many inputs", json.dumps(_document()).replace("[{", "[" + TENSOR * 64 + "{", 2).encode()),
    ("a name no wire can carry", json.dumps(_document(name="\ud800")).encode()),
    ("a name without letters", json.dumps(_document(name="")).encode()),
    ("more than a record may have", b" " * (16 << 20) + json.dumps(_document()).encode()),
    ("a number as text", json.dumps(_document(datatype="BYTES", data=[1])).encode()),
]


@pytest.mark.parametrize("body", [case[1] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file_is_refused(body: bytes) -> None:
    with pytest.raises(Permanent) as caught:
        parse_golden(body)
    assert caught.value.code == "manifest-invalid"
    assert "golden.json is refused" in caught.value.reason


def test_the_documented_example_is_read() -> None:
    (request,) = parse_golden((EXAMPLES / "golden.json").read_bytes())
    (output,) = request.outputs
    assert output.tolerance == Near(absolute=0.0001, relative=0.001)
    assert passes(request, np.array([2.0, 2.002], FP32))


@pytest.mark.parametrize("value", [0, -1, "fast", True, [], 10**400])
def test_a_bound_on_time_that_makes_no_sense_is_refused(value: object) -> None:
    document = golden_document(1.0)
    document["requests"][0]["max_latency_ms"] = value
    with pytest.raises(Permanent, match=r"requests\[0\].max_latency_ms must be a number"):
        parse_golden(json.dumps(document).encode())


def test_a_bound_on_time_is_read_and_judged() -> None:
    (request,) = parse_golden(json.dumps(golden_document(1.0, max_latency_ms=250)).encode())
    require_speed(request, 0.25, 3)
    with pytest.raises(Permanent, match=r"took 251.0 ms, the fastest of 3; at most 250 ms"):
        require_speed(request, 0.251, 3)
    (unbounded,) = parse_golden(json.dumps(golden_document(1.0)).encode())
    require_speed(unbounded, 1e9, 1)


SMALLEST_AND_LARGEST = [
    *[("FP16", -65504.0), ("FP16", 6e-8), ("FP32", 3.4028234663852886e38), ("FP64", 1e308)],
    *[(f"INT{bits}", -(2 ** (bits - 1))) for bits in (8, 16, 32, 64)],
    *[(f"UINT{bits}", 2**bits - 1) for bits in (8, 16, 32, 64)],
    *[("BOOL", True), ("BYTES", "caf\u00e9"), ("FP32", 0.1), ("FP16", 0.1)],
]


@pytest.mark.parametrize(("datatype", "value"), SMALLEST_AND_LARGEST)
def test_what_is_sent_is_what_numpy_makes_of_the_document(datatype: str, value: Any) -> None:
    (output,) = golden(datatype, [value, value], [2, 1], exact=True).outputs
    array = array_of(output.tensor)
    kind = triton_to_np_dtype(datatype)
    plain = [value.encode()] * 2 if datatype == "BYTES" else [value] * 2
    assert array.tolist() == np.array(plain, dtype=kind).reshape([2, 1]).tolist()
    assert (array.dtype, tensor_of("y", array)) == (np.dtype(kind), output.tensor)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("FP16", 65520.0), ("FP32", 3.5e38), ("INT8", 128), ("UINT8", -1), ("UINT64", 2**64)],
)
def test_a_number_that_a_datatype_cannot_hold_is_refused(datatype: str, value: float) -> None:
    with pytest.raises(Permanent, match=f"does not hold {datatype} values"):
        golden(datatype, [value])
