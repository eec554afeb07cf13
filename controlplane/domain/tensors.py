"""Where the tensors of a model file lie: safetensors by its header, ONNX by `onnx_tensors`.

Only lengths and names are read, through a callable, so that a file of any size costs little. Who
pushed the file is not trusted: nothing in it is believed beyond its own bounds. What cannot be
understood has no spans and is cut by content; spans only say where to cut, never what is right.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MAX_TENSORS: Final = 65_536
MAX_NAME_BYTES: Final = 1024
# A hundred bytes a tensor are usual; the format's own readers stop at 100 MB.
MAX_HEADER_BYTES: Final = 16 << 20

# `read(offset, length)`: those bytes of the file, fewer only where it ends.
Read = Callable[[int, int], bytes]

# https://huggingface.co/docs/safetensors/index: "Format"; what is not listed counts as bytes.
_WIDTHS: Final = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}


@dataclass(frozen=True, kw_only=True)
class Span:
    """The bytes of the tensor `name`: little-endian words of `width` bytes (1, 2, 4 or 8)."""

    name: str
    width: int
    offset: int
    length: int


class NotOfTheFormat(Exception):
    """The file is not what its name says, or says more than may be believed."""


def safetensors_spans(read: Read, size: int) -> tuple[Span, ...]:
    """The tensors of a safetensors file in the order they lie in. Raises `NotOfTheFormat`."""
    length = int.from_bytes(read(0, 8), "little")
    if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise NotOfTheFormat(f"a header of {length} bytes in a file of {size}")
    try:
        header = json.loads(read(8, length))
    except (ValueError, RecursionError) as error:
        raise NotOfTheFormat("the header is not JSON") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise NotOfTheFormat(f"the header is not an object of at most {MAX_TENSORS} tensors")
    start = 8 + length
    spans = (
        _safetensors_span(name, entry, start)
        for name, entry in header.items()
        if name != "__metadata__"
    )
    return in_order(spans, size)


def _safetensors_span(name: str, entry: object, start: int) -> Span:
    offsets = entry.get("data_offsets") if isinstance(entry, Mapping) else None
    if (
        not isinstance(entry, Mapping)
        or not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(isinstance(each, int) and not isinstance(each, bool) for each in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise NotOfTheFormat(f"the tensor {name!r:.80} has no data_offsets")
    dtype = entry.get("dtype")
    return Span(
        name=name,
        width=_WIDTHS.get(dtype, 1) if isinstance(dtype, str) else 1,
        offset=start + offsets[0],
        length=offsets[1] - offsets[0],
    )


def in_order(spans: Iterable[Span], size: int) -> tuple[Span, ...]:
    """Those that can be used, by where they lie: not empty, inside the file, none in another. Of
    two that overlap, as tied weights do, the first one stays."""
    kept: list[Span] = []
    end = 0
    for span in sorted(spans, key=lambda span: (span.offset, span.length, span.name)):
        named = len(span.name) <= MAX_NAME_BYTES
        if named and span.length > 0 and span.offset >= end and span.offset + span.length <= size:
            kept.append(span)
            end = span.offset + span.length
    return tuple(kept)
