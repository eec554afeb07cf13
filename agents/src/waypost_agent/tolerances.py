"""How near an output must come to the expected one: reads a tolerance, and judges by it.

Pure but for numpy. Knows nothing of documents and requests. The rules are in
docs/protocol/README.md, and as a table of cases in docs/protocol/golden-tolerances.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from waypost_agent.ports import Array, flat

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

    def fault(self, want: Array, have: Array) -> str | None:
        return _differing(_within(self, want, have), want, have)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Each value has the same bits; not-a-number equals not-a-number."""

    def fault(self, want: Array, have: Array) -> str | None:
        return _differing(_same(want, have), want, have)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The cosine of the two tensors as flat vectors is `least` or more."""

    least: float

    def fault(self, want: Array, have: Array) -> str | None:
        found = cosine(want, have)
        if found >= self.least - _ROUNDING:  # false for not-a-number
            return None
        return f"has the cosine {found:.9g} to the expected one, at least {self.least:g} is asked"


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Along the last axis the `count` largest values are at the same places in the same order."""

    count: int

    def fault(self, want: Array, have: Array) -> str | None:
        wanted, found = (_rows(each) for each in (want, have))
        for row, (theirs, ours) in enumerate(zip(wanted, found, strict=True)):
            if np.isnan(theirs).any() or np.isnan(ours).any():
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


def cosine(want: Array, have: Array) -> float:
    """In double precision. Two vectors of zeros have 1, one of them 0; not-a-number or an infinity
    anywhere gives not-a-number."""
    one, other = (flat(each).astype(np.float64) for each in (want, have))
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan
    longest = [float(np.abs(each).max(initial=0.0)) for each in (one, other)]
    if 0.0 in longest:
        return 1.0 if longest == [0.0, 0.0] else 0.0
    # Scaled first: squares of large values have no place in a double.
    one, other = one / longest[0], other / longest[1]
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


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


def _differing(right: Array, want: Array, have: Array) -> str | None:
    wrong = np.flatnonzero(~right)
    if wrong.size == 0:
        return None
    first = int(wrong[0])
    return (
        f"is {flat(have)[first]!s:.60} at position {first} where {flat(want)[first]!s:.60} was "
        f"expected ({wrong.size} of {want.size} values differ)"
    )


def _within(tolerance: Near, wanted: Array, found: Array) -> Array:
    """Per value, in row-major order. Not-a-number equals only itself, an infinity its own sign."""
    want, have = flat(wanted), flat(found)
    if want.dtype == np.object_:
        return _same_texts(want, have)
    if tolerance.absolute == 0 and tolerance.relative == 0 and want.dtype.kind != "f":
        return np.asarray(have == want)
    wide, wide_have = want.astype(np.float64), have.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = tolerance.absolute + tolerance.relative * np.abs(wide)
        near = np.isfinite(wide_have) & np.isfinite(wide) & (np.abs(wide_have - wide) <= allowed)
    return np.asarray(near | (wide_have == wide) | (np.isnan(wide_have) & np.isnan(wide)))


def _same(wanted: Array, found: Array) -> Array:
    want, have = flat(wanted), flat(found)
    if want.dtype == np.object_:
        return _same_texts(want, have)
    same = np.asarray(have == want)
    if want.dtype.kind != "f":
        return same
    # Zero has two signs, and they compare equal.
    same = same & (np.signbit(have) == np.signbit(want))
    return np.asarray(same | (np.isnan(have) & np.isnan(want)))


def _same_texts(want: Array, have: Array) -> Array:
    return np.array([_text(a) == _text(b) for a, b in zip(have, want, strict=True)], dtype=bool)


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _rows(values: Array) -> Array:
    return np.asarray(values).reshape(-1, np.asarray(values).shape[-1])


def _largest(row: Array, count: int) -> list[int]:
    """The places of the largest values, largest first; of equal ones the lower place first."""
    # Of the row turned round, a stable order that rises ends with the largest, lower places last.
    rising = np.argsort(row[::-1], kind="stable")
    return [int(row.size - 1 - place) for place in rising[::-1][:count]]
