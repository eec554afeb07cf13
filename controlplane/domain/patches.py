"""Encodes a chunk as its difference to another one: the codec `planes-zstd` of the agent protocol.

Weights that were trained a little further differ in their low bytes only. Each little-endian word
is subtracted from the base's, small differences of either sign become small numbers (zigzag), and
bytes of the same rank are laid together, so that the many zeros of the high bytes vanish and the
low ones are coded by how often they occur. Knows nothing of files, tensors or where bytes lie.
"""

from typing import Final

import numpy as np
import zstandard

ZSTD: Final = "zstd"
PLANES_ZSTD: Final = "planes-zstd"
WIDTHS: Final = (1, 2, 4, 8)
# Higher levels look harder for repeats, of which weights have none.
_LEVEL: Final = 1


def encode_zstd(data: bytes) -> bytes:
    """`data` in one zstd frame that states its length."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(data)


def encode_planes(data: bytes, base: bytes, width: int) -> bytes:
    """`data` as its difference to `base`, which is as long, in words of `width` bytes.

    The form: one byte with the width, then a zstd frame that states its length and holds the
    lowest bytes of all words, the next ones, and so on, and at last the differences of the bytes
    that make no word. Raises `ValueError` for another width or a base of another length.
    """
    if width not in WIDTHS:
        raise ValueError(f"a word has 1, 2, 4 or 8 bytes, not {width}")
    if len(data) != len(base):
        raise ValueError(f"the base has {len(base)} bytes, the chunk {len(data)}")
    count = len(data) // width
    end = count * width
    word = np.dtype(f"<u{width}")
    difference = np.frombuffer(data, word, count) - np.frombuffer(base, word, count)
    # All ones where the difference is negative, else zero.
    signs = np.negative(difference >> word.type(8 * width - 1))
    difference <<= word.type(1)
    difference ^= signs
    planes = np.ascontiguousarray(difference.view(np.uint8).reshape(count, width).T)
    tail = np.frombuffer(data, np.uint8, offset=end) - np.frombuffer(base, np.uint8, offset=end)
    return bytes([width]) + encode_zstd(planes.tobytes() + tail.tobytes())


def decode_planes(encoded: bytes, base: bytes) -> bytes:
    """What `encode_planes` was given. For bytes of one's own making: it is not guarded against
    others'."""
    width, planes = encoded[0], zstandard.ZstdDecompressor().decompress(encoded[1:])
    count = len(base) // width
    end = count * width
    word = np.dtype(f"<u{width}")
    columns = np.frombuffer(planes, np.uint8, end).reshape(width, count)
    folded = np.ascontiguousarray(columns.T).view(word).reshape(count)
    difference = (folded >> word.type(1)) ^ np.negative(folded & word.type(1))
    words = difference + np.frombuffer(base, word, count)
    tail = np.frombuffer(planes, np.uint8, offset=end) + np.frombuffer(base, np.uint8, offset=end)
    data: bytes = words.tobytes() + tail.tobytes()
    return data
