"""How near an answer must come to what a golden request expects: tolerances, and what an answer is
off by.

Pure, and plain Python: a golden document is small. The rules are in docs/protocol/README.md, as a
table of cases in docs/protocol/golden-tolerances.json; sites judge by the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from waypost_cli.errors import CliError
from waypost_cli.golden_tensors import Tensor

MAX_TOP_K: Final = 1000
# What rounding in double precision may take from the cosine of a vector with itself.
_ROUNDING: Final = 1e-12
_KINDS: Final = "absolute and relative, cosine, exact or top_k"


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Exactly one kind: `near` (absolute and relative), `cosine`, `exact` or `top_k`."""

    kind: str = "near"
    absolute: float = 0.0
    relative: float = 0.0
    cosine: float = 1.0
    top_k: int = 1

    @property
    def document(self) -> dict[str, object]:
        if self.kind == "near":
            both = {"absolute": self.absolute, "relative": self.relative}
            return {key: value for key, value in both.items() if value}
        if self.kind == "exact":
            return {"exact": True}
        return {self.kind: self.cosine if self.kind == "cosine" else self.top_k}

    def __str__(self) -> str:
        if self.kind == "exact":
            return "exact"
        parts = [f"{key}:{value:.9g}" for key, value in self.document.items()]
        return ",".join(parts) or "equal"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two tensors of one shape. `absolute` is the largest distance of two values, infinite where
    one of them is not finite or both are texts; `at` its place; `count` how many values differ."""

    count: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    at: int = 0

    def __str__(self) -> str:
        if not self.count:
            return "0"
        if not math.isfinite(self.absolute):
            return f"{self.count} values, the first at {self.at}"
        return f"{self.absolute:.3g} at {self.at} ({self.relative:.3g} relative)"


def parse_tolerance(value: object, tensor: Tensor, where: str) -> Tolerance:
    """Reads the tolerance of an output. Raises `CliError` naming `where`."""
    if not isinstance(value, Mapping):
        raise CliError(f"{where} must be an object with {_KINDS}")
    keys = set(value)
    if keys <= {"absolute", "relative"}:
        given = {str(key): _from_zero(each, f"{where}.{key}") for key, each in value.items()}
        return Tolerance(**given)  # type: ignore[arg-type]  # floats, by their two names
    if keys == {"exact"}:
        if value["exact"] is not True:
            raise CliError(f"{where}.exact must be true, or be left out")
        return Tolerance(kind="exact")
    if keys not in ({"cosine"}, {"top_k"}):
        named = ", ".join(sorted(map(str, keys)))
        raise CliError(f"{where} has {named:.100}; it must be exactly one of {_KINDS}")
    (kind,) = keys
    if tensor.datatype in ("BOOL", "BYTES"):
        raise CliError(f"{where}.{kind} needs numbers, this output is {tensor.datatype}; use exact")
    number = value[kind]
    if kind == "cosine":
        if not _is_number(number) or not 0 < number <= 1:
            raise CliError(f"{where}.cosine must be a number over 0 and at most 1")
        return Tolerance(kind="cosine", cosine=float(number))
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_TOP_K:
        raise CliError(f"{where}.top_k must be a whole number from 1 to {MAX_TOP_K}")
    if not tensor.shape or number > tensor.shape[-1]:
        axis = f"{tensor.shape[-1]} values" if tensor.shape else "no axis"
        raise CliError(f"{where}.top_k is {number}, but the output has {axis} to choose from")
    return Tolerance(kind="top_k", top_k=number)


def fault(tolerance: Tolerance, want: Tensor, have: Tensor | None) -> str | None:
    """What is wrong with `have`, as the end of a sentence about it; None where it passes."""
    if have is None:
        return "is not in the answer"
    if have.shape != want.shape:
        return f"has the shape {list(have.shape)}, expected is {list(want.shape)}"
    if have.datatype != want.datatype:
        return f"is {have.datatype}, expected is {want.datatype}"
    if tolerance.kind == "cosine":
        found = cosine(want, have)
        if found >= tolerance.cosine - _ROUNDING:  # false for not-a-number
            return None
        return f"has the cosine {found:.9g} to the expected one, at least {tolerance.cosine:g}"
    if tolerance.kind == "top_k":
        return _rank_fault(tolerance.top_k, want, have)
    right = _is_same if tolerance.kind == "exact" else _is_near
    wrong = [
        at
        for at, (one, other) in enumerate(zip(want.data, have.data, strict=True))
        if not right(one, other, tolerance)
    ]
    if not wrong:
        return None
    first = wrong[0]
    return (
        f"is {have.data[first]!s:.40} at {first} where {want.data[first]!s:.40} was expected "
        f"({len(wrong)} of {len(want.data)} values)"
    )


def difference(want: Tensor, have: Tensor) -> Difference:
    """How far apart two tensors of the same shape are."""
    count, worst, relative, place = 0, 0.0, 0.0, 0
    for at, (one, other) in enumerate(zip(want.data, have.data, strict=True)):
        if _is_equal(one, other):
            continue
        count += 1
        far = math.inf
        if not isinstance(one, str | bool) and not isinstance(other, str | bool):
            far = abs(float(other) - float(one))
            far = math.inf if math.isnan(far) else far
        if far > worst:
            worst, place = far, at
            relative = far / abs(float(one)) if far < math.inf and one else math.inf
    return Difference(count=count, absolute=worst, relative=relative, at=place)


def cosine(want: Tensor, have: Tensor) -> float:
    """Two vectors of zeros have 1, one of them 0; one that is not finite gives not-a-number."""
    one, other = ([float(value) for value in each.data] for each in (want, have))
    if not all(map(math.isfinite, (*one, *other))):
        return math.nan
    longest = [max(map(abs, each), default=0.0) for each in (one, other)]
    if 0.0 in longest:
        return 1.0 if longest == [0.0, 0.0] else 0.0
    # Scaled first: squares of large values have no place in a double.
    one, other = ([value / most for value in each] for each, most in zip((one, other), longest))  # noqa: B905
    dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


def ranked_alike(want: Tensor, have: Tensor) -> int:
    """The most of `top_k` that would pass, 0 where none would."""
    axis = min(want.shape[-1], MAX_TOP_K) if want.shape else 0
    for theirs, ours in zip(_rows(want), _rows(have), strict=True):
        if any(map(math.isnan, (*theirs, *ours))):
            return 0
        pairs = zip(_largest(theirs, axis), _largest(ours, axis), strict=True)
        axis = next((rank for rank, (one, other) in enumerate(pairs) if one != other), axis)
    return axis


def _rank_fault(count: int, want: Tensor, have: Tensor) -> str | None:
    for row, (theirs, ours) in enumerate(zip(_rows(want), _rows(have), strict=True)):
        if any(map(math.isnan, (*theirs, *ours))):
            return f"holds not-a-number in row {row}, which has no order"
        order, found = _largest(theirs, count), _largest(ours, count)
        for rank, (one, other) in enumerate(zip(order, found, strict=True), start=1):
            if one != other:
                return f"has {other} at rank {rank} of row {row} where {one} was expected"
    return None


def _rows(tensor: Tensor) -> list[list[float]]:
    width = tensor.shape[-1] if tensor.shape else 1
    data = [value for value in tensor.data if not isinstance(value, str)]
    return [data[at : at + width] for at in range(0, len(data), width)] if width else []


def _largest(row: Sequence[float], count: int) -> list[int]:
    """The places of the largest values; of equal ones the lower place first."""
    return sorted(range(len(row)), key=lambda place: -row[place])[:count]


def _is_equal(one: object, other: object) -> bool:
    both_nan = one != one and other != other
    return bool(one == other or both_nan)


def _is_same(one: object, other: object, tolerance: Tolerance) -> bool:
    """The same bits: zero has two signs, and they compare equal."""
    if isinstance(one, float) and isinstance(other, float) and one == other:
        return math.copysign(1.0, one) == math.copysign(1.0, other)
    return _is_equal(one, other)


def _is_near(one: object, other: object, tolerance: Tolerance) -> bool:
    if _is_equal(one, other):
        return True
    if isinstance(one, str) or isinstance(other, str):
        return False
    if not tolerance.absolute and not tolerance.relative:
        return False
    wide, found = float(one), float(other)  # type: ignore[arg-type]  # numbers, by the above
    if not (math.isfinite(wide) and math.isfinite(found)):
        return False
    return abs(found - wide) <= tolerance.absolute + tolerance.relative * abs(wide)


def _from_zero(value: object, where: str) -> float:
    if not _is_number(value) or value < 0:  # type: ignore[operator]  # a number, by the first
        raise CliError(f"{where} must be a number from 0, it is {value!r:.40}")
    return float(value)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    """Finite too: 1e999 is infinite once it is read, and an integer may have any length."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
