"""Signatures over versions: what a version's standing is by those that are kept. Reads only.

A signature covers all files of a version by name and SHA-256. What sites make of it they decide by
themselves, by keys of their own (docs/agent-protocol.md, section 3)."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from django.db.models import F

from controlplane.catalog.models import UnsignedPolicy, Version, VersionSignature
from controlplane.catalog.trust_chains import OMS
from controlplane.domain.errors import Conflict

MAX_HANDED_ON = 16  # docs/agent-protocol.md, section 3


class SignatureVerdict(StrEnum):
    OK = "ok"
    WARNED = "warned"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Whether a version may be used by the signatures over it; `signed_by` names the keys."""

    signed_by: tuple[str, ...]
    policy: UnsignedPolicy
    verdict: SignatureVerdict
    sentence: str


def signature_standing(version: Version) -> Standing:
    """A signature by a key that was revoked since counts no more. Reads `version.signatures` with
    their keys, which a list should prefetch."""
    signatures = list(version.signatures.all())
    live = sorted(each.key.name for each in signatures if each.key.revoked_at is None)
    revoked = sorted(each.key.name for each in signatures if each.key.revoked_at is not None)
    policy = UnsignedPolicy(version.model.unsigned)
    if live:
        return Standing(
            signed_by=tuple(live),
            policy=policy,
            verdict=SignatureVerdict.OK,
            sentence=f"It is signed by {', '.join(live)}.",
        )
    state = (
        f"It is signed only by {', '.join(revoked)}, which was revoked"
        if revoked
        else "No release key signed it"
    )
    verdict, consequence = {
        UnsignedPolicy.ALLOWED: (SignatureVerdict.OK, "its model asks for no signature"),
        UnsignedPolicy.WARNED: (SignatureVerdict.WARNED, "its model asks for one and only warns"),
        UnsignedPolicy.REFUSED: (
            SignatureVerdict.REFUSED,
            "its model refuses that: sign it (`waypost sign`) and attach the signature",
        ),
    }[policy]
    return Standing(
        signed_by=(), policy=policy, verdict=verdict, sentence=f"{state}; {consequence}."
    )


def require_standing(version: Version) -> Standing:
    """The standing of a version that may be used. Raises `Conflict` (`signature-required`)."""
    standing = signature_standing(version)
    if standing.verdict is SignatureVerdict.REFUSED:
        raise Conflict("signature-required", f"{version}: {standing.sentence}")
    return standing


def signatures_of(version: Version) -> Iterable[VersionSignature]:
    return version.signatures.select_related("key").order_by("added_at", "pk")


def wished_signatures(version_ids: Iterable[int]) -> dict[int, list[dict[str, object]]]:
    """By version id, what agents are given of them; one query for any number.

    Also those by keys that were revoked here: sites judge by their own keys, and to leave one out
    would take the way back from a site that trusts the key yet. Agents take at most
    `MAX_HANDED_ON`: first those by live keys, then the newest."""
    rows = VersionSignature.objects.filter(version__in=set(version_ids)).order_by(
        F("key__revoked_at").desc(nulls_first=True), "-added_at", "-pk"
    )
    found: dict[int, list[dict[str, object]]] = {}
    for version_id, bundle in rows.values_list("version_id", "bundle"):
        given = found.setdefault(version_id, [])
        if len(given) < MAX_HANDED_ON:
            given.append({"kind": OMS, "bundle": bundle})
    return found
