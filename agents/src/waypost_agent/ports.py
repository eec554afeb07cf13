"""The shapes in which the agent sees a model server and a source of files.

Only shapes: who stands behind them (a real Triton, the centre, a fake in a test) is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Checkpoint = Callable[[str], None]
Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """Who answers: the server's version and what it can do, as it says itself."""

    version: str
    extensions: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """One line of the server's index: READY, UNAVAILABLE, LOADING, UNLOADING or empty."""

    state: str
    reason: str = ""


Index = Mapping[str, Mapping[str, VersionState]]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A named tensor with its KServe v2 datatype: `values` flat and row-major, in Python's own
    numbers, which are those of the datatype; bytes for BYTES."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answered: the version that did, its outputs by name, and in how many seconds as
    its client saw it (None: not measured there)."""

    version: str
    outputs: Mapping[str, Tensor]
    seconds: float | None = None


class LoadTimedOut(Exception):
    """The server did not finish the load within the call's time; it goes on loading."""


class LoadRefused(Exception):
    """The server tried and could not load; the message is its own."""


class InferenceRefused(Exception):
    """The server answered a request with an error; the message is its own."""


class ModelServer(Protocol):
    """Model control and inference. Every method raises `Retryable` when nobody answers."""

    def facts(self) -> ServerFacts: ...

    def index(self) -> Index:
        """Versions by model; a folder that was never loaded has none."""
        ...

    def load(self, model: str, config: Config, *, timeout_seconds: float) -> None:
        """Load with this whole configuration. Raises `LoadTimedOut`, `LoadRefused`."""
        ...

    def unload(self, model: str) -> None:
        """Ask to unload; returns before it is done."""
        ...

    def is_version_ready(self, model: str, version: str) -> bool: ...

    def infer(
        self, model: str, version: str | None, inputs: Sequence[Tensor], outputs: Sequence[str]
    ) -> Answer:
        """Ask the model; `version` None is what users send. Raises `InferenceRefused`."""
        ...


class ConfigCodec(Protocol):
    """Between config.pbtxt and its fields (the names of Triton's ModelConfig)."""

    def parse(self, text: str) -> Config:
        """Raises `ValueError` with the place of the fault."""
        ...

    def print(self, config: Config) -> str: ...


@dataclass(frozen=True, kw_only=True)
class BlobPart:
    """The bytes of a blob from `offset` on; `total_bytes` is the size of the whole.

    `blame` tells the source that they were cut, late or wrong; True when another one can be asked
    in its place.
    """

    offset: int
    total_bytes: int
    chunks: Iterator[bytes]
    blame: Callable[[str], bool] = lambda fault: False


class BlobSource(Protocol):
    """Where files come from, by digest."""

    def open_blob(
        self, sha256: str, offset: int, end: int | None = None
    ) -> AbstractContextManager[BlobPart]:
        """Open from `offset` up to `end` (None: the last byte), or from 0 when the source cannot.

        Raises `Retryable`; `RangeRefused` when only the whole may be had, `BlobUnknown` when the
        source has no such blob. May be called by several threads at once.
        """
        ...


class MapSource(Protocol):
    """Where chunk maps come from."""

    def chunk_map(self, sha256: str) -> object | None:
        """The map of a file as a parsed document, None where there is none to be had.

        Raises `Retryable` when nobody answers.
        """
        ...
