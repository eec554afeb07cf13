"""Judges the way to the centre: name, TLS, HTTP, and how far the two clocks are apart."""

from __future__ import annotations

from waypost_agent.doctor.facts import (
    CentreFacts,
    Check,
    Facts,
    fail,
    not_applicable,
    ok,
    warn,
)

# The Date header has whole seconds and is old by the way here.
_SKEW_SECONDS = 60.0


def centre_checks(facts: Facts) -> tuple[Check, ...]:
    centre = facts.centre
    names = ("centre name", "centre", "clock")
    if centre is None:
        why = "no centre is known; join first"
        return tuple(not_applicable(name, why) for name in names)
    return (name_found(centre), answers(centre), clock(centre))


def name_found(centre: CentreFacts) -> Check:
    if centre.name_fault is not None:
        return fail(
            "centre name",
            f"the host of {centre.url} is not found: {centre.name_fault}",
            "check the name and this machine's DNS (resolvectl query HOST)",
        )
    return ok("centre name", f"{centre.url} is at {', '.join(centre.addresses)}")


def answers(centre: CentreFacts) -> Check:
    name = "centre"
    if centre.name_fault is not None:
        return not_applicable(name, "its name is not found")
    if centre.tls_fault:
        return fail(
            name,
            f"its certificate is not trusted: {centre.fault}",
            "let ca_file name the certificate authority of the centre, and check this clock",
        )
    if centre.status is None:
        return fail(
            name,
            f"no answer from {centre.url}: {centre.fault}",
            "check route, proxy and firewall; serving goes on without the centre meanwhile",
        )
    if centre.status != 200:
        return fail(
            name,
            f"{centre.url}/healthz/live answers {centre.status}",
            "check centre_url, and the proxy in front of the control plane",
        )
    if not centre.is_centre:
        return fail(
            name,
            f"what answers at {centre.url} is not a control plane",
            "log in to the network where it asks for that (captive portal), or correct the URL",
        )
    return ok(name, f"{centre.url} answers")


def clock(centre: CentreFacts) -> Check:
    name, ahead = "clock", centre.ahead_seconds
    if ahead is None:
        return not_applicable(name, "the centre's time is not known")
    seen = f"this clock is {abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the centre's"
    if abs(ahead) > _SKEW_SECONDS:
        return warn(
            name,
            f"{seen}; nothing is decided by it, but certificates and log lines depend on it",
            "timedatectl set-ntp true, and check that NTP gets through",
        )
    return ok(name, seen)
