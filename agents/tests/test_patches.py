"""A patch gives exactly the chunk it was made from, or is refused; it never takes more memory."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from waypost_agent.patches import MAX_CHUNK_BYTES, PLANES_ZSTD, ZSTD, apply

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"
WIDTHS = (1, 2, 4, 8)


def frame(data: bytes, *, content_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=content_size).compress(data)


def planes_of(data: bytes, base: bytes, width: int) -> bytes:
    """The form as the protocol page says it, one word at a time."""
    bits = 8 * width
    end = len(data) // width * width
    words = []
    for at in range(0, end, width):
        new = int.from_bytes(data[at : at + width], "little")
        old = int.from_bytes(base[at : at + width], "little")
        difference = (new - old) % (1 << bits)
        signed = difference - (1 << bits) if difference >> (bits - 1) else difference
        folded = 2 * signed if signed >= 0 else -2 * signed - 1
        words.append(folded.to_bytes(width, "little"))
    planes = b"".join(bytes(word[rank] for word in words) for rank in range(width))
    tail = bytes((a - b) % 256 for a, b in zip(data[end:], base[end:], strict=True))
    return planes + tail


def encoded(data: bytes, base: bytes, width: int) -> bytes:
    return bytes([width]) + frame(planes_of(data, base, width))


def documented() -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = json.loads((EXAMPLES / "patches.json").read_text())
    return examples


@pytest.mark.parametrize("case", documented(), ids=lambda case: case["what"][:40])
def test_the_documented_patches_give_their_chunks(case: dict[str, Any]) -> None:
    base = None if case["base"] is None else base64.b64decode(case["base"])
    chunk = base64.b64decode(case["chunk"])
    assert apply(case["codec"], base64.b64decode(case["encoded"]), base, len(chunk)) == chunk


@given(
    pair=st.integers(1, 80).flatmap(
        lambda n: st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n))
    ),
    width=st.sampled_from(WIDTHS),
)
def test_a_difference_of_any_length_gives_the_chunk_again(
    pair: tuple[bytes, bytes], width: int
) -> None:
    data, base = pair
    assert apply(PLANES_ZSTD, encoded(data, base, width), base, len(data)) == data


@pytest.mark.parametrize(
    ("codec", "blob", "base", "length", "fault"),
    [
        ("brotli", b"", None, 4, "codec 'brotli' is not known"),
        (ZSTD, frame(b"abcd"), None, 0, "not between 1"),
        (ZSTD, frame(b"abcd"), None, MAX_CHUNK_BYTES + 1, "not between 1"),
        (ZSTD, frame(b"abcd"), b"abcd", 4, "takes no base"),
        (ZSTD, frame(b"abcd"), None, 5, "holds 4 bytes, not 5"),
        (ZSTD, frame(b"abcd", content_size=False), None, 4, "not 4"),
        (ZSTD, frame(b"abcd")[:-1], None, 4, "not a whole zstd frame"),
        (ZSTD, frame(b"abcd") + b"x", None, 4, "not a whole zstd frame"),
        (ZSTD, frame(b"abcd") + frame(b"abcd"), None, 4, "not a whole zstd frame"),
        (ZSTD, b"", None, 4, "not a whole zstd frame"),
        (ZSTD, b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", None, 4, "not"),
        (PLANES_ZSTD, encoded(b"abcd", b"abce", 2), None, 4, "there is none"),
        (PLANES_ZSTD, encoded(b"abcd", b"abce", 2), b"abc", 4, "there is one of 3 bytes"),
        (PLANES_ZSTD, b"", b"abcd", 4, "missing"),
        (PLANES_ZSTD, b"\x03" + frame(b"abcd"), b"abcd", 4, "the word width is 03"),
        (PLANES_ZSTD, b"\x02" + frame(b"abcde"), b"abcd", 4, "holds 5 bytes, not 4"),
        (PLANES_ZSTD, b"\x02", b"abcd", 4, "not a whole zstd frame"),
    ],
    ids=str,
)
def test_what_is_not_of_the_form_is_refused(
    codec: str, blob: bytes, base: bytes | None, length: int, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        apply(codec, blob, base, length)


@given(blob=st.binary(max_size=60), width=st.sampled_from((b"", b"\x01", b"\x02", b"\x08")))
def test_noise_is_refused_or_has_the_length(blob: bytes, width: bytes) -> None:
    for head in (b"", zstandard.FRAME_HEADER):
        for codec, base in ((ZSTD, None), (PLANES_ZSTD, b"12345")):
            try:
                assert len(apply(codec, width + head + blob, base, 5)) == 5
            except ValueError:
                continue


def test_a_frame_that_claims_gigabytes_takes_none() -> None:
    bomb = bytearray(frame(b"\0" * (1 << 27)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not 1048576"):
            apply(ZSTD, bytes(bomb), None, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_largest_chunk_takes_no_more_than_five_times_its_length() -> None:
    noise = random.Random(5).randbytes(MAX_CHUNK_BYTES)
    blob = b"\x02" + frame(noise)
    apply(PLANES_ZSTD, b"\x02" + frame(b"abcd"), b"abcd", 4)  # numpy's own memory is not the point
    tracemalloc.start()
    try:
        apply(PLANES_ZSTD, blob, noise, MAX_CHUNK_BYTES)
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_CHUNK_BYTES
    finally:
        tracemalloc.stop()
