"""How near an output must come to the expected one: reads a tolerance, and judges by it.

Pure, and plain Python. Knows nothing of documents and requests, and takes two tensors of one shape
and datatype. The rules are in docs/protocol/README.md, and as a table of cases in
docs/protocol/golden-tolerances.json.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from waypost_agent.ports import Tensor

MAX_TOP_K = 1000
# What rounding in double precision may take from the cosine of a vector with itself.
_ROUNDING = 1e-12
_KINDS = (
    '{"absolute": A, "relative": R} (either may be left out), {"cosine": C}, {"exact": true} or '
    '{"top_k": K}'
)


@dataclass(frozen=True, kw_only=True)
class Near:
    """Each value: `|actual - expected| <= absolute + relative * |expected|`."""

    absolute: float = 0.0
    relative: float = 0.0

    def fault(self, want: Tensor, have: Tensor) -> str | None:
        return _differing(self._is_near, want, have)

    def _is_near(self, want: Any, have: Any) -> bool:
        """Not-a-number equals only itself, an infinity its own sign."""
        if want == have or (want != want and have != have):
            return True
        if isinstance(want, bytes) or not (self.absolute or self.relative):
            return False
        wide, found = float(want), float(have)
        if not (math.isfinite(wide) and math.isfinite(found)):
            return False
        return abs(found - wide) <= self.absolute + self.relative * abs(wide)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Each value has the same bits; not-a-number equals not-a-number."""

    def fault(self, want: Tensor, have: Tensor) -> str | None:
        return _differing(_is_same, want, have)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The cosine of the two tensors as flat vectors is `least` or more."""

    least: float

    def fault(self, want: Tensor, have: Tensor) -> str | None:
        found = cosine(want.values, have.values)
        if found >= self.least - _ROUNDING:  # false for not-a-number
            return None
        return f"has the cosine {found:.9g} to the expected one, at least {self.least:g} is asked"


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Along the last axis the `count` largest values are at the same places in the same order."""

    count: int

    def fault(self, want: Tensor, have: Tensor) -> str | None:
        wanted, found = (_rows(each) for each in (want, have))
        for row, (theirs, ours) in enumerate(zip(wanted, found, strict=True)):
            if any(map(math.isnan, (*theirs, *ours))):
                return f"holds not-a-number in row {row}, which has no order"
            order, our_order = (_largest(each, self.count) for each in (theirs, ours))
            if order != our_order:
                place = next(i for i in range(self.count) if order[i] != our_order[i])
                return (
                    f"has {our_order[place]} at rank {place + 1} of row {row} where "
                    f"{order[place]} was expected (of the {self.count} largest)"
                )
        return None


Tolerance = Near | Exact | Cosine | TopK


def parse_tolerance(value: object, datatype: str, shape: tuple[int, ...]) -> Tolerance:
    """Read the tolerance of an output. Raises `ValueError` saying what would be right, to stand
    behind the place of the tolerance."""
    if not isinstance(value, Mapping):
        raise ValueError(f" must be an object: one of {_KINDS}")
    keys = set(value)
    if keys <= {"absolute", "relative"}:
        return Near(
            absolute=_from_zero(value, "absolute"),
            relative=_from_zero(value, "relative"),
        )
    if keys == {"exact"}:
        if value["exact"] is not True:
            raise ValueError('.exact must be true; leave it out for {"absolute": A}')
        return Exact()
    if keys == {"cosine"}:
        _require_numbers(datatype, "cosine")
        least = value["cosine"]
        if not _is_number(least) or not 0 < least <= 1:
            raise ValueError(f".cosine must be a number over 0 and at most 1, it is {least!r:.40}")
        return Cosine(least=float(least))
    if keys == {"top_k"}:
        return _parse_top_k(value["top_k"], datatype, shape)
    named = ", ".join(sorted(str(key) for key in keys))
    raise ValueError(f" has {named:.100}; it must be exactly one of {_KINDS}")


def cosine(want: Sequence[float], have: Sequence[float]) -> float:
    """In double precision. Two vectors of zeros have 1, one of them 0; not-a-number or an infinity
    anywhere gives not-a-number."""
    one, other = ([float(value) for value in each] for each in (want, have))
    if not all(map(math.isfinite, (*one, *other))):
        return math.nan
    longest = [max(map(abs, each), default=0.0) for each in (one, other)]
    if 0.0 in longest:
        return 1.0 if longest == [0.0, 0.0] else 0.0
    # Scaled first: squares of large values have no place in a double.
    one, other = (
        [value / most for value in each] for each, most in zip((one, other), longest, strict=True)
    )
    dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


def _parse_top_k(count: object, datatype: str, shape: tuple[int, ...]) -> TopK:
    _require_numbers(datatype, "top_k")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_TOP_K:
        raise ValueError(
            f".top_k must be a whole number from 1 to {MAX_TOP_K}, it is {count!r:.40}"
        )
    if not shape or count > shape[-1]:
        axis = f"{shape[-1]} values" if shape else "no axis"
        raise ValueError(f".top_k is {count}, but the output has {axis} to choose from")
    return TopK(count=count)


def _require_numbers(datatype: str, kind: str) -> None:
    if datatype in ("BOOL", "BYTES"):
        raise ValueError(
            f".{kind} needs numbers, this output is {datatype}; leave the tolerance out or set "
            '{"exact": true}'
        )


def _from_zero(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key, 0)
    if not _is_number(number) or number < 0:
        raise ValueError(f".{key} must be a number from 0, it is {number!r:.40}")
    return float(number)


def _is_number(value: object) -> bool:
    """Finite too: 1e999 is infinite once it is read, and an integer may have any length."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _differing(is_right: Callable[[Any, Any], bool], want: Tensor, have: Tensor) -> str | None:
    pairs = zip(want.values, have.values, strict=True)
    wrong = [place for place, (one, other) in enumerate(pairs) if not is_right(one, other)]
    if not wrong:
        return None
    wanted, found = _told_apart(want.values[wrong[0]], have.values[wrong[0]])
    return (
        f"is {found} at position {wrong[0]} where {wanted} was "
        f"expected ({len(wrong)} of {len(want.values)} values differ)"
    )


def _told_apart(want: Any, have: Any) -> tuple[str, str]:
    """Floats with no more digits than it takes: those of a narrow type are not short in Python."""
    for digits in range(6, 18):
        one, other = (
            str(float(f"{each:.{digits}g}")) if isinstance(each, float) else f"{each!s:.60}"
            for each in (want, have)
        )
        if one != other:
            break
    return one, other


def _is_same(want: Any, have: Any) -> bool:
    if want != have:
        return bool(want != want and have != have)
    # Zero has two signs, and they compare equal.
    return not isinstance(want, float) or math.copysign(1.0, want) == math.copysign(1.0, have)


def _rows(tensor: Tensor) -> list[tuple[Any, ...]]:
    width = tensor.shape[-1]
    return [tensor.values[at : at + width] for at in range(0, len(tensor.values), width)]


def _largest(row: Sequence[Any], count: int) -> list[int]:
    """The places of the largest values, largest first; of equal ones the lower place first."""
    return heapq.nlargest(count, range(len(row)), key=row.__getitem__)
