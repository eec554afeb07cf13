"""How versions stand at a site: well, badly and why, or nobody knows. The evidence of blame.

Decides which reason codes can speak against a version at all, and when an error rate is bad beyond
chance. It must not know who is to blame (`attribution.py`), rows, or the clock."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from math import sqrt

from controlplane.domain.rollout import INFRASTRUCTURE_CODES


class FailureClass(StrEnum):
    """What a reason code can say: `surroundings` and `site` are never the version's doing."""

    SURROUNDINGS = "surroundings"
    SITE = "site"
    VERSION = "version"


# The agent could not reach, fetch, keep or load anything, whatever the version is.
_SURROUNDINGS = INFRASTRUCTURE_CODES | {
    "registry-unreachable",
    "token-expired",
    "lease-unreachable",
    "lease-lapsed",
    "unload-timeout",
}
# The site lacks or forbids something, or a person there took it back.
_SITE = frozenset(
    {
        "backend-missing",
        "executable-refused",
        "hardware-incompatible",
        "memory-insufficient",
        "no-server",
        "rolled-back-locally",
        "signature-missing",
        "triton-too-old",
    }
)
# Of the surroundings, those that a bad link explains.
LINK_CODES = frozenset({"download-failed", "lease-unreachable", "registry-unreachable"})
# Proven at the site with no link in between: a network is no explanation of these.
LOCAL_CODES = frozenset(
    {
        "candidate-failed",
        "config-invalid",
        "golden-mismatch",
        "load-failed",
        "load-timeout",
        "manifest-invalid",
    }
)


def failure_class(code: str) -> FailureClass:
    """Of a reason code (docs/agent-protocol.md, section 5) or the name of a gate's metric."""
    if code in _SURROUNDINGS:
        return FailureClass.SURROUNDINGS
    return FailureClass.SITE if code in _SITE else FailureClass.VERSION


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one version does at one site. `ok` None: not known.

    `failure` is the reason code, or the name of the metric that is bad; `note` has the figures.
    `began_at` is when the failure was first seen, `seen_at` the newest evidence.
    """

    ok: bool | None = None
    failure: str = ""
    note: str = ""
    began_at: datetime | None = None
    seen_at: datetime | None = None


def by_error_rate(
    *,
    requests: int | None,
    failed: int | None,
    limit: float,
    began_at: datetime | None = None,
    seen_at: datetime | None = None,
    z: float = 2.326,
) -> Standing:
    """Bad or good only where the Wilson score interval of the error rate (E. B. Wilson, Probable
    inference, JASA 22, 1927) lies wholly over or under `limit`; `z` 2.326 is 99 % to a side.

    No requests, or more failed than there were, say nothing.
    """
    if requests is None or failed is None or not 0 <= failed <= requests or not requests:
        return Standing(seen_at=seen_at)
    rate, spread = failed / requests, z * z / requests
    centre = rate + spread / 2
    half = z * sqrt(rate * (1 - rate) / requests + spread / (4 * requests))
    bad = (centre - half) / (1 + spread) > limit
    good = (centre + half) / (1 + spread) <= limit
    return Standing(
        ok=False if bad else True if good else None,
        failure="error-rate" if bad else "",
        note=f"{failed} of {requests} requests failed",
        began_at=began_at if bad else None,
        seen_at=seen_at,
    )


@dataclass(frozen=True, kw_only=True)
class SiteOutcome:
    """One site. `new` is how the rollout's version does there, None where it was never brought (a
    control); `old` how the one before it does there, None where there is none to compare with.

    Empty words are not known. `link` is what its traffic comes through, such as an uplink.
    """

    site: str
    new: Standing | None = None
    old: Standing | None = None
    variant: str = ""
    accelerator: str = ""
    link: str = ""
    region: str = ""
