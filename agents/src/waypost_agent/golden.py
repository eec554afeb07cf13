"""Golden requests: reads them, and judges what a server answered against what it should.

Pure but for numpy. Knows nothing of how a request is sent, nor of what follows from a verdict.
The form of golden.json is described in docs/protocol/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from waypost_agent.errors import GOLDEN_MISMATCH, MANIFEST_INVALID, AnswerError, Permanent
from waypost_agent.ports import Array, Tensor, flat
from waypost_agent.protocol import parse_json

SCHEMA = "waypost.golden/1"
MAX_REQUESTS = 256
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# KServe v2 datatypes (Open Inference Protocol). BF16 has no type in numpy and is refused.
_TYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An output as it should be: `|actual - expected| <= absolute + relative * |expected|`."""

    tensor: Tensor
    absolute: float
    relative: float


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Expected, ...]


def parse_golden(body: bytes) -> tuple[GoldenRequest, ...]:
    """Read golden.json. Raises `Permanent` (`manifest-invalid`) naming the place of the fault."""
    try:
        document = parse_json(body)
    except AnswerError as error:
        raise _invalid(error.reason) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise _invalid(f"its schema must be {SCHEMA!r}")
    requests = document.get("requests")
    if not isinstance(requests, list) or not 1 <= len(requests) <= MAX_REQUESTS:
        raise _invalid(f"requests must be a list of 1 to {MAX_REQUESTS}")
    return tuple(_parse_request(entry, index) for index, entry in enumerate(requests))


def compare(request: GoldenRequest, outputs: Mapping[str, Array]) -> None:
    """Raises `Permanent` (`golden-mismatch`) naming the first output that is not as expected."""
    for expected in request.outputs:
        fault = _fault(expected, outputs.get(expected.tensor.name))
        if fault is not None:
            name = expected.tensor.name
            raise Permanent(
                GOLDEN_MISMATCH, f"golden request {request.name!r}: output {name!r} {fault}"
            )


def _fault(expected: Expected, actual: Array | None) -> str | None:
    want = expected.tensor.values
    if actual is None:
        return "is not in the answer"
    if tuple(actual.shape) != tuple(want.shape):
        return f"has the shape {list(actual.shape)}, expected is {list(want.shape)}"
    if expected.tensor.datatype != "BYTES" and actual.dtype != want.dtype:
        return f"has the type {actual.dtype}, expected is {want.dtype}"
    wrong = np.flatnonzero(~_within(expected, actual))
    if wrong.size == 0:
        return None
    first = int(wrong[0])
    return (
        f"is {flat(actual)[first]!s:.60} at position {first} where {flat(want)[first]!s:.60} was "
        f"expected ({wrong.size} of {want.size} values differ)"
    )


def _within(expected: Expected, actual: Array) -> Array:
    """Per value, in row-major order. Not-a-number equals only itself, an infinity its own sign."""
    want, have = flat(expected.tensor.values), flat(actual)
    if want.dtype == np.object_:
        return np.array([_text(a) == _text(b) for a, b in zip(have, want, strict=True)], dtype=bool)
    if expected.absolute == 0 and expected.relative == 0 and want.dtype.kind != "f":
        return np.asarray(have == want)
    wide, wide_have = want.astype(np.float64), have.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = expected.absolute + expected.relative * np.abs(wide)
        near = np.isfinite(wide_have) & np.isfinite(wide) & (np.abs(wide_have - wide) <= allowed)
    return np.asarray(near | (wide_have == wide) | (np.isnan(wide_have) & np.isnan(wide)))


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _parse_request(entry: object, index: int) -> GoldenRequest:
    where = f"requests[{index}]"
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        raise _invalid(f"{where} must be an object with a name")
    inputs, outputs = entry.get("inputs"), entry.get("outputs")
    for key, value in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, list) or not value:
            raise _invalid(f"{where}.{key} must be a list of tensors")
    assert isinstance(inputs, list)
    assert isinstance(outputs, list)
    return GoldenRequest(
        name=name[:100],
        inputs=tuple(_parse_tensor(each, f"{where}.inputs[{i}]") for i, each in enumerate(inputs)),
        outputs=tuple(
            _parse_expected(each, f"{where}.outputs[{i}]") for i, each in enumerate(outputs)
        ),
    )


def _parse_expected(entry: object, where: str) -> Expected:
    tensor = _parse_tensor(entry, where)
    tolerance = entry.get("tolerance", {}) if isinstance(entry, dict) else {}
    if not isinstance(tolerance, dict):
        raise _invalid(f"{where}.tolerance must be an object with absolute, relative or both")
    absolute, relative = tolerance.get("absolute", 0), tolerance.get("relative", 0)
    for key, value in (("absolute", absolute), ("relative", relative)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise _invalid(f"{where}.tolerance.{key} must be a number from 0")
    return Expected(tensor=tensor, absolute=float(absolute), relative=float(relative))


def _parse_tensor(entry: object, where: str) -> Tensor:
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        raise _invalid(f"{where} must be an object with a name")
    datatype, shape, data = entry.get("datatype"), entry.get("shape"), entry.get("data")
    if not isinstance(datatype, str) or datatype not in _TYPES:
        raise _invalid(f"{where}.datatype must be one of {', '.join(_TYPES)}")
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        raise _invalid(f"{where}.shape must be a list of whole numbers from 0")
    if not isinstance(data, list) or len(data) != math.prod(shape):
        raise _invalid(f"{where}.data must be a flat list of {math.prod(shape)} values")
    return Tensor(name=name, datatype=datatype, values=_array(datatype, shape, data, where))


def _array(datatype: str, shape: list[int], data: list[Any], where: str) -> Array:
    kind = np.dtype(_TYPES[datatype])
    try:
        if datatype == "BYTES":
            return np.array([_encode(value) for value in data], dtype=np.object_).reshape(shape)
        return np.array([_number(value, kind) for value in data], dtype=kind).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(f"{where}.data does not hold {datatype} values: {error}") from error


def _encode(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError("a BYTES value must be a string")
    return value.encode()


def _number(value: object, kind: np.dtype[Any]) -> Any:
    if kind.kind == "b":
        if not isinstance(value, bool):
            raise TypeError("a BOOL value must be true or false")
        return value
    if kind.kind == "f" and isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    wanted: Any = int | float if kind.kind == "f" else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise TypeError(f"{value!r:.40} is not one")
    return value


def _invalid(fault: str) -> Permanent:
    return Permanent(MANIFEST_INVALID, f"golden.json is refused: {fault}")
