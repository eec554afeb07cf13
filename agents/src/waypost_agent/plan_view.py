"""What a dry run prints: of each model the next step, the version it moves to, and why.

Decides words only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from waypost_agent import decide as d
from waypost_agent.phases import Plan
from waypost_agent.protocol import ModelReport

_WORDS: dict[type[d.Action], str] = {
    d.Wait: "wait",
    d.UnloadCandidate: "unload the candidate",
    d.Unload: "unload",
    d.Retire: "forget the served version",
    d.Fetch: "fetch",
    d.AskLease: "ask for a lease for",
    d.MakeRoom: "make room for",
    d.Prove: "prove",
    d.Switch: "switch",
    d.Verify: "verify",
    d.Mend: "mend",
    d.GiveUp: "give up",
    d.Prune: "prune",
    d.Settled: "nothing",
}


def site_document(
    plans: Sequence[tuple[str, Sequence[Plan]]], nobodys: Sequence[ModelReport]
) -> dict[str, Any]:
    """The next steps at every server, and the models that no server takes."""
    models = [
        {**({"server": name} if name else {}), **plan_document(plan)}
        for name, each in plans
        for plan in each
    ]
    return {"models": models + [_nobodys_document(report) for report in nobodys]}


def site_lines(
    plans: Sequence[tuple[str, Sequence[Plan]]], nobodys: Sequence[ModelReport]
) -> list[str]:
    """The same for people; a server without models is not spoken of."""
    lines = []
    for name, each in plans:
        if each:
            lines += [f"server {name}", *plan_lines(each)] if name else plan_lines(each)
    lines += [f"{report.model}: {report.reason}" for report in nobodys]
    return lines or ["nothing is wished of this site"]


def _nobodys_document(report: ModelReport) -> dict[str, Any]:
    return {
        "server": None,
        "model": report.model,
        "step": None,
        "version": None,
        "wished": report.target,
        "serving": None,
        "settled": True,
        "reason_code": report.reason_code,
        "reason": report.reason,
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
