"""What a version is: its manifest. Decides whether one is well formed and what its digest is.

A manifest of several builds is read by `manifest_variants.py` and is here the files of them all.
It must not know where bytes are stored or who pushes them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.requirements import parse_requirements

SCHEMA = "waypost.manifest/1"
SCHEMA_OF_VARIANTS = "waypost.manifest/2"
DEFAULT_VARIANT = "default"
CONFIG_FILE = "config.pbtxt"
GOLDEN_FILE = "golden.json"
MAX_FILES = 2000
MAX_DEPTH = 4
MAX_FILE_BYTES = 1 << 40  # 1 TiB: beyond any model file; a guard against a mistyped size
CHUNK_BYTES = 16 << 20  # docs/agent-protocol.md, section 4
_FILE_KEYS = ("path", "size", "sha256", "chunks")
# An agent proves a version of MODEL under the name MODEL--candidate; no model may stand there.
NAME_PATTERN = re.compile(r"(?!.*--candidate$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PART_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One file: `path` relative to the pushed folder, `size` in bytes, `sha256` in hex. `chunks`
    are the digests of its pieces of `CHUNK_BYTES`, or nothing."""

    path: str
    size: int
    sha256: str
    chunks: tuple[str, ...] = ()

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> "ManifestFile":
        return cls(
            path=entry["path"],
            size=entry["size"],
            sha256=entry["sha256"],
            chunks=tuple(entry.get("chunks", ())),
        )

    def entry(self) -> dict[str, object]:
        plain: dict[str, object] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        return {**plain, "chunks": list(self.chunks)} if self.chunks else plain


