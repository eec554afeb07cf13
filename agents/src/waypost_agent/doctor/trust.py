"""Judges whose signatures this site asks for: the keys of [trust] and who could replace them."""

from __future__ import annotations

from waypost_agent.doctor.facts import Check, Facts, fail, not_applicable, ok, warn
from waypost_agent.trust_config import REFUSED


def trust_checks(facts: Facts) -> tuple[Check, ...]:
    return (release_keys(facts),)


def release_keys(facts: Facts) -> Check:
    name = "release keys"
    if facts.config is None or facts.trust is None:
        return not_applicable(name, "the configuration cannot be read")
    if facts.trust.fault is not None:
        return fail(
            name,
            facts.trust.fault,
            "let each file of trust.keys hold one public key (openssl pkey -in KEY -pubout) that "
            "the agent's user can read; the agent does not start without",
        )
    if facts.trust.changeable:
        return fail(
            name,
            f"{', '.join(facts.trust.changeable)} can be changed by others, who could sign in turn",
            f"chmod go-w {' '.join(facts.trust.changeable)}",
        )
    if not facts.trust.fingerprints:
        return not_applicable(name, "none are given, so no version needs a signature here")
    shown = ", ".join(fingerprint[:16] for fingerprint in facts.trust.fingerprints)
    unsigned = facts.config.trust.unsigned
    if unsigned != REFUSED:
        return warn(
            name,
            f"{shown}; unsigned versions are taken all the same (unsigned = {unsigned!r})",
            'set trust.unsigned = "refused" once all versions are signed',
        )
    return ok(name, f"{shown}; versions that none of them signed are refused")
