"""What a push would come to, before any byte is sent: every fault that the manifest and the texts
show, and what the catalogue would do with it. Writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.catalog.builds import Build, build_of, known_models, strictest
from controlplane.catalog.model_settings import require_quota
from controlplane.catalog.models import Model
from controlplane.catalog.queries import missing_digests
from controlplane.catalog.services import existing_version, require_model_name
from controlplane.catalog.validation import check_texts
from controlplane.catalog.versions import check_labels
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.findings import Finding, fault
from controlplane.domain.lineage import parse_lineage
from controlplane.domain.manifest import (
    CONFIG_FILE,
    DEFAULT_VARIANT,
    GOLDEN_FILE,
    SCHEMA_OF_VARIANTS,
    Manifest,
    parse_manifest,
)
from controlplane.domain.version_states import Rule, approval_rule

_CURE = "See docs/agent-protocol.md, section 3."


class Would(StrEnum):
    """What the catalogue would do, faults left aside."""

    CREATE = "create"
    SAME = "same"
    CONFLICT = "conflict"


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """`missing` are digests that would have to be sent; `conflict` is what stands in the way;
    `version` the number of the same version where there is one."""

    findings: tuple[Finding, ...]
    would: Would
    conflict: Conflict | None = None
    version: int | None = None
    missing: tuple[str, ...] = ()
    content_class: str
    rule: Rule
    builds: tuple[Build, ...] = field(default=())


def try_push(
    *,
    model_name: str,
    number: int | None,
    manifest: object,
    texts: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
    lineage: object = None,
) -> DryRun:
    """`texts` are the contents of config.pbtxt and golden.json, by their paths in the version; of
    several builds by `BUILD/config.pbtxt`. What is not sent is not judged, and what only a model's
    own bytes can tell is not either. Raises nothing for a bad push: that is what it tells."""
    findings: list[Finding] = []
    parsed: Manifest | None = None
    for place, check in (
        ("name", lambda: require_model_name(model_name)),
        ("labels", lambda: check_labels(labels or {})),
        ("lineage", lambda: parse_lineage(lineage)),
    ):
        try:
            check()
        except InvalidInput as error:
            findings += _as_findings(error, place)
    try:
        parsed = parse_manifest(manifest)
    except InvalidInput as error:
        findings += _as_findings(error, "manifest")
    builds = _builds(model_name, manifest, texts)
    findings += [each for build in builds for each in build.findings]
    content = strictest(build.content_class for build in builds)
    model = Model.objects.filter(name=model_name).first() if "\0" not in model_name else None
    needed = model.approvals_needed if model else Model().approvals_needed
    would, conflict, version = _outcome(model, number, parsed)
    return DryRun(
        findings=tuple(findings),
        would=would,
        conflict=conflict,
        version=version,
        missing=tuple(missing_digests(parsed, model)) if parsed else (),
        content_class=content,
        rule=approval_rule(content, signed=False, approvals_needed=needed),
        builds=tuple(builds),
    )


def _outcome(
    model: Model | None, number: int | None, manifest: Manifest | None
) -> tuple[Would, Conflict | None, int | None]:
    if model is None or manifest is None:
        return Would.CREATE, None, None
    try:
        if same := existing_version(model, number, manifest):
            return Would.SAME, None, same.number
        require_quota(model, manifest.size_bytes)
    except Conflict as conflict:
        return Would.CONFLICT, conflict, None
    return Would.CREATE, None, None


def _builds(model_name: str, manifest: object, texts: Mapping[str, str]) -> list[Build]:
    """By what can be read of a manifest, sound or not: all its mistakes are told at once."""
    document = manifest if isinstance(manifest, Mapping) else {}
    entries: list[tuple[str, Mapping[str, object]]] = [(DEFAULT_VARIANT, document)]
    several = document.get("schema") == SCHEMA_OF_VARIANTS
    if several:
        variants = document.get("variants")
        entries = [
            (str(each.get("name"))[:40], each)
            for each in (variants if isinstance(variants, list) else [])
            if isinstance(each, Mapping)
        ]
    known, found = known_models(), []
    for name, entry in entries:
        before = f"{name}/" if several else ""
        sizes = _sizes(entry.get("files"))
        # What the manifest does not name is told there; here it would be told twice.
        texts_of = {
            path: texts[before + path]
            for path in (CONFIG_FILE, GOLDEN_FILE)
            if before + path in texts and path in sizes
        }
        checked = check_texts(
            files=sizes,
            config=texts_of.get(CONFIG_FILE),
            golden=texts_of.get(GOLDEN_FILE),
            model_name=model_name,
            known_models=known,
        )
        found.append(build_of(name, checked, alone=not several))
    return found


def _sizes(files: object) -> dict[str, int]:
    listed = files if isinstance(files, list) else []
    return {
        each["path"]: each["size"]
        for each in listed
        if isinstance(each, Mapping)
        and isinstance(each.get("path"), str)
        and isinstance(each.get("size"), int)
        and not isinstance(each.get("size"), bool)
    }


def _as_findings(error: InvalidInput, place: str) -> list[Finding]:
    if not error.errors:
        return [fault("", error.detail, _CURE, field=place)]
    return [fault("", each.message, _CURE, field=each.field) for each in error.errors]
