"""What a dry run prints: of each model the next step, the version it moves to, and why.

Decides words only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from waypost_agent import decide as d
from waypost_agent.phases import Plan

_WORDS: dict[type[d.Action], str] = {
    d.Wait: "wait",
    d.UnloadCandidate: "unload the candidate",
    d.Unload: "unload",
    d.Retire: "forget the served version",
    d.Fetch: "fetch",
    d.AskLease: "ask for a lease for",
    d.Prove: "prove",
    d.Switch: "switch",
    d.Verify: "verify",
    d.Mend: "mend",
    d.GiveUp: "give up",
    d.Prune: "prune",
    d.Settled: "nothing",
}


def plan_document(plan: Plan) -> dict[str, Any]:
    """One model's next step, for machines; `step` is the name of the action in the code."""
    action = plan.action
    return {
        "model": plan.entry.model,
        "step": type(action).__name__,
        "version": _version(action),
        "wished": plan.entry.version,
        "serving": plan.seen.serving if plan.seen.triton_live else None,
        "settled": isinstance(action, d.Settled),
        "reason_code": getattr(action, "reason_code", None),
        "reason": action.reason,
    }


def plan_lines(plans: Sequence[Plan]) -> list[str]:
    """A table for people, and below each line why."""
    rows = [("MODEL", "WISHED", "SERVING", "NEXT STEP"), *(_row(plan) for plan in plans)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    reasons = [None, *(plan.action.reason for plan in plans)]
    lines = []
    for row, reason in zip(rows, reasons, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]))
        if reason is not None:
            lines.append(f"  because {reason}")
    return lines


def _row(plan: Plan) -> tuple[str, str, str, str]:
    serving = plan.seen.serving if plan.seen.triton_live else "unknown"
    return (plan.entry.model, plan.entry.version or "nothing", serving or "nothing", _step(plan))


def _step(plan: Plan) -> str:
    action = plan.action
    if isinstance(action, d.Settled):
        return "nothing, as wished" if action.succeeded else f"nothing, {action.reason_code}"
    if isinstance(action, d.Switch) and action.restoring:
        return f"switch back to version {action.target.version}"
    words, version = _WORDS[type(action)], _version(action)
    return words if version is None else f"{words} version {version}"


def _version(action: d.Action) -> str | None:
    target = getattr(action, "target", None)
    return None if target is None else str(target.version)
