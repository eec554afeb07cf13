"""Tensors of golden requests: their form in JSON, what each type holds, how large they may be.

Pure. Knows no server, no file and no tolerance. Form: KServe v2 (Open Inference Protocol), data
flat and row-major, as docs/protocol/README.md has it; bounds as the control plane's.
"""

import math
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from waypost_cli.errors import CliError

MAX_TENSOR_BYTES: Final = 64 << 20  # of all requests together
MAX_DIMS: Final = 16
MAX_NAME: Final = 256
SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_WHOLE: Final = {
    **{f"INT{8 * n}": (n, -(1 << (8 * n - 1)), (1 << (8 * n - 1)) - 1) for n in (1, 2, 4, 8)},
    **{f"UINT{8 * n}": (n, 0, (1 << (8 * n)) - 1) for n in (1, 2, 4, 8)},
}
_REAL: Final = {"FP16": 2, "FP32": 4, "FP64": 8}
TYPES: Final = ("BOOL", *_WHOLE, *_REAL, "BYTES")

Value = float | int | bool | str


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """`data` is flat and row-major; a float is one that its type can hold, so that what is compared
    is what a site compares."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[Value]

    @property
    def is_real(self) -> bool:
        return self.datatype in _REAL

    @property
    def size_bytes(self) -> int:
        """As the control plane counts it; a text counts its characters."""
        if self.datatype == "BYTES":
            return sum(4 + len(str(value)) for value in self.data)
        if self.datatype == "BOOL":
            return len(self.data)
        whole = _WHOLE.get(self.datatype)
        return len(self.data) * (whole[0] if whole else _REAL[self.datatype])

    @property
    def document(self) -> dict[str, object]:
        """As JSON has it."""
        data = [_written(value) for value in self.data] if self.is_real else list(self.data)
        return {
            "name": self.name,
            "datatype": self.datatype,
            "shape": list(self.shape),
            "data": data,
        }


def parse_tensor(entry: object, where: str) -> Tensor:
    """Raises `CliError` naming the place of the fault. Nested data is laid flat; a float may be one
    of the names in `SPECIAL` or, as servers write it, not finite."""
    if not isinstance(entry, Mapping):
        raise CliError(f"{where} is no object with name, datatype, shape and data")
    name = parse_name(entry.get("name"), f"{where}.name")
    datatype, shape, data = entry.get("datatype"), entry.get("shape"), entry.get("data")
    if datatype not in TYPES:
        raise CliError(f"{where}.datatype is {datatype!r:.40}; it is one of {', '.join(TYPES)}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(_is_whole(size) and 0 <= size <= MAX_TENSOR_BYTES for size in shape)
    ):
        raise CliError(f"{where}.shape is no list of at most {MAX_DIMS} whole numbers from 0")
    if data is None:
        raise CliError(f"{where} has no data as JSON; the binary form is not read here")
    flat = list(_flat(data, MAX_DIMS)) if isinstance(data, list) else [data]
    if len(flat) != math.prod(shape):
        raise CliError(f"{where}.data has {len(flat)} values; its shape holds {math.prod(shape)}")
    return Tensor(
        name=name,
        datatype=datatype,
        shape=tuple(shape),
        data=held(datatype, flat, where),
    )


def held(datatype: str, values: Sequence[object], where: str) -> Sequence[Value]:
    """The values as this type holds them. Raises `CliError` where it holds one not."""
    if datatype in _REAL:
        return _reals(datatype, values, where)
    for at, value in enumerate(values):
        if not _holds(datatype, value):
            raise CliError(
                f"{where}.data holds {value!r:.40} at {at}, which is no {datatype} value"
            )
    return values  # type: ignore[return-value]  # each was looked at


def parse_name(value: object, where: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise CliError(f"{where} must be 1 to {MAX_NAME} characters that can be printed")
    return value


def _flat(data: list[object], depth: int) -> Iterator[object]:
    for value in data:
        if isinstance(value, list) and depth:
            yield from _flat(value, depth - 1)
        else:
            yield value


def _reals(datatype: str, values: Sequence[object], where: str) -> Sequence[float]:
    found = []
    for at, value in enumerate(values):
        number = SPECIAL.get(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise CliError(
                f"{where}.data holds {value!r:.40} at {at}, which is no {datatype} value"
            )
        try:
            found.append(float(number))
        except OverflowError:
            found.append(math.inf)
    narrow = [_narrow(datatype, value) for value in found] if datatype == "FP16" else found
    if datatype == "FP32":
        narrow = array("f", found).tolist()
    for at, (value, kept) in enumerate(zip(values, narrow, strict=True)):
        is_finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
        if is_finite and not math.isfinite(kept):
            raise CliError(f"{where}.data holds {value!r:.40} at {at}, too large for {datatype}")
    return narrow


def _narrow(datatype: str, value: float) -> float:
    try:
        half: float = struct.unpack("e", struct.pack("e", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return half


def _holds(datatype: str, value: object) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str) and _is_unicode(value)
    _, least, most = _WHOLE[datatype]
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written(value: Value) -> Value:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
