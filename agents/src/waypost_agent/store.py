"""The agent's folders and Triton's repository on disk: what is there, and each safe change to it.

Decides by Triton's directory rules: a version folder arrives by one rename, is never edited, and
nothing else is ever put beside it. Knows nothing of servers, wishes or the network.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from waypost_agent.download import hash_file
from waypost_agent.durable import disk_errors, make_folder, sync_folder, write_durably
from waypost_agent.errors import DISK_FULL, AnswerError, ConfigError, Permanent, Retryable
from waypost_agent.manifest import (
    CONFIG_FILE,
    GOLDEN_FILE,
    RECORD_FILES,
    Manifest,
    ManifestFile,
    digest_of,
    parse_manifest,
)
from waypost_agent.protocol import CANDIDATE_SUFFIX, is_version, parse_json
from waypost_agent.trees import drop_caches, entries, has_size, remove, seal, sizes

_log = logging.getLogger(__name__)
_MANIFEST_FILE = "manifest.json"
_PAYLOAD = "payload"
_RECORD = "record"


def free_bytes_at(folder: Path) -> int:
    """Bytes an ordinary user may still write on the file system of `folder`."""
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize


class Store:
    """`root` is the agent's own folder, `repository` Triton's; both on one file system."""

    def __init__(
        self,
        *,
        root: Path,
        repository: Path,
        reserve_bytes: int,
        free_bytes: Callable[[Path], int] = free_bytes_at,
    ) -> None:
        self.repository = repository
        self._staging = root / "staging"
        self._versions = root / "versions"
        self._quarantine = root / "quarantine"
        self._building = root / "building"
        self._reserve_bytes = reserve_bytes
        self._free_bytes = free_bytes
        self._manifests: dict[Path, tuple[int, Manifest]] = {}

    def prepare(self) -> None:
        """Make the folders; raises `ConfigError` where a rename into the repository cannot work."""
        for folder in (self._staging, self._versions, self._quarantine, self._building):
            make_folder(folder)
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
        path = self._versions / model / version / _MANIFEST_FILE
        try:
            changed = path.stat().st_mtime_ns
            if (known := self._manifests.get(path)) is not None and known[0] == changed:
                return known[1]
            document = parse_json(path.read_bytes())
            manifest = parse_manifest(document, digest_of(document))
        except (OSError, AnswerError, Permanent, AttributeError):
            return None  # not there or not readable: the version counts as not installed
        self._manifests[path] = (changed, manifest)
        return manifest

    def read_record(self, model: str, version: str, name: str) -> bytes:
        """`config.pbtxt` or `golden.json` of a version. Raises `Retryable` when damaged."""
        manifest = self.manifest(model, version)
        wanted = {file.path: file for file in manifest.record} if manifest is not None else {}
        path = self._versions / model / version / name
        with disk_errors(f"reading {name} of {model} {version}"):
            if name not in wanted or hash_file(path) != wanted[name].sha256:
                # Without its manifest the version is not installed: the next look fetches it.
                (path.parent / _MANIFEST_FILE).unlink(missing_ok=True)
                raise Retryable("digest-mismatch", f"{name} of {model} {version} is damaged")
            return path.read_bytes()

    def has_candidate(self, model: str) -> bool:
        return os.path.lexists(self.candidate_folder(model))

    def leftovers(self, model: str) -> frozenset[str]:
        """Names of unfinished downloads."""
        return frozenset(entry.name for entry in entries(self._staging / model))

    def find_damage(self, model: str, version: str, manifest: Manifest) -> str | None:
        """Hash every file of a version; what is wrong, or None. Drops the stub's own cache."""
        folder = self.version_folder(model, version)
        with disk_errors(f"hashing {model} {version}"):
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

    # Downloads

    def require_space(self, model: str, version: str, manifest: Manifest) -> None:
        """Raises `Retryable` (`disk-full`) unless what is missing fits and the reserve stays."""
        missing = sum(file.size for file in self.missing(model, version, manifest))
        folder = self._staging_of(model, version, manifest)
        partial = folder / "partial"
        missing -= sum(path.stat().st_size for path in entries(partial))
        with disk_errors("asking for free space"):
            free = self._free_bytes(self._staging)
        if free < missing + self._reserve_bytes:
            raise Retryable(
                DISK_FULL,
                f"version {version} of {model} needs {max(missing, 0)} bytes and a reserve of "
                f"{self._reserve_bytes}, the disk has {free} free",
            )

    def prepare_staging(self, model: str, version: str, manifest: Manifest) -> None:
        folder = self._staging_of(model, version, manifest)
        with disk_errors(f"making room for {model} {version}"):
            for name in ("partial", _PAYLOAD, _RECORD):
                make_folder(folder / name)
            for file in manifest.files:
                make_folder(self.staged_path(model, version, manifest, file).parent)

    def missing(self, model: str, version: str, manifest: Manifest) -> tuple[ManifestFile, ...]:
        """Files not yet staged. A staged file was verified before it got its name."""
        return tuple(
            file
            for file in manifest.files
            if not has_size(self.staged_path(model, version, manifest, file), file.size)
        )

    def partial_path(self, model: str, version: str, manifest: Manifest, sha256: str) -> Path:
        return self._staging_of(model, version, manifest) / "partial" / sha256

    def staged_path(self, model: str, version: str, manifest: Manifest, file: ManifestFile) -> Path:
        part = _RECORD if file.path in RECORD_FILES else _PAYLOAD
        return self._staging_of(model, version, manifest) / part / file.path

    def _staging_of(self, model: str, version: str, manifest: Manifest) -> Path:
        return self._staging / model / f"{version}-{manifest.digest.removeprefix('sha256:')[:16]}"

    # Changes

    def record(self, model: str, version: str, manifest: Manifest) -> None:
        """Keep config, golden requests and (last, as the seal) the manifest of a staged version."""
        staged = self._staging_of(model, version, manifest) / _RECORD
        folder = self._versions / model / version
        with disk_errors(f"recording {model} {version}"):
            make_folder(folder)
            (folder / _MANIFEST_FILE).unlink(missing_ok=True)
            for name in (CONFIG_FILE, GOLDEN_FILE):
                write_durably(folder / name, (staged / name).read_bytes())
            text = json.dumps(manifest.document, ensure_ascii=False, indent=1)
            write_durably(folder / _MANIFEST_FILE, text.encode())

    def install(self, model: str, version: str, manifest: Manifest) -> None:
        """Move the staged files into the repository by one rename. What was there is set aside."""
        payload = self._staging_of(model, version, manifest) / _PAYLOAD
        folder = self.version_folder(model, version)
        with disk_errors(f"installing {model} {version}"):
            seal(payload)
            make_folder(folder.parent)
            if os.path.lexists(folder):
                self._set_aside(model, version)
            os.rename(payload, folder)
            # Only now: a folder without write permission cannot be moved to another parent.
            folder.chmod(0o555)
            sync_folder(folder.parent)
            sync_folder(payload.parent)
            remove(payload.parent)

    def quarantine(self, model: str, version: str) -> None:
        """Take a damaged version out of Triton's sight; a model's last one is kept to look at."""
        with disk_errors(f"setting {model} {version} aside"):
            self._set_aside(model, version)

    def _set_aside(self, model: str, version: str) -> None:
        folder = self.version_folder(model, version)
        aside = self._quarantine / model
        remove(aside)
        make_folder(aside)
        if not folder.is_symlink():
            folder.chmod(0o755)
        os.rename(folder, aside / version)
        sync_folder(folder.parent)

    def write_candidate(self, model: str, version: str, config_text: str) -> None:
        """Put the candidate's folder into the repository whole: a config, a link to the version."""
        building, folder = self._building / model, self.candidate_folder(model)
        with disk_errors(f"writing the candidate of {model}"):
            remove(building)
            make_folder(building)
            write_durably(building / CONFIG_FILE, config_text.encode())
            os.symlink(f"../{model}/{version}", building / version)
            sync_folder(building)
            os.rename(building, folder)
            sync_folder(self.repository)

    def remove_candidate(self, model: str) -> None:
        with disk_errors(f"removing the candidate of {model}"):
            remove(self.candidate_folder(model))
            sync_folder(self.repository)

    def write_config(self, model: str, config_text: str) -> None:
        """Let the repository name what was verified. The unfinished file never lies beside it."""
        with disk_errors(f"writing the configuration of {model}"):
            path = self.repository / model / CONFIG_FILE
            write_durably(path, config_text.encode(), temporary_in=self._building)

    def remove_config(self, model: str) -> None:
        with disk_errors(f"removing the configuration of {model}"):
            path = self.repository / model / CONFIG_FILE
            if path.exists():
                path.unlink()
                sync_folder(path.parent)

    def remove_version(self, model: str, version: str) -> None:
        """Forget a version: its record last, so that a cut leaves it known as to be removed."""
        with disk_errors(f"removing {model} {version}"):
            remove(self.version_folder(model, version))
            remove(self._versions / model / version)

    def remove_leftovers(self, model: str) -> None:
        with disk_errors(f"removing unfinished downloads of {model}"):
            remove(self._staging / model)
