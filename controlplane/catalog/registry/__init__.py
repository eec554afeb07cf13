"""Where versions may come from, as the catalogue sees it: a registry has named models, numbered
versions of them, and files behind each. What a registry answers is input like any other.

It must not know which registry there is, nor the catalogue's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.catalog.store import Readable

MAX_FILES = 2000
MAX_TAGS = 100


@dataclass(frozen=True, kw_only=True)
class RemoteVersion:
    """A version as its registry described it at one moment. `location` is where its files lie, in
    the registry's own words; `lineage` has the keys of `Version.lineage`."""

    remote_name: str
    remote_version: str
    source_uri: str
    location: str
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a version: `path` relative to the version's folder, `size` in bytes."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Which numbers the watched names led to at one moment; a name that leads nowhere is left
    out."""

    aliases: Mapping[str, str]
    stages: Mapping[str, str]


class RemoteStream(Readable, Protocol):
    """Bytes of a file from an offset. `etag` names what they are bytes of; empty when unknown."""

    @property
    def etag(self) -> str: ...

    def close(self) -> None: ...


class RegistryError(Exception):
    """The message is a sentence for an operator: what is wrong and what would be right."""


class Refused(RegistryError):
    """Asking again cannot help: the version, or what the registry says of it, cannot be used."""


class Unavailable(RegistryError):
    """The registry cannot be reached or answers otherwise than it should; it may later."""


class Away(Unavailable):
    """The registry cannot be reached at all: asking for something else cannot help either."""


class Changed(Unavailable):
    """The file is no longer the one whose first bytes were read."""


class RegistrySource(Protocol):
    """Reads a registry, and writes tags back. Every method may raise `Refused` or `Unavailable`."""

    def resolve(
        self, remote_name: str, *, version: str = "", alias: str = "", stage: str = ""
    ) -> RemoteVersion:
        """The version that exactly one of `version`, `alias` and `stage` names now."""
        ...

    def watched(
        self, remote_name: str, *, aliases: Sequence[str], stages: Sequence[str]
    ) -> Watched: ...

    def files(self, remote: RemoteVersion) -> list[RemoteFile]:
        """All of them, at most `MAX_FILES`, no path twice. Paths are as the registry has them."""
        ...

    def open(
        self, remote: RemoteVersion, file: RemoteFile, *, offset: int = 0, etag: str = ""
    ) -> RemoteStream:
        """The file from `offset` on. With `etag`, raises `Changed` if it is another file now."""
        ...

    def tell(self, remote_name: str, remote_version: str, tags: Mapping[str, str]) -> None: ...
