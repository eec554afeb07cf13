"""A folder on disk read as a version: which files, how large, which digests. Decides whether the
folder may be pushed (docs/agent-protocol.md, section 3); it must not know where it is sent."""

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from waypost_cli.errors import CliError, FileChangedError

SCHEMA = "waypost.manifest/1"
SCHEMA_OF_VARIANTS = "waypost.manifest/2"
CONFIG_FILE = "config.pbtxt"
GOLDEN_FILE = "golden.json"
MAX_FILES = 2000
MAX_DEPTH = 4
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# What sites check and resume by: docs/agent-protocol.md, section 4.
PIECE_BYTES = 16 << 20
_CHUNK_BYTES = 256 * 1024
_HASH_BYTES = 1 << 20
_SHOWN_FAULTS = 20


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """`path` as in the manifest, `source` on this machine, `size` in bytes, `sha256` in hex;
    `pieces` are the digests of each `PIECE_BYTES` of a file that is longer."""

    path: str
    source: Path
    size: int
    sha256: str
    pieces: tuple[str, ...] = ()

    def entry(self) -> dict[str, object]:
        """As the manifest lists it."""
        plain: dict[str, object] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        return {**plain, "chunks": list(self.pieces)} if self.pieces else plain

    def chunks(
        self, sent: Callable[[int], None], start: int = 0, length: int | None = None
    ) -> Iterator[bytes]:
        """The bytes, or `length` of them from `start` on, a quarter MiB at a time;
        `FileChangedError` when there are not `size`."""
        left = self.size - start if length is None else length
        try:
            with _open_regular(self.source) as file:
                if os.fstat(file.fileno()).st_size != self.size:
                    raise file_changed(self)
                file.seek(start)
                while left:
                    chunk = file.read(min(_CHUNK_BYTES, left))
                    if not chunk:
                        raise file_changed(self)
                    left -= len(chunk)
                    yield chunk
                    sent(len(chunk))
        except OSError as error:
            raise FileChangedError(
                f"{self.path} can no longer be read: {error.strerror}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class LocalBuild:
    """One build of a version for some hardware; its paths are without its name."""

    name: str
    priority: int
    requires: Mapping[str, object]
    files: tuple[LocalFile, ...]

    def entry(self) -> dict[str, object]:
        """As the manifest lists it."""
        asked = {"requires": dict(self.requires)} if self.requires else {}
        files = [file.entry() for file in self.files]
        return {"name": self.name, "priority": self.priority, "files": files, **asked}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The files of a version, sorted by path, and what it asks of machines. Of several builds the
    paths begin with the name of theirs, and each build asks for itself."""

    files: tuple[LocalFile, ...]
    requires: Mapping[str, object] = field(default_factory=dict)
    builds: tuple[LocalBuild, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    def manifest(self) -> dict[str, object]:
        if self.builds:
            if self.requires:
                raise CliError(
                    "each of several builds asks for itself; nothing was sent",
                    cure="write requires into variants.toml",
                )
            entries = [build.entry() for build in self.builds]
            return {"schema": SCHEMA_OF_VARIANTS, "variants": entries}
        asked = {"requires": dict(self.requires)} if self.requires else {}
        return {"schema": SCHEMA, "files": [file.entry() for file in self.files], **asked}


def file_changed(file: LocalFile) -> FileChangedError:
    """The error for bytes that are no longer those of the manifest."""
    return FileChangedError(
        f"{file.path} changed while it was being pushed: it was hashed as {file.size} bytes with"
        f" sha256 {file.sha256[:12]}…, and is not that any more",
        cure="push again when nothing writes to the folder; nothing was registered",
    )


def read_bundle(folder: Path) -> Bundle:
    """Walks, checks, then hashes; of several builds where there is a variants.toml. Raises
    `CliError` with a line for every fault at once."""
    # Here, since several builds are made of what is read below.
    from waypost_cli.variants_file import has_variants, read_variants

    if not folder.is_dir():
        raise CliError(f"{folder} is not a folder", cure="give the folder that holds config.pbtxt")
    return read_variants(folder) if has_variants(folder) else Bundle(files=read_build(folder))


def read_build(folder: Path) -> tuple[LocalFile, ...]:
    """The files of one build. Raises `CliError` with a line for every fault at once."""
    faults: list[str] = []
    paths = sorted(_walk(folder, "", faults))
    faults += _faults_of_the_set(paths)
    if faults:
        shown = faults[:_SHOWN_FAULTS]
        if len(faults) > len(shown):
            shown.append(f"and {len(faults) - len(shown)} more")
        raise CliError(f"{folder} cannot be pushed; nothing was sent", details=shown)
    return tuple(_hashed(folder, path) for path in paths)


def survey(folder: Path) -> tuple[tuple[LocalFile, ...], list[str]]:
    """The files that could be pushed, and every fault of the folder as `PATH: WHAT`."""
    faults: list[str] = []
    paths = sorted(_walk(folder, "", faults))
    faults += _faults_of_the_set(paths)
    files = []
    for path in paths[:MAX_FILES]:
        try:
            files.append(_hashed(folder, path))
        except CliError as error:
            faults.append(f"{path}: {error.message.removeprefix(path).strip()}; {error.cure}")
    return tuple(files), faults


def looks_like_repository(bundle: Bundle) -> str | None:
    """The numbered folder that Triton's own layout has, if all model files lie in it."""
    others = [f.path for f in bundle.files if f.path not in (CONFIG_FILE, GOLDEN_FILE)]
    tops = {path.split("/")[0] for path in others}
    top = tops.pop() if len(tops) == 1 else ""
    return top if re.fullmatch(r"[1-9]\d*", top) and "/" in others[0] else None


def _walk(folder: Path, prefix: str, faults: list[str]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        faults.append(f"{prefix or folder}: cannot be read ({error.strerror})")
        return
    for entry in entries:
        path = prefix + entry.name
        fault = _fault_of(entry, path)
        if fault:
            # A name of another encoding must not break the terminal that shows it.
            shown = path.encode("utf-8", "backslashreplace").decode()
            faults.append(f"{shown}: {fault}")
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), path + "/", faults)
        else:
            yield path


