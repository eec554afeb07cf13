"""Cuts a file into chunks: along its tensors where they are known, else where its content says.

Decides lengths only; reading and hashing are others' work. The same bytes and spans always give the
same chunks, and a cut depends on nothing before its own chunk, so that the work may stop between
any two and go on later.

By tensor: a chunk begins where a tensor begins, so inserting, growing or reordering tensors leaves
the chunks of all others as they were. By content: FastCDC (Xia et al., USENIX ATC 2016) over a gear
hash (Xia et al., "Ddelta", 2014): a cut wherever a hash of the last few bytes has enough zeros,
more of them before the normal size than after it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from controlplane.domain.tensors import Span

MAX_CHUNK_BYTES: Final = 16 << 20
# A longer tensor is split from its own start; the last piece takes up a rest of less than half.
PIECE_BYTES: Final = 8 << 20
# Tensors below this share a chunk, up to `GROUP_BYTES`: a request for each would cost more.
SMALL_BYTES: Final = 256 << 10
GROUP_BYTES: Final = 1 << 20
# What lies between two tensors (padding, the framing of protobuf) ends the chunk before it.
SEAM_BYTES: Final = 4 << 10

MIN_CUT: Final = 256 << 10
NORMAL_CUT: Final = 1 << 20
MAX_CUT: Final = 4 << 20
_BLOCK: Final = 64 << 10  # hashed at a time: stays in the processor's cache
_REACH: Final = 16  # bytes that a hash depends on
# One in 2^21 before the normal size, one in 2^18 after it: about 1 MiB on the average. The low
# bits are left out, as they see the fewest bytes.
_STRICT: Final = np.uint32(0xFFFFF800)
_EASY: Final = np.uint32(0xFFFFC000)
_GEAR: Final = np.array(
    [
        int.from_bytes(hashlib.sha256(b"waypost gear %d" % byte).digest()[:4], "little")
        for byte in range(256)
    ],
    np.uint32,
)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a file. With a `key` it is one chunk, and the chunk of another version with the
    same key and length holds the same part of the same tensors. Without, its content cuts it."""

    offset: int
    length: int
    key: str = ""
    width: int = 1


def regions(spans: Iterable[Span], size: int) -> tuple[Region, ...]:
    """The whole file in order. `spans` are in order and apart, as `tensors.in_order` gives them."""
    result: list[Region] = []
    end = 0
    for group in _groups(spans):
        start = group[0].offset
        _fill(result, end, start)
        end = group[-1].offset + group[-1].length
        result.extend(_chunks_of(group, end))
    _fill(result, end, size)
    return tuple(result)


def next_cut(window: bytes) -> int:
    """The length of the chunk that `window` begins with: `MAX_CUT` bytes of a region from where
    the chunk begins, or fewer where the region ends."""
    if len(window) <= MIN_CUT:
        return len(window)
    data = np.frombuffer(window, np.uint8)
    for mask, start, end in (
        (_STRICT, MIN_CUT, min(NORMAL_CUT, len(window))),
        (_EASY, NORMAL_CUT, len(window)),
    ):
        for at in range(start, end, _BLOCK):
            hashes = _hashes(data[at - _REACH + 1 : min(at + _BLOCK, end)])
            found = np.flatnonzero((hashes & mask) == 0)
            if found.size:
                return at + int(found[0]) + 1
    return len(window)


def _hashes(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The gear hash of each byte and the fifteen before it, from the sixteenth on: hashes of one
    byte joined to those of two, four, eight and sixteen."""
    hashes = _GEAR[data]
    reach = 1
    while reach < _REACH:
        hashes = hashes[reach:] + (hashes[:-reach] << np.uint32(reach))
        reach *= 2
    return hashes


def _fill(result: list[Region], start: int, end: int) -> None:
    """What lies between two tensors: the end of the chunk before it when it is short and fits."""
    between = end - start
    if result and between <= SEAM_BYTES and result[-1].length + between <= MAX_CHUNK_BYTES:
        result[-1] = replace(result[-1], length=result[-1].length + between)
    elif between:
        result.append(Region(offset=start, length=between))


def _groups(spans: Iterable[Span]) -> Iterator[Sequence[Span]]:
    """Neighbours that share a chunk: each small, of one width, and together not much."""
    group: list[Span] = []
    for span in spans:
        if group and not _fits(group, span):
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _fits(group: Sequence[Span], span: Span) -> bool:
    last = group[-1]
    return (
        max(group[0].length, span.length) < SMALL_BYTES
        and last.width == span.width
        and span.offset - (last.offset + last.length) <= SEAM_BYTES
        and span.offset + span.length - group[0].offset <= GROUP_BYTES
    )


def _chunks_of(group: Sequence[Span], end: int) -> Iterator[Region]:
    offset, width = group[0].offset, group[0].width
    names = "\n".join(span.name for span in group)
    piece = 0
    while offset < end:
        left = end - offset
        whole = left <= MAX_CHUNK_BYTES if piece == 0 else left < PIECE_BYTES * 3 // 2
        length = left if whole else PIECE_BYTES
        label = f"{width}\n{piece}\n{names}"
        key = hashlib.sha256(label.encode(errors="surrogatepass")).hexdigest()[:16]
        yield Region(offset=offset, length=length, key=key, width=width)
        offset += length
        piece += 1
