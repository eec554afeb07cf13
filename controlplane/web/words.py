"""Documents of the engine as words for people: selections of sites, whole stages, left-out sites.

Reads no rows; everything comes in."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.domain.policy import Amount, OnFailure, OnSilent, StagePolicy, Switch, span
from controlplane.domain.stages import StageSpec

NAMED = 3  # sites named before the rest becomes a number
GROUPS_SHOWN = 20
PER_GROUP = 100


def site_count(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


def sites_do(count: int, singular: str, plural: str) -> str:
    """`1 site returns`, `3 sites return`."""
    return f"{site_count(count)} {singular if count == 1 else plural}"


def select_words(select: Mapping[str, Any], otherwise: str) -> str:
    """Whom a selection means; `otherwise` is said of one without any condition."""
    words = [f"{key} {select[key]}" for key in ("tier", "region", "hardware") if select.get(key)]
    words += [f"{key}={value}" for key, value in select.get("labels", {}).items()]
    if "sites" in select:
        words.append(_some(select["sites"]))
    if select.get("exclude"):
        words.append(f"not {_some(select['exclude'])}")
    if select.get("percent"):
        words.append(f"{select['percent']} %")
    if select.get("per"):
        words.append(f"{select.get('count') or 1} of each {select['per']}")
    elif select.get("count"):
        words.append(f"{select['count']} of them")
    return ", ".join(words) or otherwise


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def stage_selects(select: Mapping[str, Any], *, trailing: bool) -> str:
    """What a stage takes."""
    if trailing and not select:
        return "who joins late or was put off"
    return select_words(select, "all that are left")


def spec_selects(spec: StageSpec) -> str:
    return stage_selects(spec.select_document(), trailing=spec.trailing)


_SILENT = {
    OnSilent.WAIT: "waited for",
    OnSilent.COUNT: "counted as failed",
    OnSilent.DEFER: "put off to the end",
}


def policy_words(policy: StagePolicy) -> list[str]:
    """What a stage bears, before it is known how many sites it has."""
    then = "rolls back" if policy.on_failure is OnFailure.ROLLBACK else "pauses"
    tolerated = policy.failures_tolerated
    said = [
        f"{then} at the first failed"
        if tolerated in (0, "0%")
        else f"{then} when more than {_amount(tolerated)} failed",
        f"at most {_amount(policy.max_unavailable)} unavailable",
    ]
    if policy.max_concurrent is not None:
        said.append(f"at most {_amount(policy.max_concurrent)} under way at once")
    if policy.successes_required is not None:
        said.append(f"needs {_amount(policy.successes_required)} verified")
    if policy.progress_deadline_seconds is not None:
        late = span(policy.progress_deadline_seconds)
        said.append(f"a site silent for {late} is {_SILENT[policy.on_silent]}")
    if policy.retries:
        said.append(f"{policy.retries} more tries, {span(policy.retry_after_seconds)} apart")
    if policy.approval:
        said.append("a person approves going on")
    if policy.gates:
        said.append(f"gates: {', '.join(policy.gates)}")
    if policy.switch is not Switch.SURGE:
        said.append(_SWITCH[policy.switch])
    if policy.probation is not None:
        said.append(f"{span(policy.probation.seconds)} on probation at each site")
    return said


_SWITCH = {
    Switch.REPLACE: "a site answers nobody while it replaces its version",
    Switch.AUTO: "a site without memory for two versions answers nobody while it replaces its own",
}


def _amount(amount: Amount) -> str:
    return site_count(amount) if isinstance(amount, int) else amount.replace("%", " %")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Sites left out for one kind of reason. `entries` are the first of them, each with its own
    sentence, `more` how many are not among them."""

    reason: str
    count: int
    entries: tuple[tuple[str, str], ...]
    more: int


def left_out(excluded: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """Groups, the largest first. Sentences that differ only in their figures are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, reason in excluded:
        kinds[re.split(r"\d", reason, maxsplit=1)[0]].append((name, reason))
    ranked = sorted(kinds.values(), key=len, reverse=True)
    groups = [_group(entries) for entries in ranked[:GROUPS_SHOWN]]
    if rest := [entry for entries in ranked[GROUPS_SHOWN:] for entry in entries]:
        groups.append(_group(rest, "other reasons"))
    return tuple(groups)


def _group(entries: list[tuple[str, str]], reason: str = "") -> LeftOut:
    same = len({sentence for _, sentence in entries}) == 1
    first = entries[0][1]
    opening = re.split(r"\d", first, maxsplit=1)[0].rstrip()
    return LeftOut(
        reason=reason or (first if same else f"{opening} …"),
        count=len(entries),
        entries=tuple(entries[:PER_GROUP]),
        more=max(0, len(entries) - PER_GROUP),
    )