@dataclass(frozen=True, kw_only=True)
class Build:
    """One build of a version: what an agent is given is its own `manifest`. The highest `priority`
    among those that a site can run is taken."""

    name: str
    priority: int
    manifest: "Manifest"

    def entry(self) -> dict[str, object]:
        """As the manifest of several builds lists it."""
        files = [file.entry() for file in self.manifest.files]
        asked = {"requires": dict(self.manifest.requires)} if self.manifest.requires else {}
        return {"name": self.name, "priority": self.priority, "files": files, **asked}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a version, sorted by path, and what it asks of machines, as it was written.
    Equal manifests have equal digests. Of several builds (`builds`, by name) the files are those
    of all, each path beginning with its build's name, and each build asks for itself."""

    files: tuple[ManifestFile, ...]
    requires: Mapping[str, object] = field(default_factory=dict)
    builds: tuple[Build, ...] = ()

    @classmethod
    def of_builds(cls, builds: Iterable[Build]) -> "Manifest":
        ordered = tuple(sorted(builds, key=lambda build: build.name))
        files = [
            replace(file, path=f"{build.name}/{file.path}")
            for build in ordered
            for file in build.manifest.files
        ]
        return cls(files=tuple(sorted(files, key=lambda file: file.path)), builds=ordered)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> "Manifest":
        """From a document that `parse_manifest` accepted before."""
        if document.get("schema") == SCHEMA_OF_VARIANTS:
            return cls.of_builds(
                Build(
                    name=entry["name"],
                    priority=entry["priority"],
                    manifest=cls.of_document({**entry, "schema": SCHEMA}),
                )
                for entry in document["variants"]
            )
        return cls(
            files=tuple(map(ManifestFile.of_entry, document["files"])),
            requires=dict(document.get("requires", {})),
        )

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(file.sha256 for file in self.files)

    def document(self) -> dict[str, object]:
        """The JSON form that is stored and signed; of one build it is what agents are given."""
        if self.builds:
            entries = [build.entry() for build in self.builds]
            return {"schema": SCHEMA_OF_VARIANTS, "variants": entries}
        files = [file.entry() for file in self.files]
        asked = {"requires": dict(self.requires)} if self.requires else {}
        return {"schema": SCHEMA, "files": files, **asked}

    @property
    def digest(self) -> str:
        """`sha256:` and hex, over the canonical JSON (docs/agent-protocol.md, section 3)."""
        canonical = json.dumps(
            self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()

    def all_builds(self) -> tuple[Build, ...]:
        """At least one: a manifest of one build is that build, called `default`."""
        return self.builds or (Build(name=DEFAULT_VARIANT, priority=0, manifest=self),)


def parse_manifest(document: object) -> Manifest:
    """Checks a manifest as pushed.

    Raises `InvalidInput` (code `manifest-invalid`) naming every fault at once, so that a CI job
    is not sent round once per mistake.
    """
    if not isinstance(document, Mapping):
        raise _invalid([FieldError(field="manifest", message="must be a JSON object")])
    faults: list[FieldError] = []
    if document.get("schema") == SCHEMA_OF_VARIANTS:
        # Here, since a manifest of several builds is made of manifests of one.
        from controlplane.domain.manifest_variants import parse_builds

        builds = parse_builds(document, faults)
        if faults:
            raise _invalid(faults)
        return Manifest.of_builds(builds)
    if document.get("schema") != SCHEMA:
        message = f'must be "{SCHEMA}", or "{SCHEMA_OF_VARIANTS}" for several builds'
        faults.append(FieldError(field="manifest.schema", message=message))
    manifest = parse_build(document, faults, "manifest")
    if manifest is None or faults:
        raise _invalid(faults)
    return manifest


def parse_build(
    document: Mapping[str, Any], faults: list[FieldError], where: str
) -> Manifest | None:
    """Files and `requires` of one build, or None with every fault added to `faults`."""
    before = len(faults)
    entries = document.get("files")
    if not isinstance(entries, list) or not entries:
        faults.append(FieldError(field=f"{where}.files", message="must be a list of files"))
        return None
    if len(entries) > MAX_FILES:
        message = f"has {len(entries)} files; at most {MAX_FILES} are allowed"
        faults.append(FieldError(field=f"{where}.files", message=message))
        return None
    files = [
        _parse_file(f"{where}.files[{index}]", entry, faults) for index, entry in enumerate(entries)
    ]
    known = [file for file in files if file is not None]
    claimed = {str(entry.get("path")) for entry in entries if isinstance(entry, Mapping)}
    for message in (*_faults_of_the_set(known), *_faults_of_what_is_missing(claimed)):
        faults.append(FieldError(field=f"{where}.files", message=message))
    requires = parse_requirements(document.get("requires"), faults, f"{where}.requires")
    if len(faults) > before:
        return None
    return Manifest(files=tuple(sorted(known, key=lambda file: file.path)), requires=requires)


def _parse_file(where: str, entry: object, faults: list[FieldError]) -> ManifestFile | None:
    if not isinstance(entry, Mapping):
        faults.append(FieldError(field=where, message="must be an object with path, size, sha256"))
        return None
    before = len(faults)
    path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
    unknown = sorted(set(map(str, entry)) - set(_FILE_KEYS))
    if unknown:
        message = f"has unknown keys {', '.join(unknown)}; allowed are {', '.join(_FILE_KEYS)}"
        faults.append(FieldError(field=where, message=message))
    fault = path_fault(path)
    if fault:
        faults.append(FieldError(field=f"{where}.path", message=fault))
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_BYTES:
        message = "must be the size in bytes, a whole number from 0"
        faults.append(FieldError(field=f"{where}.size", message=message))
    if not isinstance(sha256, str) or not _SHA256_PATTERN.fullmatch(sha256):
        message = "must be 64 lower-case hex digits"
        faults.append(FieldError(field=f"{where}.sha256", message=message))
    if len(faults) > before:
        return None
    assert isinstance(size, int)
    fault = _chunks_fault(entry.get("chunks"), size, sha256)
    if fault:
        faults.append(FieldError(field=f"{where}.chunks", message=fault))
        return None
    return ManifestFile.of_entry({**entry, "chunks": entry.get("chunks") or ()})


def _chunks_fault(chunks: object, size: int, sha256: object) -> str | None:
    if chunks is None:
        return None
    count = -(-size // CHUNK_BYTES)
    if (
        not isinstance(chunks, list)
        or len(chunks) != count
        or not all(isinstance(each, str) and _SHA256_PATTERN.fullmatch(each) for each in chunks)
    ):
        return f"must be the {count} SHA-256 of the pieces of {CHUNK_BYTES} bytes, in order"
    if count == 1 and chunks[0] != sha256:
        return "has one piece, which is the file; its digest must be sha256"
    return None


def path_fault(path: object) -> str | None:
    """Why `path` may not stand in a manifest, or None. One rule for traversal, absolute paths,
    hidden files, control characters and names that differ only in ways a file system ignores."""
    if not isinstance(path, str) or not path:
        return "must be a relative path such as model.onnx"
    shown = path if len(path) <= 80 else path[:77] + "..."
    if path.startswith("/"):
        return f"{shown!r} is absolute; give it relative to the pushed folder"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"{shown!r} has {len(parts)} parts; at most {MAX_DEPTH} are allowed"
    for part in parts:
        if not _PART_PATTERN.fullmatch(part):
            return (
                f"{shown!r} has the part {part[:80]!r}; each part is 1 to 128 of A-Z a-z 0-9 . _ - "
                "and starts with a letter, digit or underscore"
            )
    return None


def _faults_of_the_set(files: list[ManifestFile]) -> list[str]:
    faults = []
    seen: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for file in files:
        if sizes.setdefault(file.sha256, file.size) != file.size:
            faults.append(
                f"{file.path!r} gives the SHA-256 {file.sha256} two sizes; bytes have one"
            )
        folded = file.path.casefold()
        if folded in seen:
            faults.append(f"{file.path!r} is there twice; names must differ by more than case")
        seen[folded] = file.path
    folders = {"/".join(p.split("/")[:n]) for p in seen for n in range(1, p.count("/") + 1)}
    for clash in sorted(folders & set(seen)):
        faults.append(f"{clash!r} is both a file and a folder")
    return faults


def _faults_of_what_is_missing(paths: set[str]) -> list[str]:
    """Over every path given, also of a file with another fault: that one is not missing."""
    faults = []
    for required, why in (
        (CONFIG_FILE, "Triton's configuration of the model"),
        (GOLDEN_FILE, "the golden requests that prove the version at each site"),
    ):
        if required not in paths:
            faults.append(f"{required} is missing: {why}")
    if paths <= {CONFIG_FILE, GOLDEN_FILE}:
        faults.append("there is no model file beside the configuration and the golden requests")
    return faults


def _invalid(faults: list[FieldError]) -> InvalidInput:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return InvalidInput("manifest-invalid", f"The manifest has {count}.", errors=faults)
