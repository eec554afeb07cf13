"""What a reference run becomes: the expected answers, and a tolerance for each output that the
run's own repeats keep to.

Pure. A reference that answers the same question differently says how much of a difference means
nothing; a tolerance tighter than that would fail at a site now and then, so it is refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from waypost_cli.errors import CliError
from waypost_cli.golden import (
    Tolerance,
    cosine,
    difference,
    fault,
    parse_tolerance,
    ranked_alike,
)
from waypost_cli.golden_document import Expected, Golden, Request
from waypost_cli.golden_tensors import Tensor

# Where nothing is asked for: what another processor or build of a backend may differ by.
DEFAULT: Final = Tolerance(relative=1e-3, absolute=1e-5)
_ROOM: Final = 2  # of repeats: their largest difference is hardly the largest there is


@dataclass(frozen=True, kw_only=True)
class Run:
    """The answers to a request, each its outputs by name; and how long the fastest took."""

    request: Request
    answers: tuple[Mapping[str, Tensor], ...]
    fastest_ms: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Of an output over all requests: its tolerance, whence it is, and what repeats differ by."""

    output: str
    tolerance: Tolerance
    why: str
    repeats: str


def record(
    runs: Sequence[Run],
    *,
    asked: Mapping[str, Mapping[str, object]],
    without: Sequence[str] = (),
    max_latency_ms: float | None = None,
) -> tuple[tuple[Golden, ...], tuple[Choice, ...]]:
    """The golden requests and the tolerance of each output, named in `asked` or chosen.

    Raises `CliError` with every reason why this cannot be recorded, with the numbers.
    """
    runs = [_less(run, without) for run in runs]
    faults = [*_slow(runs, max_latency_ms), *(each for run in runs for each in _unsteady(run))]
    names = sorted({name for run in runs for answer in run.answers for name in answer})
    unknown = sorted(set(asked) - set(names))
    faults += [
        f"--tolerance names {name!r}; the outputs are {', '.join(names)}" for name in unknown
    ]
    if faults:
        raise _refusal(faults)
    choices = {name: _choose(name, runs, asked.get(name), faults) for name in names}
    if faults:
        raise _refusal(faults)
    goldens = tuple(
        Golden(
            request=run.request,
            outputs=tuple(
                Expected(tensor=tensor, tolerance=choices[name].tolerance)
                for name, tensor in run.answers[0].items()
            ),
            max_latency_ms=max_latency_ms,
        )
        for run in runs
    )
    return goldens, tuple(choices.values())


def parse_asked(text: str) -> tuple[str, dict[str, object]]:
    """`OUTPUT=absolute:1e-4,relative:1e-3` and the like as two. Raises `CliError`."""
    name, equals, kinds = text.rpartition("=")
    cure = "write it as y=absolute:1e-4, y=cosine:0.999, y=exact or y=top_k:5"
    if not equals or not name or not kinds:
        raise CliError(f"--tolerance {text!r:.80} names no output or no tolerance", cure=cure)
    tolerance: dict[str, object] = {}
    for part in kinds.split(","):
        kind, colon, number = part.partition(":")
        if kind == "exact" and not colon:
            tolerance["exact"] = True
            continue
        try:
            tolerance[kind] = int(number) if kind == "top_k" else float(number)
        except ValueError as error:
            raise CliError(f"--tolerance {text!r:.80} has no number in it", cure=cure) from error
    return name, tolerance


def _less(run: Run, without: Sequence[str]) -> Run:
    answers = tuple(
        {name: tensor for name, tensor in answer.items() if name not in without}
        for answer in run.answers
    )
    if not all(answers):
        raise CliError(f"the answer to {run.request.name!r} has no output that is recorded")
    return Run(request=run.request, answers=answers, fastest_ms=run.fastest_ms)


def _slow(runs: Sequence[Run], most: float | None) -> list[str]:
    return [
        f"request {run.request.name!r} took {run.fastest_ms:.1f} ms here, the fastest of "
        f"{len(run.answers)}; --max-latency-ms is {most:g}"
        for run in runs
        if most is not None and run.fastest_ms > most
    ]


def _unsteady(run: Run) -> list[str]:
    """Answers of different form, which no tolerance covers."""
    forms = [{name: (each.datatype, each.shape) for name, each in a.items()} for a in run.answers]
    if all(form == forms[0] for form in forms):
        return []
    changed = sorted(
        name
        for form in forms
        for name in {*form, *forms[0]}
        if form.get(name) != forms[0].get(name)
    )
    return [
        f"request {run.request.name!r}: {', '.join(dict.fromkeys(changed))} changes its shape or "
        "type from answer to answer, or is not always there"
    ]


