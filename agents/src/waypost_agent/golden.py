"""Golden requests: reads them, and judges what a server answered against what it should.

Pure, and plain Python: numpy would stay in the memory of an agent that is idle for weeks. Knows
nothing of how a request is sent, nor of what follows from a verdict; how near an answer must come,
`tolerances` says. The form of golden.json is in docs/protocol/README.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waypost_agent.errors import GOLDEN_MISMATCH, MANIFEST_INVALID, AnswerError, Permanent
from waypost_agent.manifest import MAX_RECORD_BYTES
from waypost_agent.ports import Tensor
from waypost_agent.protocol import parse_json
from waypost_agent.tolerances import Tolerance, parse_tolerance

SCHEMA = "waypost.golden/1"
MAX_REQUESTS = 256
MAX_TENSORS = 64  # of one request, inputs and outputs each
MAX_AXES = 16
MAX_NAME = 256
MAX_LATENCY_MS = 86_400_000
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# KServe v2 datatypes (Open Inference Protocol) and how `struct` writes one. BF16 is refused.
_CODES = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    "BYTES": "",
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An output as it should be, and how near to it an answer must come."""

    tensor: Tensor
    tolerance: Tolerance


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    """`max_latency_ms` None: however long it takes."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Expected, ...]
    max_latency_ms: float | None = None


def parse_golden(body: bytes) -> tuple[GoldenRequest, ...]:
    """Read golden.json. Raises `Permanent` (`manifest-invalid`) naming the place of the fault."""
    if len(body) > MAX_RECORD_BYTES:
        raise _invalid(f"it has {len(body)} bytes, at most {MAX_RECORD_BYTES} are allowed")
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


def compare(request: GoldenRequest, outputs: Mapping[str, Tensor]) -> None:
    """Raises `Permanent` (`golden-mismatch`) naming the first output that is not as expected."""
    for expected in request.outputs:
        fault = _fault(expected, outputs.get(expected.tensor.name))
        if fault is not None:
            name = expected.tensor.name
            raise Permanent(
                GOLDEN_MISMATCH, f"golden request {request.name!r}: output {name!r} {fault}"
            )


def require_speed(request: GoldenRequest, seconds: float, tries: int) -> None:
    """Raises `Permanent` (`golden-mismatch`) when even the fastest of the tries took too long."""
    most = request.max_latency_ms
    if most is not None and seconds * 1000 > most:
        raise Permanent(
            GOLDEN_MISMATCH,
            f"golden request {request.name!r} took {seconds * 1000:.1f} ms, the fastest of "
            f"{tries}; at most {most:g} ms are allowed",
        )


def _fault(expected: Expected, actual: Tensor | None) -> str | None:
    want = expected.tensor
    if actual is None:
        return "is not in the answer"
    if actual.shape != want.shape:
        return f"has the shape {list(actual.shape)}, expected is {list(want.shape)}"
    if actual.datatype != want.datatype:
        return f"has the type {actual.datatype}, expected is {want.datatype}"
    return expected.tolerance.fault(want, actual)


def _parse_request(entry: object, index: int) -> GoldenRequest:
    where = f"requests[{index}]"
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        raise _invalid(f"{where} must be an object with a name")
    inputs, outputs = entry.get("inputs"), entry.get("outputs")
    for key, value in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_TENSORS:
            raise _invalid(f"{where}.{key} must be a list of 1 to {MAX_TENSORS} tensors")
    assert isinstance(inputs, list)
    assert isinstance(outputs, list)
    return GoldenRequest(
        name=name[:100],
        inputs=tuple(_parse_tensor(each, f"{where}.inputs[{i}]") for i, each in enumerate(inputs)),
        outputs=tuple(
            _parse_expected(each, f"{where}.outputs[{i}]") for i, each in enumerate(outputs)
        ),
        max_latency_ms=_parse_latency(entry.get("max_latency_ms"), where),
    )


def _parse_latency(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = 0
    if not 0 < value <= MAX_LATENCY_MS:
        raise _invalid(f"{where}.max_latency_ms must be a number of milliseconds over 0")
    return float(value)


def _parse_expected(entry: object, where: str) -> Expected:
    tensor = _parse_tensor(entry, where)
    assert isinstance(entry, dict)  # else it is no tensor
    try:
        tolerance = parse_tolerance(entry.get("tolerance", {}), tensor.datatype, tensor.shape)
    except ValueError as error:
        raise _invalid(f"{where}.tolerance{error}") from error
    return Expected(tensor=tensor, tolerance=tolerance)


def _parse_tensor(entry: object, where: str) -> Tensor:
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        raise _invalid(f"{where} must be an object with a name")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise _invalid(f"{where}.name must be 1 to {MAX_NAME} characters that can be printed")
    datatype, shape, data = entry.get("datatype"), entry.get("shape"), entry.get("data")
    if not isinstance(datatype, str) or datatype not in _CODES:
        raise _invalid(f"{where}.datatype must be one of {', '.join(_CODES)}")
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_RECORD_BYTES
        for size in shape
    ):
        raise _invalid(f"{where}.shape must be a list of whole numbers from 0")
    if len(shape) > MAX_AXES:
        raise _invalid(f"{where}.shape has {len(shape)} axes, at most {MAX_AXES} are allowed")
    if not isinstance(data, list) or len(data) != math.prod(shape):
        raise _invalid(f"{where}.data must be a flat list of {math.prod(shape)} values")
    values = _values(datatype, data, where)
    return Tensor(name=name, datatype=datatype, shape=tuple(shape), values=values)


def _values(datatype: str, data: list[Any], where: str) -> tuple[Any, ...]:
    """As the datatype holds them: a number that it lacks becomes the nearest one it has."""
    try:
        if datatype == "BYTES":
            return tuple(_encode(value) for value in data)
        form = f"<{len(data)}{_CODES[datatype]}"
        return struct.unpack(form, struct.pack(form, *(_number(each, datatype) for each in data)))
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise _invalid(f"{where}.data does not hold {datatype} values: {error}") from error


def _encode(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError("a BYTES value must be a string")
    return value.encode()


def _number(value: object, datatype: str) -> Any:
    if datatype == "BOOL":
        if not isinstance(value, bool):
            raise TypeError("a BOOL value must be true or false")
        return value
    is_float = datatype.startswith("FP")
    if is_float and isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError("a number is too large; an infinity is written as a string")
    wanted: Any = int | float if is_float else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise TypeError(f"{value!r:.40} is not one")
    return value


def _invalid(fault: str) -> Permanent:
    return Permanent(MANIFEST_INVALID, f"golden.json is refused: {fault}")
