"""What a version is: its manifest. Decides whether one is well formed and what its digest is.

It must not know where bytes are stored or who pushes them."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.domain.errors import FieldError, InvalidInput

SCHEMA = "waypost.manifest/1"
CONFIG_FILE = "config.pbtxt"
GOLDEN_FILE = "golden.json"
MAX_FILES = 2000
MAX_DEPTH = 4
MAX_FILE_BYTES = 1 << 40  # 1 TiB: beyond any model file; a guard against a mistyped size
# An agent proves a version of MODEL under the name MODEL--candidate; no model may stand there.
NAME_PATTERN = re.compile(r"(?!.*--candidate$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PART_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One file: `path` relative to the pushed folder, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a version, sorted by path. Equal manifests have equal digests."""

    files: tuple[ManifestFile, ...]

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> "Manifest":
        """From a document that `parse_manifest` accepted before."""
        return cls(files=tuple(ManifestFile(**entry) for entry in document["files"]))

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(file.sha256 for file in self.files)

    def document(self) -> dict[str, object]:
        """The JSON form that is stored, signed and sent to agents."""
        files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files]
        return {"schema": SCHEMA, "files": files}

    @property
    def digest(self) -> str:
        """`sha256:` and hex, over the canonical JSON (docs/agent-protocol.md, section 3)."""
        canonical = json.dumps(
            self.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def parse_manifest(document: object) -> Manifest:
    """Checks a manifest as pushed.

    Raises `InvalidInput` (code `manifest-invalid`) naming every fault at once, so that a CI job
    is not sent round once per mistake.
    """
    if not isinstance(document, Mapping):
        raise _invalid([FieldError(field="manifest", message="must be a JSON object")])
    faults: list[FieldError] = []
    if document.get("schema") != SCHEMA:
        faults.append(FieldError(field="manifest.schema", message=f'must be "{SCHEMA}"'))
    entries = document.get("files")
    if not isinstance(entries, list) or not entries:
        faults.append(FieldError(field="manifest.files", message="must be a list of files"))
        raise _invalid(faults)
    if len(entries) > MAX_FILES:
        message = f"has {len(entries)} files; at most {MAX_FILES} are allowed"
        raise _invalid([*faults, FieldError(field="manifest.files", message=message)])
    files = [_parse_file(index, entry, faults) for index, entry in enumerate(entries)]
    known = [file for file in files if file is not None]
    claimed = {str(entry.get("path")) for entry in entries if isinstance(entry, Mapping)}
    faults += _faults_of_the_set(known) + _faults_of_what_is_missing(claimed)
    if faults:
        raise _invalid(faults)
    return Manifest(files=tuple(sorted(known, key=lambda file: file.path)))


def _parse_file(index: int, entry: object, faults: list[FieldError]) -> ManifestFile | None:
    where = f"manifest.files[{index}]"
    if not isinstance(entry, Mapping):
        faults.append(FieldError(field=where, message="must be an object with path, size, sha256"))
        return None
    before = len(faults)
    path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
    unknown = sorted(set(map(str, entry)) - {"path", "size", "sha256"})
    if unknown:
        message = f"has unknown keys {', '.join(unknown)}; allowed are path, size, sha256"
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
    assert isinstance(path, str)
    assert isinstance(size, int)
    assert isinstance(sha256, str)
    return ManifestFile(path=path, size=size, sha256=sha256)


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


def _faults_of_the_set(files: list[ManifestFile]) -> list[FieldError]:
    faults = []
    seen: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for file in files:
        if sizes.setdefault(file.sha256, file.size) != file.size:
            message = f"{file.path!r} gives the SHA-256 {file.sha256} two sizes; bytes have one"
            faults.append(FieldError(field="manifest.files", message=message))
        folded = file.path.casefold()
        if folded in seen:
            message = f"{file.path!r} is there twice; names must differ by more than case"
            faults.append(FieldError(field="manifest.files", message=message))
        seen[folded] = file.path
    folders = {"/".join(p.split("/")[:n]) for p in seen for n in range(1, p.count("/") + 1)}
    for clash in sorted(folders & set(seen)):
        message = f"{clash!r} is both a file and a folder"
        faults.append(FieldError(field="manifest.files", message=message))
    return faults


def _faults_of_what_is_missing(paths: set[str]) -> list[FieldError]:
    """Over every path given, also of a file with another fault: that one is not missing."""
    faults = []
    for required, why in (
        (CONFIG_FILE, "Triton's configuration of the model"),
        (GOLDEN_FILE, "the golden requests that prove the version at each site"),
    ):
        if required not in paths:
            message = f"{required} is missing: {why}"
            faults.append(FieldError(field="manifest.files", message=message))
    if paths <= {CONFIG_FILE, GOLDEN_FILE}:
        message = "there is no model file beside the configuration and the golden requests"
        faults.append(FieldError(field="manifest.files", message=message))
    return faults


def _invalid(faults: list[FieldError]) -> InvalidInput:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return InvalidInput("manifest-invalid", f"The manifest has {count}.", errors=faults)
