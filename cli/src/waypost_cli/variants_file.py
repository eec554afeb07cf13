"""`variants.toml`: a folder of several builds read as one version. Decides which folders are the
builds and what each asks for; what a build's folder may hold, `bundle.py` says.

    [[variant]]
    name = "trt-8.9"
    dir = "trt"            # left out: the name
    priority = 10          # left out: 0; the highest that a site can run is taken
    requires = {compute_capability_exact = "8.9", tensorrt = "10.3"}
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from waypost_cli.bundle import Bundle, LocalBuild, read_build
from waypost_cli.errors import CliError

VARIANTS_FILE = "variants.toml"
_KEYS = ("name", "dir", "priority", "requires")
_SHOWN_FAULTS = 20


def has_variants(folder: Path) -> bool:
    return (folder / VARIANTS_FILE).is_file()


def read_variants(folder: Path) -> Bundle:
    """All builds, each checked and hashed. Raises `CliError` with every fault of all at once."""
    entries = _entries(folder / VARIANTS_FILE)
    faults: list[str] = []
    builds = [
        build
        for index, entry in enumerate(entries)
        if (build := _build(folder, index, entry, faults)) is not None
    ]
    names = [build.name for build in builds]
    faults += [f"{VARIANTS_FILE}: {name} is there twice" for name in _twice(names)]
    if len(entries) < 2:
        faults.append(
            f"{VARIANTS_FILE}: names fewer than two variants; push the folder of the one build"
        )
    if faults:
        shown = faults[:_SHOWN_FAULTS]
        if len(faults) > len(shown):
            shown.append(f"and {len(faults) - len(shown)} more")
        raise CliError(f"{folder} cannot be pushed; nothing was sent", details=shown)
    ordered = tuple(sorted(builds, key=lambda build: build.name))
    files = [
        replace(file, path=f"{build.name}/{file.path}") for build in ordered for file in build.files
    ]
    return Bundle(files=tuple(sorted(files, key=lambda file: file.path)), builds=ordered)


def _entries(path: Path) -> list[object]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CliError(f"{path} cannot be read: {error}; nothing was sent") from error
    entries = document.get("variant")
    if not isinstance(entries, list) or set(document) != {"variant"}:
        raise CliError(
            f"{path} must hold [[variant]] entries and nothing else; nothing was sent",
            cure='write one for each build: [[variant]], name = "onnx", dir = "onnx"',
        )
    return entries


def _build(folder: Path, index: int, entry: object, faults: list[str]) -> LocalBuild | None:
    where = f"{VARIANTS_FILE}: variant {index + 1}"
    if not isinstance(entry, Mapping):
        faults.append(f"{where}: must be a table with {', '.join(_KEYS)}")
        return None
    before = len(faults)
    for key in sorted(set(entry) - set(_KEYS)):
        faults.append(f"{where}: {key} is not known; a variant has {', '.join(_KEYS)}")
    name, priority = entry.get("name"), entry.get("priority", 0)
    requires, inside = entry.get("requires", {}), entry.get("dir", name)
    if not isinstance(name, str) or not name:
        faults.append(f"{where}: name is missing")
    if not isinstance(priority, int) or isinstance(priority, bool):
        faults.append(f"{where}: priority must be a whole number")
    if not isinstance(requires, Mapping):
        faults.append(f"{where}: requires must be a table")
    parts = PurePosixPath(inside).parts if isinstance(inside, str) else ()
    if not parts or parts[0] == "/" or ".." in parts:
        faults.append(f"{where}: dir must be a folder inside {folder}")
    if len(faults) > before:
        return None
    source = folder.joinpath(*parts)
    if source.is_symlink() or not source.is_dir():
        faults.append(f"{where}: there is no folder {'/'.join(parts)}")
        return None
    try:
        files = read_build(source)
    except CliError as error:
        faults += [f"{'/'.join(parts)}/{line}" for line in error.details or [str(error)]]
        return None
    return LocalBuild(name=str(name), priority=int(priority), requires=dict(requires), files=files)


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
