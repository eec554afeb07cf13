"""Whether golden.json, as it was pushed, can prove the version: its form, its bounds, and that it
speaks of the tensors that the configuration states.

Form: docs/agent-protocol.md, section 3. Says nothing about what the right answers are.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from controlplane.domain.config_view import ConfigView, TensorConfig
from controlplane.domain.findings import Finding, fault, shown
from controlplane.domain.golden_tolerance import tolerance_faults
from controlplane.domain.manifest import GOLDEN_FILE

SCHEMA: Final = "waypost.golden/1"
MAX_GOLDEN_BYTES: Final = 16 << 20  # agents read it into memory
MAX_REQUESTS: Final = 256
MAX_TENSORS: Final = 64  # of a request, inputs or outputs
MAX_TENSOR_BYTES: Final = 64 << 20  # of all requests together
MAX_DIMS: Final = 16
MAX_FAULTS: Final = 100
MAX_NAME: Final = 256
MAX_LATENCY_MS: Final = 86_400_000  # a day
_NAME: Final = f"It must be 1 to {MAX_NAME} printable characters."
_SPECIAL: Final = ("NaN", "Infinity", "-Infinity")
_CURE = "See docs/agent-protocol.md, section 3, for the form."

# KServe v2 types (Open Inference Protocol) that agents can compare: bytes a value and, for whole
# numbers, the least and the largest; for the others how large a finite one may be.
_WHOLE: Final = {
    **{f"INT{8 * n}": (n, -(1 << (8 * n - 1)), (1 << (8 * n - 1)) - 1) for n in (1, 2, 4, 8)},
    **{f"UINT{8 * n}": (n, 0, (1 << (8 * n)) - 1) for n in (1, 2, 4, 8)},
}
_REAL: Final = {"FP16": (2, 65_504.0), "FP32": (4, 3.4028234663852886e38), "FP64": (8, math.inf)}
TYPES: Final = ("BOOL", *_WHOLE, *_REAL, "BYTES")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a finding stands, as `requests[2].outputs[0].data`."""

    path: str

    def at(self, more: str) -> "_Place":
        return _Place(path=f"{self.path}.{more}")

    def fault(self, message: str, cure: str = _CURE) -> Finding:
        return fault(GOLDEN_FILE, message, cure, field=self.path)


def golden_findings(body: str | bytes, view: ConfigView | None) -> tuple[Finding, ...]:
    """Judges golden.json against the configuration, where one is known."""
    size = len(body) if isinstance(body, bytes) else len(body.encode(errors="surrogatepass"))
    if size > MAX_GOLDEN_BYTES:
        message = f"It has {size} bytes; at most {MAX_GOLDEN_BYTES} are allowed."
        return (fault(GOLDEN_FILE, message, "Keep fewer or smaller requests."),)
    try:
        document = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        message = f"It is not JSON: {error.msg}."
        return (fault(GOLDEN_FILE, message, _CURE, line=error.lineno),)
    except (ValueError, RecursionError) as error:
        message = f"It is not JSON that can be read: {str(error)[:200]}."
        return (fault(GOLDEN_FILE, message, _CURE),)
    found = _judge(document, view)
    return tuple(each for each, _ in zip(found, range(MAX_FAULTS), strict=False))


def _judge(document: object, view: ConfigView | None) -> Iterator[Finding]:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        yield fault(GOLDEN_FILE, f'Its schema is not "{SCHEMA}".', _CURE, field="schema")
        return
    requests = document.get("requests")
    if not isinstance(requests, list) or not 1 <= len(requests) <= MAX_REQUESTS:
        message = f"It must have a list of 1 to {MAX_REQUESTS} requests."
        yield fault(GOLDEN_FILE, message, _CURE, field="requests")
        return
    total = 0
    for index, entry in enumerate(requests):
        place = _Place(path=f"requests[{index}]")
        yield from _request(entry, place, view)
        total += _bytes_of(entry)
    if total > MAX_TENSOR_BYTES:
        message = f"Its tensors have {total} bytes; at most {MAX_TENSOR_BYTES} are allowed."
        yield fault(GOLDEN_FILE, message, "Keep fewer or smaller requests.", field="requests")


def _request(entry: object, place: _Place, view: ConfigView | None) -> Iterator[Finding]:
    if not isinstance(entry, dict):
        yield place.fault("It must be an object with a name, inputs and outputs.")
        return
    name = entry.get("name")
    if not _is_name(name):
        yield place.at("name").fault(_NAME)
    latency = entry.get("max_latency_ms")
    if latency is not None and not (_is_number(latency) and 0 < latency <= MAX_LATENCY_MS):
        yield place.at("max_latency_ms").fault("It must be a number of milliseconds over 0.")
    for kind in ("inputs", "outputs"):
        tensors = entry.get(kind)
        if not isinstance(tensors, list) or not 1 <= len(tensors) <= MAX_TENSORS:
            yield place.at(kind).fault(f"It must be a list of 1 to {MAX_TENSORS} tensors.")
            continue
        stated = None if view is None else (view.inputs if kind == "inputs" else view.outputs)
        batch = 0 if view is None else view.max_batch_size
        if stated and view is not None and view.is_decoupled and kind == "outputs":
            stated, batch = tuple(_of_all_responses(each, batch) for each in stated), 0
        yield from _tensors(tensors, place, kind, stated, batch)


