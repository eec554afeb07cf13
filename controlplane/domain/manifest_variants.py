"""A manifest of several builds of one version. Decides whether their names, order and files can
stand side by side; what one build is, `manifest.py` says.

It must not know which build a site gets."""

import re
from collections.abc import Mapping
from typing import Any

from controlplane.domain.errors import FieldError
from controlplane.domain.manifest import MAX_FILES, SCHEMA, Build, Manifest, parse_build

MAX_VARIANTS = 16
MAX_PRIORITY = 1000
# Of a file's row, whose path begins with the variant's name.
MAX_PATH_LENGTH = 515
VARIANT_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_KEYS = ("name", "priority", "requires", "files")


def parse_builds(document: Mapping[str, Any], faults: list[FieldError]) -> list[Build]:
    """The builds, with every fault of all of them added to `faults`."""
    where = "manifest.variants"
    for key in sorted(set(map(str, document)) & {"files", "requires"}):
        faults.append(FieldError(field=f"manifest.{key}", message="belongs to each variant"))
    entries = document.get("variants")
    if not isinstance(entries, list) or not 2 <= len(entries) <= MAX_VARIANTS:
        message = f'must be a list of 2 to {MAX_VARIANTS}; a version of one build is a "{SCHEMA}"'
        faults.append(FieldError(field=where, message=message))
        return []
    count = sum(_count_files(entry) for entry in entries)
    if count > MAX_FILES:
        message = f"have {count} files together; at most {MAX_FILES} are allowed"
        faults.append(FieldError(field=where, message=message))
        return []
    found = [_parse(f"{where}[{index}]", entry, faults) for index, entry in enumerate(entries)]
    builds = [build for build in found if build is not None]
    for message in _faults_between(builds):
        faults.append(FieldError(field=where, message=message))
    return builds


def _count_files(entry: object) -> int:
    files = entry.get("files") if isinstance(entry, Mapping) else None
    return len(files) if isinstance(files, list) else 0


def _parse(where: str, entry: object, faults: list[FieldError]) -> Build | None:
    if not isinstance(entry, Mapping):
        message = "must be an object with name, priority, requires and files"
        faults.append(FieldError(field=where, message=message))
        return None
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}.{key}", message=message))

    for key in sorted(set(map(str, entry)) - set(_KEYS)):
        fault(key, f"is not known; a variant has {', '.join(_KEYS)}")
    name, priority = entry.get("name"), entry.get("priority", 0)
    if not isinstance(name, str) or not VARIANT_PATTERN.fullmatch(name):
        fault("name", "must be 1 to 40 of a-z 0-9 . _ -, starting with a letter or digit")
    whole = isinstance(priority, int) and not isinstance(priority, bool)
    if not whole or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        fault("priority", f"must be a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")
    manifest = parse_build(entry, faults, where)
    if len(faults) > before or manifest is None or not isinstance(name, str):
        return None
    for file in manifest.files:
        if len(name) + 1 + len(file.path) > MAX_PATH_LENGTH:
            fault("files", f"{file.path[:80]!r} is too long with the name of its variant")
            return None
    return Build(name=name, priority=int(priority), manifest=manifest)


def _faults_between(builds: list[Build]) -> list[str]:
    faults: list[str] = []
    names: set[str] = set()
    of_digest: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for build in builds:
        if build.name in names:
            faults.append(f"{build.name!r} is there twice")
        names.add(build.name)
        faults.extend(_faults_beside(build, of_digest, sizes, build.manifest))
    return faults


def _faults_beside(
    build: Build, of_digest: dict[str, str], sizes: dict[str, int], manifest: Manifest
) -> list[str]:
    same = of_digest.setdefault(manifest.digest, build.name)
    if same != build.name:
        return [f"{build.name!r} has the same files and requires as {same!r}; leave one out"]
    return [
        f"{build.name}/{file.path} gives the SHA-256 {file.sha256} two sizes; bytes have one"
        for file in manifest.files
        if sizes.setdefault(file.sha256, file.size) != file.size
    ]
