"""MLflow as a source of versions. Decides what of its answers may be used: numbers, names, where
files may lie and how a listing is walked.

It must not know the catalogue's rows, nor what the files mean."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from controlplane.catalog.registry import (
    MAX_FILES,
    Refused,
    RegistrySource,
    RemoteFile,
    RemoteStream,
    RemoteVersion,
    Unavailable,
    Watched,
)
from controlplane.catalog.registry.http import Answered, RegistryHttp, quoted
from controlplane.catalog.registry.lineage import lineage_of
from controlplane.catalog.registry.mlflow_client import MlflowClient
from controlplane.catalog.registry.s3 import S3Folder
from controlplane.domain.manifest import MAX_FILE_BYTES

_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_SOURCES = ("models", "runs", "mlflow-artifacts", "s3")
_MAX_FOLDERS = 500
_MAX_DEPTH = 8
_PART = re.compile(r"[^/\x00-\x1f\x7f]{1,255}")

# How to list and read below an `s3://` address: given in, since only an installation with such a
# storage needs a client for it.
OpenS3 = Callable[[str], S3Folder]


class MlflowSource(RegistrySource):
    """One MLflow server. Safe to use from one thread at a time."""

    def __init__(self, http: RegistryHttp, *, open_s3: OpenS3 | None = None) -> None:
        self._http = http
        self._open_s3 = open_s3
        self._client = MlflowClient(http)

    def resolve(
        self, remote_name: str, *, version: str = "", alias: str = "", stage: str = ""
    ) -> RemoteVersion:
        if version:
            found = self._client.version(remote_name, version)
        elif alias:
            found = self._client.version_by_alias(remote_name, alias)
        else:
            found = self._client.version_by_stage(remote_name, stage)
        number = found["version"]
        if not _NUMBER.fullmatch(number) or (version and number != version):
            raise Unavailable(f"The registry named {number[:20]!r} as a version of {remote_name}.")
        if found["status"] not in ("", "READY"):
            raise Unavailable(f"Version {number} of {remote_name} is {found['status']} there.")
        return RemoteVersion(
            remote_name=remote_name,
            remote_version=number,
            source_uri=found["source"],
            location=self._location(remote_name, number, found["source"]),
            run_id=found["run_id"][:64],
            tags=found["tags"],
            lineage=self._lineage(found),
        )

    def watched(
        self, remote_name: str, *, aliases: Sequence[str], stages: Sequence[str]
    ) -> Watched:
        found = self._client.watched(remote_name)
        return Watched(
            aliases=_of_interest(found.aliases, aliases),
            stages=_of_interest(found.stages, stages),
        )

    def files(self, remote: RemoteVersion) -> list[RemoteFile]:
        scheme, root = _split(remote.location)
        if scheme == "s3":
            return _checked(self._s3(remote.location).files())
        found: list[RemoteFile] = []
        folders = [""]
        for _ in range(_MAX_FOLDERS):
            if not folders:
                break
            folder = folders.pop()
            for path, is_folder, size in self._listing(root, folder):
                if is_folder:
                    folders.append(path)
                else:
                    found.append(RemoteFile(path=path, size=size))
            if len(found) > MAX_FILES:
                break
        if folders and len(found) <= MAX_FILES:
            raise Refused(f"The version has more than {_MAX_FOLDERS} folders.")
        return _checked(found)

    def open(
        self, remote: RemoteVersion, file: RemoteFile, *, offset: int = 0, etag: str = ""
    ) -> RemoteStream:
        scheme, root = _split(remote.location)
        if scheme == "s3":
            folder = self._s3(remote.location)
            return folder.open(file.path, size=file.size, offset=offset, etag=etag)
        path = f"{_ARTIFACTS}/{quoted(_join(root, file.path))}"
        return self._http.open(path, size=file.size, offset=offset, etag=etag)

    def tell(self, remote_name: str, remote_version: str, tags: Mapping[str, str]) -> None:
        self._client.set_tags(remote_name, remote_version, tags)

    def _location(self, name: str, number: str, source: str) -> str:
        """Where the server says that the files lie, if that is a place that may be read."""
        scheme, _ = _split(source, strict=False)
        if scheme not in _SOURCES:
            raise Refused(
                f"Version {number} of {name} lies at {source[:120]!r}; a disk of its author's or "
                "the server's is never read, nor another server. Start the MLflow server with "
                "--artifacts-destination, and log the model again."
            )
        location = self._client.location(name, number)
        _split(location)
        return location

    def _lineage(self, found: Mapping[str, Any]) -> dict[str, object]:
        """What its run says of where it comes from. A run that cannot be read is no fault."""
        run: Mapping[str, Any] = {}
        if found["run_id"]:
            try:
                query = {"run_id": found["run_id"]}
                run = self._http.json("GET", "/api/2.0/mlflow/runs/get", query=query)
            except (Answered, Unavailable):
                run = {}
        return lineage_of(found=found, run=run)

    def _listing(self, root: str, folder: str) -> list[tuple[str, bool, int]]:
        query = {"path": _join(root, folder)}
        try:
            document = self._http.json("GET", _ARTIFACTS, query=query)
        except Answered as answered:
            raise Unavailable(f"The registry was asked for its files, and {answered}.") from None
        entries = document.get("files", [])
        if not isinstance(entries, list) or len(entries) > MAX_FILES:
            raise Refused(f"The version has a folder with more than {MAX_FILES} entries.")
        return [_entry(entry, folder) for entry in entries]

    def _s3(self, location: str) -> S3Folder:
        if self._open_s3 is None:
            raise Refused(
                f"The version lies at {location[:120]!r}, and no S3 storage is set up here. Start "
                "the MLflow server with --artifacts-destination (not --default-artifact-root), so "
                "that it hands out the files itself."
            )
        return self._open_s3(location)


def _split(uri: str, *, strict: bool = True) -> tuple[str, str]:
    """Scheme and path of an address. Raises `Refused` for a place that is not read."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise Refused(f"{uri[:120]!r} is no address of files.") from None
    if not strict:
        return parts.scheme, parts.path
    if parts.scheme == "s3" and parts.netloc:
        return "s3", parts.path
    # A host in `mlflow-artifacts://HOST/…` would be another server than the one in the settings.
    if parts.scheme != "mlflow-artifacts" or parts.netloc:
        raise Refused(
            f"The files lie at {uri[:120]!r}; read are mlflow-artifacts:/… of the registry itself "
            "and s3://…. Start the MLflow server with --artifacts-destination."
        )
    path = parts.path.strip("/")
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        raise Refused(f"{uri[:120]!r} is no folder of the registry's files.")
    return parts.scheme, path


