"""What a gate may say, and whether the gates of a stage let it go on: they fail closed.

No data, old data and a gate that could not measure are all the same here: not a pass. How a gate
comes to its verdict is not known to this module."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Verdict(StrEnum):
    """`error`: could not be measured; `inconclusive`: measured, and not enough to say."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The last verdict of one gate. `fresh_until` None: it does not age."""

    gate: str
    verdict: Verdict
    reason: str
    judged_at: datetime
    fresh_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Gates:
    """All gates of a stage taken together, with one sentence for each that does not pass."""

    verdict: Verdict
    sentence: str


def held_against(result: GateResult, accepted_at: datetime | None) -> str:
    """What a failing gate says, if nobody accepted it since; else nothing."""
    accepted = accepted_at is not None and result.judged_at <= accepted_at
    if result.verdict is not Verdict.FAIL or accepted:
        return ""
    return f"gate {result.gate} fails: {result.reason}"


def judge(
    required: Sequence[str],
    results: Iterable[GateResult],
    now: datetime,
    accepted_at: datetime | None = None,
) -> Gates:
    """A failing gate beats everything. All required ones must pass on fresh evidence.

    A failure that somebody accepted (`accepted_at`) is no longer held against the stage; a later
    one is, and so is a verdict that is missing.
    """
    known = {result.gate: result for result in results}
    failing, open_ = [], []
    for name in [*required, *sorted(set(known) - set(required))]:
        result = known.get(name)
        if result is None:
            open_.append(f"gate {name} has not said anything")
        elif result.verdict is Verdict.FAIL:
            if against := held_against(result, accepted_at):
                failing.append(against)
        elif result.fresh_until is not None and result.fresh_until < now:
            open_.append(f"gate {name} last spoke at {result.judged_at:%Y-%m-%d %H:%M} UTC")
        elif result.verdict is not Verdict.PASS:
            open_.append(f"gate {name} is {result.verdict}: {result.reason}")
    if failing:
        return Gates(verdict=Verdict.FAIL, sentence="; ".join(failing))
    if open_:
        return Gates(verdict=Verdict.INCONCLUSIVE, sentence="; ".join(open_))
    return Gates(verdict=Verdict.PASS, sentence="")