def _fault_of(entry: os.DirEntry[str], path: str) -> str | None:
    if entry.name.startswith("."):
        return "is hidden; remove it, or push a folder that holds the model's files only"
    if entry.is_symlink():
        return "is a symbolic link; put the file itself there"
    if not _PART.fullmatch(entry.name):
        return (
            "has a name that cannot be used; rename it to 1 to 128 of A-Z a-z 0-9 . _ - that"
            " begin with a letter, digit or underscore"
        )
    is_folder = entry.is_dir(follow_symlinks=False)
    if not is_folder and not entry.is_file(follow_symlinks=False):
        return "is neither a file nor a folder (a pipe, socket or device); remove it"
    # A folder at the last depth could only hold files that are too deep.
    if path.count("/") + 1 + is_folder > MAX_DEPTH:
        return f"lies too deep; a path has at most {MAX_DEPTH} parts"
    return None


def _faults_of_the_set(paths: list[str]) -> Iterator[str]:
    if len(paths) > MAX_FILES:
        yield f"the folder has {len(paths)} files; at most {MAX_FILES} are allowed"
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(path.casefold(), path)
        if other != path:
            yield f"{path}: differs from {other} by case only; rename one of them"
    for name, why in (
        (CONFIG_FILE, "Triton's configuration of the model"),
        (GOLDEN_FILE, "the golden requests that prove the version at each site"),
    ):
        if name in paths:
            continue
        nested = next((path for path in paths if path.endswith("/" + name)), None)
        hint = f" (found {nested}; push the folder that directly holds it)" if nested else ""
        if name == CONFIG_FILE and not nested and sum(p.endswith(".onnx") for p in paths) == 1:
            hint = "; --generate-config writes one from the ONNX file"
        yield f"{name}: is missing at the top of the folder: {why}{hint}"
    if paths and set(paths) <= {CONFIG_FILE, GOLDEN_FILE}:
        yield "there is no model file beside the configuration and the golden requests"


def _hashed(folder: Path, path: str) -> LocalFile:
    source = folder / path
    try:
        with _open_regular(source) as file:
            digest, size, pieces = _digests(file)
    except OSError as error:
        raise CliError(
            f"{path} cannot be read: {error.strerror}; nothing was sent",
            cure="let the user of this job read every file of the folder",
        ) from error
    return LocalFile(path=path, source=source, size=size, sha256=digest, pieces=pieces)


def _digests(file: io.FileIO) -> tuple[str, int, tuple[str, ...]]:
    """SHA-256, size and the digests of the pieces, in one pass; no pieces for a file that is one.

    The whole is hashed in a second thread beside the pieces: hashing lets other threads run."""
    whole, piece, size, pieces = hashlib.sha256(), hashlib.sha256(), 0, list[str]()
    buffer = memoryview(bytearray(min(_HASH_BYTES, PIECE_BYTES)))
    with ThreadPoolExecutor(max_workers=1) as beside:
        while count := _read_full(file, buffer[: PIECE_BYTES - size % PIECE_BYTES]):
            done = beside.submit(whole.update, buffer[:count])
            piece.update(buffer[:count])
            done.result()
            size += count
            if size % PIECE_BYTES == 0:
                pieces.append(piece.hexdigest())
                piece = hashlib.sha256()
    if size % PIECE_BYTES:
        pieces.append(piece.hexdigest())
    return whole.hexdigest(), size, tuple(pieces) if len(pieces) > 1 else ()


def _read_full(file: io.FileIO, buffer: memoryview) -> int:
    """Bytes read: fewer than the buffer has only at the end of the file."""
    filled = 0
    while filled < len(buffer) and (count := file.readinto(buffer[filled:])):
        filled += count
    return filled


def _open_regular(path: Path) -> io.FileIO:
    """Opens without following a link and without waiting at a pipe that took the file's place."""
    return open(path, "rb", buffering=0, opener=_open_without_following)


def _open_without_following(path: str, flags: int) -> int:
    # Windows has neither flag; its links need a privilege that a CI job does not have.
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | careful)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file any more")
    return descriptor
