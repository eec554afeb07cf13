"""A registry in memory, by the protocol of `RegistrySource`. It does what a test says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.catalog.registry import (
    Refused,
    RegistryError,
    RemoteFile,
    RemoteVersion,
    Watched,
)


@dataclass(kw_only=True)
class MemoryStream:
    """Bytes from an offset; with `breaks_with` they end by that."""

    left: bytes
    etag: str = '"1"'
    breaks_with: RegistryError | None = None

    def read(self, size: int, /) -> bytes:
        chunk, self.left = self.left[:size], self.left[size:]
        if not chunk and self.breaks_with:
            raise self.breaks_with
        return chunk

    def close(self) -> None:
        """Nothing is held."""


@dataclass(kw_only=True)
class FakeRegistry:
    """`versions` maps (name, number) to files; `aliases` and `stages` map (name, word) to a number.
    `trouble` is raised by the next calls of that name."""

    versions: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    stages: dict[tuple[str, str], str] = field(default_factory=dict)
    sources: dict[tuple[str, str], str] = field(default_factory=dict)
    tags: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    told: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    trouble: dict[str, list[RegistryError]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    block: int = 1 << 20

    def resolve(
        self, remote_name: str, *, version: str = "", alias: str = "", stage: str = ""
    ) -> RemoteVersion:
        self._call("resolve")
        number = version or self.aliases.get((remote_name, alias), "")
        number = number or self.stages.get((remote_name, stage), "")
        if (remote_name, number) not in self.versions:
            raise Refused(f"The registry does not know {version or alias or stage}.")
        source = self.sources.get((remote_name, number), f"models:/m-{number}")
        return RemoteVersion(
            remote_name=remote_name,
            remote_version=number,
            source_uri=source,
            location=f"mlflow-artifacts:/{number}",
            run_id="run-1",
            tags=self.tags.get((remote_name, number), {}),
            lineage={"mlflow_run": "run-1"},
        )

    def watched(
        self, remote_name: str, *, aliases: Sequence[str], stages: Sequence[str]
    ) -> Watched:
        self._call("watched")
        known = {alias: self.aliases.get((remote_name, alias)) for alias in aliases}
        staged = {stage: self.stages.get((remote_name, stage)) for stage in stages}
        return Watched(
            aliases={k: v for k, v in known.items() if v},
            stages={k: v for k, v in staged.items() if v},
        )

    def files(self, remote: RemoteVersion) -> list[RemoteFile]:
        self._call("files")
        files = self.versions[remote.remote_name, remote.remote_version]
        return [RemoteFile(path=path, size=len(data)) for path, data in sorted(files.items())]

    def open(
        self, remote: RemoteVersion, file: RemoteFile, *, offset: int = 0, etag: str = ""
    ) -> MemoryStream:
        self.calls.append(f"open {file.path} {offset}")
        data = self.versions[remote.remote_name, remote.remote_version][file.path]
        broken = self.trouble.get("open") or [None]
        fault = broken.pop(0)
        return MemoryStream(
            left=data[offset : offset + 5] if fault else data[offset:], breaks_with=fault
        )

    def tell(self, remote_name: str, remote_version: str, tags: Mapping[str, str]) -> None:
        self._call("tell")
        self.told.append((remote_name, remote_version, dict(tags)))

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.trouble.get(name):
            raise self.trouble[name].pop(0)
