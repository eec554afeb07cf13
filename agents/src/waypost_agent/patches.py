"""Turns the bytes that came in place of a chunk into the chunk, by one of two codecs.

Believes nothing: what is not exactly of the stated form and length is refused, and no more memory
is taken than a few chunks need. Whether the result is right is for the chunk's digest to say.
"""

from __future__ import annotations

import zstandard

ZSTD = "zstd"
PLANES_ZSTD = "planes-zstd"
# Those that need the bytes of another chunk, of the same length.
WITH_BASE = frozenset({PLANES_ZSTD})
CODECS = frozenset({ZSTD, PLANES_ZSTD})

MAX_CHUNK_BYTES = 16 << 20
_WIDTHS = (1, 2, 4, 8)


def apply(codec: str, encoded: bytes, base: bytes | None, length: int) -> bytes:
    """The `length` bytes that `encoded` stands for. Raises `ValueError` naming the fault."""
    if codec not in CODECS:
        raise ValueError(f"the codec {codec!r:.40} is not known")
    if not 0 < length <= MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk of {length} bytes is not between 1 and {MAX_CHUNK_BYTES}")
    if codec == ZSTD:
        if base is not None:
            raise ValueError("zstd takes no base")
        return _decompress(encoded, length)
    if base is None or len(base) != length:
        found = "none" if base is None else f"one of {len(base)} bytes"
        raise ValueError(f"{codec} needs a base of {length} bytes, there is {found}")
    if not encoded or encoded[0] not in _WIDTHS:
        raise ValueError(f"the word width is {encoded[:1].hex() or 'missing'}, not 1, 2, 4 or 8")
    return _add(_decompress(encoded[1:], length), base, encoded[0])


def _decompress(frame: bytes, length: int) -> bytes:
    """One frame that states its length, and nothing after it."""
    try:
        # The library takes as much memory as the frame says it will fill: look before it does.
        stated = zstandard.get_frame_parameters(frame).content_size
        if stated != length:
            raise ValueError(f"the frame says that it holds {stated} bytes, not {length}")
        data = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"it is not a whole zstd frame: {error}") from error
    if len(data) != length:
        raise ValueError(f"the frame holds {len(data)} bytes, not {length}")
    return data


def _add(planes: bytes, base: bytes, width: int) -> bytes:
    """Differences of little-endian words, written as planes of their bytes (all lowest bytes
    first), and after them the single bytes that make no word."""
    import numpy as np  # an agent that gets no patches does not pay its memory

    count = len(base) // width
    end = count * width
    word = np.dtype(f"<u{width}")
    columns = np.frombuffer(planes, np.uint8, end).reshape(width, count)
    folded = columns.T.copy().view(word).reshape(count)
    signs = folded & word.type(1)
    folded >>= word.type(1)
    np.negative(signs, out=signs)
    folded ^= signs
    folded += np.frombuffer(base, word, count)
    tail = np.frombuffer(planes, np.uint8, offset=end) + np.frombuffer(base, np.uint8, offset=end)
    return folded.tobytes() + tail.tobytes()
