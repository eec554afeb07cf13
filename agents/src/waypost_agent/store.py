"""The agent's folders and Triton's repository on disk: what is there, and each safe change to it.

Decides by Triton's directory rules: a version folder arrives by one rename, is never edited, and
nothing else is ever put beside it. Knows nothing of servers, wishes or the network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from waypost_agent.chunk_maps import MAPS_FOLDER, copy_maps, read_map
from waypost_agent.download import hash_file
from waypost_agent.durable import (
    disk_errors,
    free_bytes_at,
    make_folder,
    sync_folder,
    write_durably,
)
from waypost_agent.errors import DISK_FULL, ConfigError, Retryable
from waypost_agent.held import Held, Place
from waypost_agent.limits import Limits
from waypost_agent.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    RECORD_FILES,
    Manifest,
    ManifestFile,
)
from waypost_agent.protocol import CANDIDATE_SUFFIX, is_version
from waypost_agent.quarantine import Quarantine
from waypost_agent.staging import (
    MANIFEST_FILE,
    Staging,
    encode_manifest,
    read_manifest,
    staging_name,
)
from waypost_agent.trees import drop_caches, entries, has_size, remove, seal, sizes

_log = logging.getLogger(__name__)
_DAMAGE_FILE = "damage.json"


class Store:
    """`root` is the agent's own folder, `repository` Triton's; both on one file system."""

    def __init__(
        self,
        *,
        root: Path,
        repository: Path,
        free_bytes: Callable[[Path], int] = free_bytes_at,
        limits: Limits = Limits(),  # noqa: B008  # frozen values
    ) -> None:
        self.repository = repository
        self.staging = Staging(root / "staging")
        self.keep_versions = limits.keep_versions
        self._root = root
        self._versions = root / "versions"
        self._quarantine = Quarantine(root / "quarantine", limit_bytes=limits.quarantine_bytes)
        self._building = root / "building"
        self._reserve_of = limits.reserve_of
        self._free_bytes = free_bytes
        self._manifests: dict[Path, tuple[int, Manifest]] = {}

    def prepare(self) -> None:
        """Make the folders; raises `ConfigError` where a rename into the repository cannot work."""
        for folder in (self._versions, self._building):
            make_folder(folder)
        self.staging.prepare()
        self._quarantine.prepare()
        if not self.repository.is_dir():
            raise ConfigError(f"triton.repository: {self.repository} is not a folder")
        probe, arrived = self._building / "probe", self.repository / ".waypost-probe"
        try:
            probe.write_bytes(b"")
            probe.rename(arrived)
            arrived.unlink()
        except OSError as error:
            raise ConfigError(
                f"triton.repository: a file cannot be moved from state_dir to {self.repository} "
                f"({error.strerror}); both must lie on one file system, writable by the agent"
            ) from error

    def disk_errors(self, what: str) -> AbstractContextManager[None]:
        """Errors of this disk as failures that say what was being done and what is free."""
        return disk_errors(what, at=self._root)

    # What is there

    def known_models(self) -> frozenset[str]:
        return frozenset(entry.name for entry in entries(self._versions))

    def version_folder(self, model: str, version: str) -> Path:
        return self.repository / model / version

    def candidate_folder(self, model: str) -> Path:
        return self.repository / (model + CANDIDATE_SUFFIX)

    def recorded(self, model: str) -> frozenset[str]:
        """Versions this agent put there, complete or not."""
        names = (entry.name for entry in entries(self._versions / model))
        return frozenset(name for name in names if is_version(name))

    def installed(self, model: str) -> dict[str, str]:
        """Versions whose files are there by name and size, with their manifest's digest."""
        complete = {}
        for version in self.recorded(model):
            manifest = self.manifest(model, version)
            if manifest is not None and self._is_complete(model, version, manifest):
                complete[version] = manifest.digest
        return complete

    def manifest(self, model: str, version: str) -> Manifest | None:
        """The recorded manifest, None where there is none that can be read."""
        path = self._versions / model / version / MANIFEST_FILE
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return None
        if (known := self._manifests.get(path)) is not None and known[0] == changed:
            return known[1]
        manifest = read_manifest(path)
        if manifest is not None:
            self._manifests[path] = (changed, manifest)
        return manifest

    def read_record(self, model: str, version: str, name: str) -> bytes:
        """`config.pbtxt` or `golden.json` of a version. Raises `Retryable` when damaged."""
        manifest = self.manifest(model, version)
        wanted = {file.path: file for file in manifest.record} if manifest is not None else {}
        path = self._versions / model / version / name
        with self.disk_errors(f"reading {name} of {model} {version}"):
            if name not in wanted or hash_file(path) != wanted[name].sha256:
                # Without its manifest the version is not installed: the next look fetches it.
                (path.parent / MANIFEST_FILE).unlink(missing_ok=True)
                raise Retryable("digest-mismatch", f"{name} of {model} {version} is damaged")
            return path.read_bytes()

    def peek_record(self, model: str, version: str, name: str) -> bytes | None:
        """The same as a look that changes nothing; None unless it has the bytes of its manifest."""
        manifest = self.manifest(model, version)
        wanted = [file.sha256 for file in manifest.record if file.path == name] if manifest else []
        try:
            data = (self._versions / model / version / name).read_bytes()
        except OSError:
            return None
        return data if wanted == [hashlib.sha256(data).hexdigest()] else None

    def has_candidate(self, model: str) -> bool:
        return os.path.lexists(self.candidate_folder(model))

    def leftovers(self, model: str) -> frozenset[str]:
        """Names of downloads that nothing waits for; a sound copy of a damaged version waits."""
        return self.staging.names(model) - self._mending(model)

    def find_damage(self, model: str, version: str, manifest: Manifest) -> str | None:
        """Hash every file of a version; what is wrong, or None. Drops the stub's own cache."""
        folder = self.version_folder(model, version)
        with self.disk_errors(f"hashing {model} {version}"):
            drop_caches(folder)
            if not self._is_complete(model, version, manifest):
                return "files are missing, added or of another size"
            for file in manifest.payload:
                if hash_file(folder / file.path) != file.sha256:
                    return f"{file.path} does not have the bytes of its manifest"
        return None

    def _is_complete(self, model: str, version: str, manifest: Manifest) -> bool:
        expected = {file.path: file.size for file in manifest.payload}
        record = self._versions / model / version
        return sizes(self.version_folder(model, version)) == expected and all(
            (record / name).is_file() for name in RECORD_FILES
        )

    def damaged(self, model: str) -> dict[str, str]:
        """What a scrub found wrong with the versions that are installed, by version."""
        found = {}
        for version in self.recorded(model):
            try:
                note = json.loads((self._versions / model / version / _DAMAGE_FILE).read_bytes())
                found[version] = str(note["reason"])
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError):
                found[version] = "a scrub found it damaged"
        return found

    def unmended(self, model: str) -> frozenset[str]:
        """Damaged versions that have no sound copy beside them yet."""
        return frozenset(
            version
            for version in self.damaged(model)
            if (manifest := self.manifest(model, version)) is not None
            and not self.staging.is_whole(model, version, manifest)
        )

    def _mending(self, model: str) -> frozenset[str]:
        manifests = {v: self.manifest(model, v) for v in self.damaged(model)}
        return frozenset(staging_name(v, m) for v, m in manifests.items() if m is not None)

    def held(self, wanted: Manifest) -> Held:
        """Where on this disk files and pieces of `wanted` may be, of whatever version or model."""
        return Held(wanted, [*self._installed_places(), *self.staging.places()])

    def _installed_places(self) -> Iterator[Place]:
        for model in sorted(self.known_models()):
            for version in sorted(self.recorded(model)):
                manifest = self.manifest(model, version)
                if manifest is None:
                    continue
                record = self._versions / model / version
                for payload in (
                    self._quarantine.place(model, version),
                    self.version_folder(model, version),
                ):
                    yield Place(
                        manifest=manifest,
                        locate=_locate(payload, record),
                        map_of=partial(read_map, record / MAPS_FOLDER),
                    )

    def map_folders(self, model: str) -> Iterator[tuple[Manifest, Path]]:
        """Of each installed version of a model: its manifest, and where its chunk maps are kept."""
        for version in sorted(self.recorded(model)):
            if (manifest := self.manifest(model, version)) is not None:
                yield manifest, self._versions / model / version / MAPS_FOLDER

    def find_file(self, sha256: str) -> Path | None:
        """An installed or staged file that should have these bytes, as others may be given it."""
        for model in sorted(self.known_models()):
            for version in sorted(self.recorded(model) - self.damaged(model).keys()):
                manifest = self.manifest(model, version)
                record = self._versions / model / version
                locate = _locate(self.version_folder(model, version), record)
                for file in () if manifest is None else manifest.files:
                    if file.sha256 == sha256 and has_size(locate(file), file.size):
                        return locate(file)
        for place in self.staging.places():
            for file in place.manifest.files:
                if file.sha256 == sha256 and has_size(place.locate(file), file.size):
                    return place.locate(file)
        return None

    # Room

    def require_space(self, model: str, version: str, manifest: Manifest) -> None:
        """Raises `Retryable` (`disk-full`) unless what is missing fits and the reserve stays.

        Before it does, what is only kept to look at or to save a download is given up.
        """
        with self.disk_errors("asking for free space"):
            needed = self.staging.bytes_needed(model, version, manifest)
            disk = os.statvfs(self._root)
            reserve = self._reserve_of(disk.f_blocks * disk.f_frsize)
            if self._free_bytes(self._root) < needed + reserve:
                keep = self._mending(model) | {staging_name(version, manifest)}
                self.staging.remove_others(model, keep)
                self._quarantine.clear()
            free = self._free_bytes(self._root)
        if free < needed + reserve:
            raise Retryable(
                DISK_FULL,
                f"version {version} of {model} needs {needed} bytes and a reserve of {reserve}, "
                f"the disk has {free} free",
            )

    def has_room(self, size: int) -> bool:
        """Whether the disk takes so many bytes more and keeps its reserve. Raises `OSError`."""
        disk = os.statvfs(self._root)
        reserve = self._reserve_of(disk.f_blocks * disk.f_frsize)
        return self._free_bytes(self._root) >= size + reserve

    # Changes

    def record(self, model: str, version: str, manifest: Manifest) -> None:
        """Keep config, golden requests and (last, as the seal) the manifest of a staged version."""
        staged = self.staging.record(model, version, manifest)
        folder = self._versions / model / version
        with self.disk_errors(f"recording {model} {version}"):
            make_folder(folder)
            (folder / MANIFEST_FILE).unlink(missing_ok=True)
            copy_maps(self.staging.maps(model, version, manifest), folder / MAPS_FOLDER)
            for name in (CONFIG_FILE, GOLDEN_FILE):
                write_durably(folder / name, (staged / name).read_bytes())
            write_durably(folder / MANIFEST_FILE, encode_manifest(manifest))

    def install(self, model: str, version: str, manifest: Manifest) -> None:
        """Move the staged files into the repository by one rename. What was there is set aside."""
        payload = self.staging.payload(model, version, manifest)
        folder = self.version_folder(model, version)
        with self.disk_errors(f"installing {model} {version}"):
            seal(payload)
            make_folder(folder.parent)
            if os.path.lexists(folder):
                self._quarantine.take(
                    folder, model, version, "lay where the version was to be installed"
                )
            os.rename(payload, folder)
            # Only now: a folder without write permission cannot be moved to another parent.
            folder.chmod(0o555)
            sync_folder(folder.parent)
            sync_folder(payload.parent)
            self._forget_damage(model, version)
            self.staging.remove(model, version, manifest)
            self._quarantine.trim()

    def quarantine(self, model: str, version: str, reason: str) -> int:
        """Take a damaged version out of Triton's sight; returns how often in a row that was."""
        with self.disk_errors(f"setting {model} {version} aside"):
            return self._quarantine.take(
                self.version_folder(model, version), model, version, reason
            )

    def quarantine_download(self, model: str, path: Path, reason: str) -> None:
        """Set a file aside that came whole and is not the one that was asked for."""
        self._quarantine.take(path, model, f"download-{path.name[:16]}", reason)
        self._quarantine.trim()

    def note_damage(self, model: str, version: str, reason: str) -> None:
        """Remember what a scrub found, until the version is sound or installed anew."""
        note = json.dumps({"reason": reason}, ensure_ascii=False).encode()
        with self.disk_errors(f"noting the damage of {model} {version}"):
            write_durably(self._versions / model / version / _DAMAGE_FILE, note)

    def note_sound(self, model: str, version: str) -> None:
        """Every file was hashed and is right: what was noted before is history."""
        with self.disk_errors(f"noting that {model} {version} is sound"):
            self._quarantine.forgive(model, version)
            self._forget_damage(model, version)

    def _forget_damage(self, model: str, version: str) -> None:
        note = self._versions / model / version / _DAMAGE_FILE
        if note.exists():
            note.unlink()
            sync_folder(note.parent)

    def write_candidate(self, model: str, version: str, config_text: str) -> None:
        """Put the candidate's folder into the repository whole: a config, a link to the version."""
        building, folder = self._building / model, self.candidate_folder(model)
        with self.disk_errors(f"writing the candidate of {model}"):
            remove(building)
            make_folder(building)
            write_durably(building / CONFIG_FILE, config_text.encode())
            os.symlink(f"../{model}/{version}", building / version)
            sync_folder(building)
            os.rename(building, folder)
            sync_folder(self.repository)

    def remove_candidate(self, model: str) -> None:
        with self.disk_errors(f"removing the candidate of {model}"):
            remove(self.candidate_folder(model))
            sync_folder(self.repository)

    def write_config(self, model: str, config_text: str) -> None:
        """Let the repository name what was verified. The unfinished file never lies beside it."""
        with self.disk_errors(f"writing the configuration of {model}"):
            path = self.repository / model / CONFIG_FILE
            write_durably(path, config_text.encode(), temporary_in=self._building)

    def config_sha256(self, model: str) -> str | None:
        """Of the repository's configuration as it lies there, None without one."""
        try:
            data = (self.repository / model / CONFIG_FILE).read_bytes()
        except FileNotFoundError:
            return None
        return hashlib.sha256(data).hexdigest()

    def remove_config(self, model: str) -> None:
        with self.disk_errors(f"removing the configuration of {model}"):
            path = self.repository / model / CONFIG_FILE
            if path.exists():
                path.unlink()
                sync_folder(path.parent)

    def remove_version(self, model: str, version: str) -> None:
        """Forget a version: its record last, so that a cut leaves it known as to be removed."""
        with self.disk_errors(f"removing {model} {version}"):
            remove(self.version_folder(model, version))
            remove(self._versions / model / version)

    def remove_leftovers(self, model: str) -> None:
        with self.disk_errors(f"removing unfinished downloads of {model}"):
            self.staging.remove_others(model, self._mending(model))
            self._quarantine.trim()


def _locate(payload: Path, record: Path) -> Callable[[ManifestFile], Path]:
    return lambda file: (record if file.path in RECORD_FILES else payload) / file.path