def _entry(entry: object, folder: str) -> tuple[str, bool, int]:
    """One line of a listing: path below the version's folder, whether a folder, size in bytes."""
    name = entry.get("path") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(name, str):
        raise Unavailable("The registry's list of files cannot be understood.")
    # It names entries relative to the folder that was asked for: one part.
    if not _PART.fullmatch(name) or name in (".", ".."):
        raise Refused(f"The registry lists {name[:80]!r}, which is no name of a file.")
    path = _join(folder, name)
    if path.count("/") >= _MAX_DEPTH:
        raise Refused(f"{path[:80]!r} lies more than {_MAX_DEPTH} folders deep.")
    if entry.get("is_dir") is True:
        return path, True, 0
    size = entry.get("file_size")
    if isinstance(size, str) and re.fullmatch(r"[0-9]{1,15}", size, re.ASCII):
        size = int(size)  # a 64-bit number, as protobuf writes it
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FILE_BYTES:
        raise Refused(f"The registry gives {path[:80]!r} no size in bytes.")
    return path, False, size


def _checked(files: list[RemoteFile]) -> list[RemoteFile]:
    if len(files) > MAX_FILES:
        raise Refused(f"The version has more than {MAX_FILES} files.")
    if not files:
        raise Refused("The version has no files in the registry.")
    if len({file.path for file in files}) != len(files):
        raise Refused("The registry lists a file twice.")
    return sorted(files, key=lambda file: file.path)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _of_interest(found: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: found[name] for name in names if name in found and _NUMBER.fullmatch(found[name])}
