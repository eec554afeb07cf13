"""How near an answer must be to what a golden request expects: which tolerances make sense.

A tolerance has exactly one kind:

- `absolute`, `relative` or both: each value differs by at most absolute + relative * |expected|;
- `cosine`: the least cosine similarity over the flattened tensor, a number in (0, 1];
- `exact`: true, each value has the same bits, so -0.0 is not 0.0;
- `top_k`: a whole number k from 1 to 1000. Along the last axis the ordered list of the k indices
  with the largest values must be the same list in the answer; of ties the lower index comes first.

Without one, or with an empty object, each value is equal too. Not-a-number passes where it is
expected for `absolute`, `relative` and `exact`. The agent judges by the same words
(docs/protocol/README.md). Refused here, and only here, is what an agent could judge but what
proves nothing: the cosine of zeros or of one value, a ranking of no values or of not-a-number.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

MAX_TOP_K: Final = 1000
MOST: Final = sys.float_info.max
_NEAR: Final = ("absolute", "relative")
KINDS: Final = (*_NEAR, "cosine", "exact", "top_k")
_RIGHT: Final = (
    'one of {"absolute": 0.001, "relative": 0.01} (either may be left out), {"cosine": 0.999}, '
    '{"exact": true}, {"top_k": 5}'
)


def tolerance_faults(
    tolerance: object, *, datatype: str, shape: Sequence[int], values: Sequence[object]
) -> Iterator[str]:
    """Each sentence on what is wrong with a tolerance for an output of this KServe type and shape
    with these expected values, flat and row-major (a special float as its name)."""
    if not isinstance(tolerance, Mapping):
        yield f"It must be {_RIGHT}."
        return
    unknown = sorted(str(key)[:40] for key in tolerance if key not in KINDS)
    if unknown:
        yield f"It has unknown keys {', '.join(map(repr, unknown[:5]))}; write {_RIGHT}."
    kinds = {"near" if key in _NEAR else str(key) for key in tolerance if key in KINDS}
    if len(kinds) > 1:
        given = ", ".join(key for key in KINDS if key in tolerance)
        yield f"It mixes {given}; write {_RIGHT}."
    for key, value in tolerance.items():
        if key in _NEAR:
            yield from _near_faults(str(key), value, datatype)
        elif key == "cosine":
            yield from _cosine_faults(value, datatype, values)
        elif key == "exact":
            if value is not True:
                yield "exact must be true, or be left out."
        elif key == "top_k":
            yield from _top_k_faults(value, datatype, shape, values)


def _near_faults(key: str, value: object, datatype: str) -> Iterator[str]:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MOST:
        yield f"{key} must be a number from 0."
    elif value and datatype in ("BYTES", "BOOL"):
        yield f"{key} makes no sense for {datatype}, which is equal or not; leave it out."


def _cosine_faults(value: object, datatype: str, values: Sequence[object]) -> Iterator[str]:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        yield "cosine must be a number over 0 and up to 1, such as 0.999."
    if datatype in ("BYTES", "BOOL"):
        yield f"cosine makes no sense for {datatype}; use exact."
        return
    if any(isinstance(each, str) for each in values):
        yield "cosine needs finite expected values."
    elif len(values) < 2 or not any(values):
        yield "cosine needs at least two expected values that are not all 0; use absolute."


def _top_k_faults(
    value: object, datatype: str, shape: Sequence[int], values: Sequence[object]
) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TOP_K:
        yield f"top_k must be a whole number from 1 to {MAX_TOP_K}."
        return
    if datatype in ("BYTES", "BOOL"):
        yield f"top_k makes no sense for {datatype}; use exact."
    elif not shape or shape[-1] < value:
        last = shape[-1] if shape else 0
        yield f"top_k is {value}, and the last axis has {last} values; it can have no such list."
    elif not values:
        yield "top_k needs expected values to rank."
    elif "NaN" in values:
        yield "top_k cannot rank an expected value that is not a number."
