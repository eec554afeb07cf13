"""What a version is: its manifest. Decides whether one may be used, and computes its digest.

Checks everything again that the centre should have checked: a site believes no one about paths.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waypost_agent.errors import MANIFEST_INVALID, Permanent
from waypost_agent.requires import Requires, parse_requires

SCHEMA = "waypost.manifest/1"
CONFIG_FILE = "config.pbtxt"
GOLDEN_FILE = "golden.json"
RECORD_FILES = frozenset({CONFIG_FILE, GOLDEN_FILE})
# Triton's python stub writes this folder into a version; a manifest must not claim it.
CACHE_FOLDER = "__pycache__"

MAX_FILES = 2000
MAX_PARTS = 4
MAX_FILE_BYTES = 1 << 40
MAX_RECORD_BYTES = 16 << 20  # config and golden requests are read into memory
CHUNK_BYTES = 16 << 20

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One file: `path` with `/` between its parts, `size` in bytes, `sha256` in lower-case hex.

    `chunks` has the SHA-256 of each piece of `CHUNK_BYTES` (the last may be shorter), or nothing.
    """

    path: str
    size: int
    sha256: str
    chunks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a version; `document` is the JSON as received, which `digest` covers whole."""

    files: tuple[ManifestFile, ...]
    document: Mapping[str, Any]
    digest: str
    requires: Requires = Requires()  # noqa: RUF009  # frozen values

    @property
    def payload(self) -> tuple[ManifestFile, ...]:
        """The files that belong to Triton's numbered version folder."""
        return tuple(file for file in self.files if file.path not in RECORD_FILES)

    @property
    def record(self) -> tuple[ManifestFile, ...]:
        """`config.pbtxt` and `golden.json`, which stay with the agent."""
        return tuple(file for file in self.files if file.path in RECORD_FILES)


def is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_digest(value: object) -> bool:
    """Whether `value` is written as a manifest digest: `sha256:` and 64 lower-case hex digits."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON (docs/agent-protocol.md, section 3)."""
    canonical = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def parse_manifest(document: object, expected_digest: str) -> Manifest:
    """Check a manifest and its digest. Raises `Permanent` (`manifest-invalid`) naming the fault."""
    if not isinstance(document, Mapping):
        raise _invalid("the manifest is not a JSON object")
    if document.get("schema") != SCHEMA:
        raise _invalid(f"its schema is {document.get('schema')!r:.80}, this agent knows {SCHEMA!r}")
    digest = _digest(document)
    if digest != expected_digest:
        raise _invalid(f"its digest is {digest}, the centre says {expected_digest}")
    entries = document.get("files")
    if not isinstance(entries, list) or not entries:
        raise _invalid("it lists no files")
    if len(entries) > MAX_FILES:
        raise _invalid(f"it lists {len(entries)} files, at most {MAX_FILES} are allowed")
    files = tuple(_parse_file(entry) for entry in entries)
    _check_set(files)
    try:
        requires = parse_requires(document.get("requires"))
    except ValueError as error:
        raise _invalid(str(error)) from error
    return Manifest(files=files, document=document, digest=digest, requires=requires)


def _digest(document: Mapping[str, Any]) -> str:
    try:
        return digest_of(document)
    except (ValueError, UnicodeEncodeError, RecursionError) as error:
        raise _invalid(f"it has no canonical form: {error}") from error


def _parse_file(entry: object) -> ManifestFile:
    if not isinstance(entry, Mapping):
        raise _invalid("an entry of its files is not an object")
    path, size, sha256 = entry.get("path"), entry.get("size"), entry.get("sha256")
    if not isinstance(path, str):
        raise _invalid("a file has no path")
    if (fault := _path_fault(path)) is not None:
        raise _invalid(fault)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_BYTES:
        raise _invalid(f"the size of {path} is {size!r:.40}, not a number of bytes")
    if path in RECORD_FILES and size > MAX_RECORD_BYTES:
        raise _invalid(f"{path} has {size} bytes, at most {MAX_RECORD_BYTES} are allowed")
    if not isinstance(sha256, str) or not is_sha256(sha256):
        raise _invalid(f"the sha256 of {path} is not 64 lower-case hex digits")
    chunks = _parse_chunks(entry.get("chunks"), path, size, sha256)
    return ManifestFile(path=path, size=size, sha256=sha256, chunks=chunks)


def _parse_chunks(chunks: object, path: str, size: int, sha256: str) -> tuple[str, ...]:
    if chunks is None:
        return ()
    count = -(-size // CHUNK_BYTES)
    if not isinstance(chunks, list) or len(chunks) != count or not all(map(is_sha256, chunks)):
        raise _invalid(
            f"the chunks of {path} are not the {count} sha256 of its pieces of {CHUNK_BYTES} bytes"
        )
    if count == 1 and chunks[0] != sha256:
        raise _invalid(f"the one chunk of {path} has another sha256 than the file")
    return tuple(chunks)


def _path_fault(path: str) -> str | None:
    parts = path.split("/")
    if len(parts) > MAX_PARTS:
        return f"the path {path!r:.100} has {len(parts)} parts, at most {MAX_PARTS} are allowed"
    for part in parts:
        if _PART.fullmatch(part) is None:
            return (
                f"the path {path!r:.100} has the part {part!r:.60}; a part is 1 to 128 of "
                "A-Z a-z 0-9 . _ - and starts with a letter, a digit or an underscore"
            )
    if CACHE_FOLDER in parts:
        return f"the path {path!r:.100} lies in {CACHE_FOLDER}, which belongs to Triton"
    return None


def _check_set(files: tuple[ManifestFile, ...]) -> None:
    # A file system that ignores case would let the later of two such names win.
    seen: dict[str, str] = {}
    for file in files:
        folded = file.path.casefold()
        if folded in seen:
            raise _invalid(f"{file.path!r} and {seen[folded]!r} are the same name to some systems")
        seen[folded] = file.path
    for folded in seen:
        parts = folded.split("/")
        for count in range(1, len(parts)):
            if (folder := "/".join(parts[:count])) in seen:
                raise _invalid(f"{seen[folder]!r} is a file and a folder")
    for required in sorted(RECORD_FILES - {file.path for file in files}):
        raise _invalid(f"{required} is missing")
    if len(files) == len(RECORD_FILES):
        raise _invalid("there is no model file beside the configuration and the golden requests")


def _invalid(fault: str) -> Permanent:
    return Permanent(MANIFEST_INVALID, f"the manifest is refused: {fault}")