def _tensors(
    tensors: list[Any],
    place: _Place,
    kind: str,
    stated: Sequence[TensorConfig] | None,
    batch: int,
) -> Iterator[Finding]:
    known = {each.name: each for each in stated or ()}
    seen: set[str] = set()
    for index, entry in enumerate(tensors):
        where = place.at(f"{kind}[{index}]")
        found = tuple(_tensor(entry, where))
        yield from found
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name in seen:
            yield where.fault(f"{shown(name)} is there twice.", "Keep one of them.")
        if isinstance(name, str):
            seen.add(name)
        if found:
            continue
        if kind == "outputs":
            for message in tolerance_faults(
                entry.get("tolerance", {}),
                datatype=entry["datatype"],
                shape=entry["shape"],
                values=entry["data"],
            ):
                yield where.at("tolerance").fault(message)
        if known:
            yield from _against_config(entry, where, known, kind, batch)
    for each in known.values() if kind == "inputs" else ():
        if each.name and each.name not in seen and not each.optional:
            message = f"The input {shown(each.name)} is missing, and a server wants every input."
            yield place.at(kind).fault(message, "Add it.")


def _tensor(entry: object, place: _Place) -> Iterator[Finding]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        yield place.fault("It must be an object with name, datatype, shape and data.")
        return
    if not _is_name(entry["name"]):
        yield place.at("name").fault(_NAME)
    datatype, shape, data = entry.get("datatype"), entry.get("shape"), entry.get("data")
    if datatype not in TYPES:
        yield place.at("datatype").fault(f"It must be one of {', '.join(TYPES)}.")
        return
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(_is_whole(size) and 0 <= size <= MAX_TENSOR_BYTES for size in shape)
    ):
        yield place.at("shape").fault(f"It must be a list of at most {MAX_DIMS} whole numbers.")
        return
    count = math.prod(shape)
    if not isinstance(data, list) or len(data) != count:
        yield place.at("data").fault(f"It must be a flat list of {count} values for its shape.")
        return
    for index, value in enumerate(data):
        if not _holds(value, datatype):
            message = f"{shown(str(value), 40)} at position {index} is no {datatype} value."
            yield place.at("data").fault(message)
            return


def _holds(value: object, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str) and _is_unicode(value)
    if datatype in _WHOLE:
        _, least, most = _WHOLE[datatype]
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    if isinstance(value, str):
        return value in _SPECIAL
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value)) and abs(value) <= _REAL[datatype][1]
    except OverflowError:
        return False


def _against_config(
    entry: dict[str, Any],
    place: _Place,
    known: dict[str, TensorConfig],
    kind: str,
    batch: int,
) -> Iterator[Finding]:
    name = entry["name"]
    stated = known.get(name)
    if stated is None:
        names = ", ".join(shown(each) for each in list(known)[:20])
        message = f"The configuration states no {kind[:-1]} {shown(name)}."
        yield place.at("name").fault(message, f"It states {names}.")
        return
    wanted = stated.data_type.removeprefix("TYPE_").replace("STRING", "BYTES")
    if wanted != "INVALID" and entry["datatype"] != wanted:
        message = f"It is {entry['datatype']}, the configuration states {stated.data_type}."
        yield place.at("datatype").fault(message, f"Write {wanted}.")
    shape = entry["shape"]
    own = shape[1:] if batch > 0 else shape
    dims = stated.dims
    fits = len(own) == len(dims) and all(b in (-1, a) for a, b in zip(own, dims, strict=True))
    fits_batch = batch <= 0 or (bool(shape) and 1 <= shape[0] <= batch)
    if dims and not (fits and fits_batch):
        first = [f"1 to {batch}"] if batch > 0 else []
        right = ", ".join([*first, *("any" if dim == -1 else str(dim) for dim in dims)])
        message = f"Its shape is {shape}, the configuration states [{right}]."
        yield place.at("shape").fault(message, "Give the request the stated shape.")


def _of_all_responses(stated: TensorConfig, batch: int) -> TensorConfig:
    """An output of a decoupled model: sites lay its responses together along the first axis (the
    batch, where there is one), so that its size may be any."""
    if not stated.dims:
        return stated
    return replace(stated, dims=(-1, *(stated.dims if batch > 0 else stated.dims[1:])))


def _bytes_of(entry: object) -> int:
    """Of the tensors whose form is right; a text counts its characters."""
    total = 0
    for kind in ("inputs", "outputs"):
        tensors = entry.get(kind) if isinstance(entry, dict) else None
        for tensor in tensors if isinstance(tensors, list) else ():
            data = tensor.get("data") if isinstance(tensor, dict) else None
            datatype = tensor.get("datatype") if isinstance(tensor, dict) else None
            if not isinstance(data, list) or not isinstance(datatype, str):
                continue
            if datatype in _WHOLE:
                total += len(data) * _WHOLE[datatype][0]
            elif datatype in _REAL:
                total += len(data) * _REAL[datatype][0]
            else:
                total += sum(4 + len(each) if isinstance(each, str) else 1 for each in data)
    return total


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object has the same key twice")
    return document


def _no_constant(text: str) -> Any:
    raise ValueError(f'{text} is not JSON; write it as the text "{text}"')


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_NAME and value.isprintable()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
