"""A difference and its base give the bytes again, and fine-tuned weights become small."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.patches import WIDTHS, decode_planes, encode_planes, encode_zstd

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"


@given(
    pair=st.integers(0, 100).flatmap(
        lambda n: st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n))
    ),
    width=st.sampled_from(WIDTHS),
)
def test_the_difference_and_the_base_give_the_bytes_again(
    pair: tuple[bytes, bytes], width: int
) -> None:
    data, base = pair
    assert decode_planes(encode_planes(data, base, width), base) == data


@pytest.mark.parametrize("width", WIDTHS)
def test_the_ends_of_the_number_range_are_told_apart(width: int) -> None:
    low, high = bytes(width), b"\xff" * width
    for data, base in ((low, high), (high, low), (b"\x80" * width, low), (low, b"\x80" * width)):
        assert decode_planes(encode_planes(data, base, width), base) == data


@pytest.mark.parametrize("width", [0, 3, 16])
def test_other_widths_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes"):
        encode_planes(b"abcd", b"abcd", width)


def test_a_base_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="the base has 3 bytes, the chunk 4"):
        encode_planes(b"abcd", b"abc", 1)


def test_weights_that_were_trained_a_little_further_shrink_below_half() -> None:
    chance = np.random.default_rng(7)
    base = chance.standard_normal(200_000, dtype=np.float32).astype(np.float16)
    tuned = (base * chance.uniform(0.99, 1.01, base.size)).astype(np.float16)
    encoded = encode_planes(tuned.tobytes(), base.tobytes(), 2)
    assert len(encoded) < 0.45 * tuned.nbytes
    assert len(encode_zstd(tuned.tobytes())) > 0.8 * tuned.nbytes
    assert len(encode_planes(tuned.tobytes(), base.tobytes(), 4)) > len(encoded)


@pytest.mark.parametrize("case", json.loads((EXAMPLES / "patches.json").read_text()))
def test_the_documented_patches_are_of_the_form_that_is_written(case: dict[str, str]) -> None:
    """Not byte for byte: another release of zstd may pack the same planes otherwise."""
    encoded, chunk = base64.b64decode(case["encoded"]), base64.b64decode(case["chunk"])
    if case["codec"] == "zstd":
        assert encode_zstd(chunk)[:4] == encoded[:4]
        return
    base = base64.b64decode(case["base"])
    assert decode_planes(encoded, base) == chunk
    assert encode_planes(chunk, base, encoded[0])[:5] == encoded[:5]
