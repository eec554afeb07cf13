"""`waypost-agent doctor`: what a site needs, checked one by one, each finding with its cure.

Three parts: `facts` are values, `gather` brings them in and judges nothing, the other modules
judge them and touch nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from waypost_agent.doctor.centre import centre_checks
from waypost_agent.doctor.facts import FAIL, NOT_APPLICABLE, OK, WARN, Check, Facts
from waypost_agent.doctor.host import host_checks, place_checks
from waypost_agent.doctor.models import model_checks
from waypost_agent.doctor.server import server_checks
from waypost_agent.doctor.site_rules import rule_checks
from waypost_agent.doctor.trust import trust_checks

__all__ = ["FAIL", "NOT_APPLICABLE", "OK", "WARN", "check_all", "check_document", "check_lines"]


def check_all(*servers: Facts) -> tuple[Check, ...]:
    """Every check of a site with these servers, in the order in which faults are best mended."""
    one = servers[0]
    return (
        *host_checks(one),
        *trust_checks(one),
        *rule_checks(one),
        *centre_checks(one),
        *(check for facts in servers for check in _checks_of(facts)),
    )


def _checks_of(facts: Facts) -> tuple[Check, ...]:
    name = "" if facts.of is None else facts.of.name
    checks = (*place_checks(facts), *server_checks(facts), *model_checks(facts))
    return tuple(replace(check, server=name) for check in checks)


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
        name = f"{check.server}: {check.name}" if check.server else check.name
        lines.append(f"{check.verdict.ljust(wide)}  {name}: {check.seen}")
        if check.cure:
            lines.append(f"{' ' * wide}  -> {check.cure}")
    failed = sum(check.verdict == FAIL for check in checks)
    warned = sum(check.verdict == WARN for check in checks)
    lines.append(f"{len(checks)} checks, {failed} failed, {warned} with a warning")
    return lines
