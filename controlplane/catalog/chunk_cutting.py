"""Finds the tensors of a stored file and cuts it into hashed chunks. Knows no rows."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from controlplane.catalog.store import ArtifactStore
from controlplane.domain.chunking import MAX_CUT, Region, next_cut, regions
from controlplane.domain.onnx_tensors import onnx_tensors
from controlplane.domain.tensors import NotOfTheFormat, Read, Span, in_order, safetensors_spans

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a version: its path there, and its bytes in the store."""

    path: str
    size: int
    sha256: str


class CutChunk(NamedTuple):
    """One chunk of a file; `key` and `width` as in `Region`. The next one begins where it ends."""

    length: int
    sha256: str
    key: str
    width: int


class Truncated(Exception):
    """The store holds fewer bytes than the file has."""


@contextmanager
def reader(store: ArtifactStore, sha256: str) -> Iterator[Read]:
    """Raises `FileNotFoundError` when the store has lost the file."""
    with store.reader(sha256) as read:
        yield read


def find_regions(
    store: ArtifactStore, file: StoredFile, siblings: Iterable[StoredFile]
) -> tuple[Region, ...]:
    """The parts of the file, by its tensors if they can be found: in itself, or named by an ONNX
    model among the files of its version."""
    try:
        return regions(_spans(store, file, siblings), file.size)
    except NotOfTheFormat as error:
        _log.info("file_cut_by_content", path=file.path, sha256=file.sha256, why=str(error))
        return regions((), file.size)


def cut(
    read: Read, parts: Sequence[Region], done: list[CutChunk], keep_going: Callable[[], bool]
) -> bool:
    """Goes on behind the chunks in `done` and adds to them; whether the file is cut to its end.

    Raises `Truncated`.
    """
    at = sum(chunk.length for chunk in done)
    for part in parts:
        end = part.offset + part.length
        while at < end:
            if not keep_going():
                return False
            length = end - at if part.key else min(end - at, MAX_CUT)
            data = read(at, length)
            if len(data) < length:
                raise Truncated(f"{len(data)} of {length} bytes at {at}")
            if not part.key:
                data = data[: next_cut(data)]
            digest = hashlib.sha256(data).hexdigest()
            done.append(CutChunk(len(data), digest, part.key, part.width))
            at += len(data)
    return True


def _spans(
    store: ArtifactStore, file: StoredFile, siblings: Iterable[StoredFile]
) -> tuple[Span, ...]:
    if file.path.endswith(".safetensors"):
        with reader(store, file.sha256) as read:
            return safetensors_spans(read, file.size)
    if file.path.endswith(".onnx"):
        with reader(store, file.sha256) as read:
            return onnx_tensors(read, file.size, file.path).own
    claimed: list[Span] = []
    for model in siblings:
        if model.path.endswith(".onnx"):
            with reader(store, model.sha256) as read:
                tensors = onnx_tensors(read, model.size, model.path)
            claimed.extend(tensors.external.get(file.path, ()))
    return in_order(claimed, file.size)