def _choose(
    name: str, runs: Sequence[Run], asked: Mapping[str, object] | None, faults: list[str]
) -> Choice:
    pairs = [
        (run.request.name, run.answers[0][name], answer[name])
        for run in runs
        if name in run.answers[0]
        for answer in run.answers[1:]
    ]
    firsts = [run.answers[0][name] for run in runs if name in run.answers[0]]
    apart = max(
        (difference(want, have) for _, want, have in pairs),
        key=lambda each: (each.absolute, each.count),
        default=None,
    )
    repeats = "not repeated" if apart is None else str(apart)
    if asked is None:
        tolerance, why = _default(firsts[0], pairs)
    else:
        tolerance, why = Tolerance(), "asked for"
        for first in firsts:
            tolerance = parse_tolerance(asked, first, f"--tolerance {name}")
            faults += [f"output {name!r}: {each}" for each in _proves_nothing(tolerance, first)]
    for request, want, have in pairs:
        found = fault(tolerance, want, have)
        if found is not None:
            faults.append(
                f"request {request!r}, output {name!r}: repeats of the reference differ by "
                f"{difference(want, have)}, and {tolerance} is tighter ({_proposal(pairs)})"
            )
            break
    return Choice(output=name, tolerance=tolerance, why=why, repeats=repeats)


def _default(first: Tensor, pairs: Sequence[tuple[str, Tensor, Tensor]]) -> tuple[Tolerance, str]:
    if not first.is_real:
        return Tolerance(), "whole numbers and texts are equal"
    needed = max((_needed(want, have) for _, want, have in pairs), default=0.0)
    if needed <= DEFAULT.absolute or not math.isfinite(needed):
        return DEFAULT, "the default for floats"
    return (
        Tolerance(relative=DEFAULT.relative, absolute=_round_up(_ROOM * needed)),
        "the default for floats, wider as the repeats differ",
    )


def _needed(want: Tensor, have: Tensor) -> float:
    """The least absolute tolerance beside the default's relative one."""
    apart = difference(want, have)
    if not apart.count or not math.isfinite(apart.absolute):
        return apart.absolute
    return max(
        abs(float(b) - float(a)) - DEFAULT.relative * abs(float(a))
        for a, b in zip(want.data, have.data, strict=True)
        if a == a and a != b
    )


def _proposal(pairs: Sequence[tuple[str, Tensor, Tensor]]) -> str:
    """What would hold, of each kind."""
    apart = max(difference(want, have).absolute for _, want, have in pairs)
    first = pairs[0][1]
    if first.datatype in ("BYTES", "BOOL") or not math.isfinite(apart):
        return "no tolerance holds; make the reference deterministic, or leave it out: --without"
    room = _round_up(_ROOM * apart)
    ways = [f"absolute:{math.ceil(apart) if not first.is_real else room:g} would hold"]
    least = min(cosine(want, have) for _, want, have in pairs)
    if least > 0:
        ways.append(f"cosine:{math.floor((1 - _ROOM * (1 - least)) * 1e6) / 1e6:g}")
    if ranks := min(ranked_alike(want, have) for _, want, have in pairs):
        ways.append(f"top_k:{ranks}")
    return " or ".join(ways)


def _proves_nothing(tolerance: Tolerance, first: Tensor) -> list[str]:
    """What the control plane refuses, told before the push."""
    if tolerance.kind == "cosine":
        if not all(math.isfinite(float(value)) for value in first.data):
            return ["cosine needs finite expected values"]
        if len(first.data) < 2 or not any(first.data):
            return ["cosine needs at least two values that are not all 0; use absolute"]
    if tolerance.kind == "top_k":
        if not first.data:
            return ["top_k needs values to rank"]
        if any(value != value for value in first.data):
            return ["top_k cannot rank not-a-number"]
    if first.datatype in ("BYTES", "BOOL") and (tolerance.absolute or tolerance.relative):
        return [f"{tolerance} makes no sense for {first.datatype}; use exact"]
    return []


def _round_up(value: float) -> float:
    """To one digit that counts: 0.0123 is 0.02."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit * (1 - 1e-9)) * unit:.1g}")


def _refusal(faults: Sequence[str]) -> CliError:
    return CliError("nothing was recorded", details=faults[:50])
