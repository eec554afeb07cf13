"""`waypost-agent doctor`: what a site needs, checked one by one, each finding with its cure.

Three parts: `facts` are values, `gather` brings them in and judges nothing, the other modules
judge them and touch nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from waypost_agent.doctor.centre import centre_checks
from waypost_agent.doctor.facts import FAIL, NOT_APPLICABLE, OK, WARN, Check, Facts
from waypost_agent.doctor.host import host_checks
from waypost_agent.doctor.models import model_checks
from waypost_agent.doctor.server import server_checks

__all__ = ["FAIL", "NOT_APPLICABLE", "OK", "WARN", "check_all", "check_document", "check_lines"]


def check_all(facts: Facts) -> tuple[Check, ...]:
    """Every check, in the order in which faults are best mended."""
    return (
        *host_checks(facts),
        *centre_checks(facts),
        *server_checks(facts),
        *model_checks(facts),
    )


def check_document(checks: Sequence[Check]) -> dict[str, Any]:
    """For machines: all checks, and how many of each verdict."""
    counts = dict.fromkeys((OK, WARN, FAIL, NOT_APPLICABLE), 0)
    for check in checks:
        counts[check.verdict] += 1
    return {"checks": [dict(vars(check)) for check in checks], "counts": counts}


def check_lines(checks: Sequence[Check]) -> list[str]:
    """For people: a line for each check, and its cure below where there is one."""
    wide = max(len(check.verdict) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.verdict.ljust(wide)}  {check.name}: {check.seen}")
        if check.cure:
            lines.append(f"{' ' * wide}  -> {check.cure}")
    failed = sum(check.verdict == FAIL for check in checks)
    warned = sum(check.verdict == WARN for check in checks)
    lines.append(f"{len(checks)} checks, {failed} failed, {warned} with a warning")
    return lines
