"""Looks at the builds of a version: what each of them is, and what is wrong with all of them
together. The rules are those of `validation.py`; here are only rows and the store."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from controlplane.catalog.models import Model, Version
from controlplane.catalog.queries import blob_store
from controlplane.catalog.validation import Checked, check_bundle
from controlplane.domain.backends import ContentClass
from controlplane.domain.findings import Finding, Level, faults_of
from controlplane.domain.manifest import DEFAULT_VARIANT, Manifest, ManifestFile

# What is kept of warnings; who pushed nonsense need not be told all of it.
MAX_WARNINGS = 100
_STRICTNESS = (ContentClass.DATA, ContentClass.OPAQUE, ContentClass.EXECUTABLE)


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build and what was found of it; its files are named as the version names them."""

    variant: str
    content_class: ContentClass
    backend: str
    findings: tuple[Finding, ...]


def check_builds(version: Version) -> list[Build]:
    """Of a version whose bytes are all held: every build, by its own manifest."""
    known, store = known_models(), blob_store()
    rows = list(version.variants.all())
    found = []
    for row in rows:
        with ExitStack() as held:  # files that the store had to fetch go away with it

            def stored(file: ManifestFile, held: ExitStack = held) -> Path:
                return held.enter_context(store.local(file.sha256))

            checked = check_bundle(
                Manifest.of_document(row.manifest),
                stored,
                model_name=version.model.name,
                known_models=known,
            )
        alone = len(rows) == 1 and row.name == DEFAULT_VARIANT
        found.append(build_of(row.name, checked, alone=alone))
    return found


def build_of(variant: str, checked: Checked, *, alone: bool) -> Build:
    """`alone`: the version is this one build, and its files are the version's."""
    findings = checked.findings
    if not alone:
        findings = tuple(replace(each, file=f"{variant}/{each.file}") for each in findings)
    return Build(
        variant=variant,
        content_class=checked.content_class,
        backend=checked.backend,
        findings=findings,
    )


def known_models() -> frozenset[str]:
    """What an ensemble may name."""
    return frozenset(Model.objects.order_by().values_list("name", flat=True))


def strictest(classes: Iterable[ContentClass]) -> ContentClass:
    """Of a version: that of any of its builds. Of none it is not known, and so the strictest."""
    return max(classes, key=_STRICTNESS.index, default=ContentClass.EXECUTABLE)


def faults_in(builds: Sequence[Build]) -> tuple[Finding, ...]:
    return tuple(each for build in builds for each in faults_of(build.findings))


def warnings_in(builds: Sequence[Build]) -> list[str]:
    """As sentences that begin with the place."""
    found = [
        f"{each.place}: {each.message} {each.cure}"
        for build in builds
        for each in build.findings
        if each.level is Level.WARNING
    ]
    return found[:MAX_WARNINGS]
