"""What a version's page says: where it stands and who can end that, who said yes to which bytes,
where it comes from, and what its builds ask for. Rows into words; the rules are the catalogue's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from controlplane.catalog.approvals import standing_of
from controlplane.catalog.models import ImportedVersion, Variant, Version, VersionApproval
from controlplane.catalog.models import VersionState as V
from controlplane.catalog.queries import manifest_of, missing_digests
from controlplane.catalog.signatures import SignatureVerdict, signature_standing
from controlplane.domain.fit_facts import size_text
from controlplane.domain.version_states import PENDING, Standing, State

_REQUIRES = {
    "accelerator_memory_bytes": "accelerator memory",
    "memory_bytes": "memory",
    "compute_capability": "compute capability from",
    "compute_capability_exact": "compute capability exactly",
    "driver": "driver from",
    "triton": "Triton from",
    "tensorrt": "TensorRT exactly",
    "backends": "backends",
}
_LINEAGE = {
    "git_repository": "Repository",
    "git_commit": "Commit",
    "ci_run": "CI run",
    "mlflow_run": "MLflow run",
    "dataset": "Data set",
}


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a version stands: a sentence, and who can end it ("" where nobody has to)."""

    sentence: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class ApprovalLine:
    """`counts` False: of other bytes, or of the author where others are asked for."""

    row: VersionApproval
    counts: bool
    why_not: str


@dataclass(frozen=True, kw_only=True)
class LineageLine:
    """`href` is empty for what is no https address: nothing else becomes a link."""

    name: str
    value: str
    href: str = ""


@dataclass(frozen=True, kw_only=True)
class BuildLine:
    variant: Variant
    requires: tuple[str, ...]


def where_it_stands(version: Version, people: Standing) -> Where:
    """Reads the version's signatures and approvals, which its caller should have prefetched."""
    signature = signature_standing(version)
    match V(version.state):
        case V.UPLOADING:
            return _uploading(version)
        case V.REGISTERED:
            cure = (
                "Whoever holds a release key ends this by signing it; or somebody who may change "
                "the model, by asking for less."
            )
            return Where(sentence=signature.sentence, cure=cure)
        case V.VALIDATED:
            return Where(sentence=f"It {people.sentence}.", cure=_who_approves(version, people))
        case V.APPROVED:
            said = f"Approved by {' and '.join(people.counted)}" if people.counted else "Approved"
            if not people.rule.needed:
                said = f"Approved: {people.sentence}"
            warned = signature.verdict is not SignatureVerdict.OK
            return Where(sentence=f"{said}.{f' {signature.sentence}' if warned else ''}")
        case V.QUARANTINED:
            return Where(
                sentence=f"Quarantined by {version.state_reason}",
                cure="Sites that serve it go on; none is offered it. Somebody who may change "
                "versions releases it once the cause is gone.",
            )
        case V.RETIRED:
            return Where(
                sentence=f"Retired by {version.state_reason}",
                cure="Sites that serve it go on, and a way back to it stays open. Somebody who may "
                "change versions takes it back into use.",
            )


def _uploading(version: Version) -> Where:
    manifest = manifest_of(version)
    missing = len(missing_digests(manifest, version.model))
    left = f"{missing} of {len(manifest.digests)} files are still to come"
    if not missing:
        left = "every file is here, and the push is still to be finalised"
    return Where(
        sentence=f"It is being pushed by {version.created_by}: {left}.",
        cure="Whoever pushes it ends this: the same `waypost push` again goes on where it stopped.",
    )


def _who_approves(version: Version, people: Standing) -> str:
    more = "One more person" if people.missing == 1 else f"{people.missing} more people"
    those = [*people.counted]
    if people.rule.by_others and version.author:
        those.append(version.author)
    others = f", other than {' and '.join(those)}," if those else ""
    return f"{more} with the right to approve{others} can end this."


def approval_lines(version: Version, people: Standing) -> list[ApprovalLine]:
    lines = []
    for row in version.approvals.all():
        why_not = ""
        if row.manifest_digest != version.manifest_digest:
            why_not = "it names other bytes"
        elif row.person in people.passed_over:
            why_not = "the author's own does not count here"
        lines.append(ApprovalLine(row=row, counts=not why_not, why_not=why_not))
    return lines


def why_not_approve(version: Version, people: Standing, person: str) -> str:
    """Beside the right to approve; nothing where this person's yes would count."""
    if version.state == V.UPLOADING:
        return "It is still being pushed; finalise the push first."
    if State(version.state) not in (*PENDING, State.APPROVED):
        return f"It is {version.state}."
    given = [row for row in version.approvals.all() if row.person == person]
    if given:
        return f"You said yes at {given[0].at:%Y-%m-%d %H:%M} UTC already."
    if people.rule.by_others and person == version.author:
        return (
            f"You pushed it, and it needs {people.rule.needed} approvals by others; somebody else "
            "has to approve it."
        )
    return ""


def why_not_withdraw(version: Version, person: str) -> str:
    if all(row.person != person for row in version.approvals.all()):
        return "You have not approved it."
    if State(version.state) not in (*PENDING, State.APPROVED):
        return f"It is {version.state}."
    return ""


def approvals_word(version: Version) -> str:
    """For a list: `1 of 2`."""
    people = standing_of(version)
    if not people.rule.needed:
        return "none needed"
    return f"{len(people.counted)} of {people.rule.needed}"


def lineage_lines(lineage: Mapping[str, Any]) -> list[LineageLine]:
    """What was given, in one order; its metrics are apart."""
    return [
        LineageLine(name=name, value=str(lineage[key]), href=safe_href(str(lineage[key])))
        for key, name in _LINEAGE.items()
        if key in lineage
    ]


def metric_lines(lineage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Six digits are more than an evaluation says."""
    return [(name, f"{value:.6g}") for name, value in sorted(lineage.get("metrics", {}).items())]


def safe_href(text: str) -> str:
    """An https address that says plainly where it leads, or nothing."""
    try:
        parts = urlsplit(text)
        plain = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return ""
    hidden = parts.username is not None or parts.password is not None
    printable = text.isprintable() and " " not in text and "\\" not in text
    return text if plain and printable and not hidden else ""


def imported_from(version: Version) -> list[ImportedVersion]:
    """Several where the same bytes have several numbers there; the first to be asked for first."""
    rows = ImportedVersion.objects.select_related("link").filter(version=version)
    return list(rows.order_by("asked_at", "pk"))


def build_lines(variants: Sequence[Variant]) -> list[BuildLine]:
    return [BuildLine(variant=row, requires=requires_words(row)) for row in variants]


def requires_words(variant: Variant) -> tuple[str, ...]:
    requires: Mapping[str, Any] = variant.manifest.get("requires", {})
    return tuple(_require(key, value) for key, value in sorted(requires.items()))


def _require(key: str, value: Any) -> str:
    name = _REQUIRES.get(key, key.replace("_", " "))
    if isinstance(value, list):
        return f"{name} {', '.join(map(str, value))}"
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{size_text(value)} of {name}"
    return f"{name} {value}"
