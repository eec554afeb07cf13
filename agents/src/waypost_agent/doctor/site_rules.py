"""Judges what this site's own configuration allows: code in versions, mirrors, download hours."""

from __future__ import annotations

from waypost_agent.doctor.facts import (
    Check,
    Facts,
    MirrorFacts,
    fail,
    not_applicable,
    ok,
    warn,
)

_UNREADABLE = "the configuration cannot be read"
_UNKNOWN = 404  # a mirror that took the secret and has no such file
_REFUSED = 401


def rule_checks(facts: Facts) -> tuple[Check, ...]:
    return (executable(facts), mirrors(facts), window(facts))


def executable(facts: Facts) -> Check:
    name = "executable versions"
    if facts.config is None:
        return not_applicable(name, _UNREADABLE)
    if facts.config.allow_executable:
        return ok(name, "versions may run code of their own here (allow_executable = true)")
    return ok(name, "versions that run code of their own are refused (allow_executable = false)")


def mirrors(facts: Facts) -> Check:
    name = "mirrors"
    if facts.config is None or facts.sharing is None:
        return not_applicable(name, _UNREADABLE)
    shares = facts.config.mirror.listen is not None
    if facts.sharing.secret_fault is not None:
        return fail(
            name,
            facts.sharing.secret_fault,
            "give each agent that shares files the same secret (openssl rand -hex 32), readable by "
            "its user",
        )
    if not facts.sharing.mirrors:
        return not_applicable(name, "none are named" + ("; this is one" if shares else ""))
    refusing = [each.url for each in facts.sharing.mirrors if each.status == _REFUSED]
    if refusing:
        return fail(
            name,
            f"{', '.join(refusing)} does not take the secret of mirror.secret_file",
            "give both agents the same secret",
        )
    silent = [each for each in facts.sharing.mirrors if each.status != _UNKNOWN]
    if silent:
        return warn(
            name,
            "; ".join(_said(each) for each in silent),
            "check that agent ([mirror] listen), route and certificate; its files come from the "
            "control plane meanwhile",
        )
    return ok(name, f"{', '.join(each.url for each in facts.sharing.mirrors)} can be asked")


def window(facts: Facts) -> Check:
    name = "download window"
    if facts.config is None or facts.sharing is None:
        return not_applicable(name, _UNREADABLE)
    if not facts.config.download.windows:
        return not_applicable(name, "none are given: every hour will do")
    opens_at = facts.sharing.opens_at
    if opens_at is None:
        return ok(name, "open now")
    return ok(
        name, f"closed now; it opens {opens_at:%a %Y-%m-%d %H:%M %Z}, ways back wait for none"
    )


def _said(mirror: MirrorFacts) -> str:
    if mirror.status is None:
        return f"{mirror.url} does not answer: {mirror.fault}"
    return f"{mirror.url} answers {mirror.status}, which no mirror does"
