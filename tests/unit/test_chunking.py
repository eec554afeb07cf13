"""A file falls into the same chunks each time, and a change moves only the chunks it touches."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.chunking import (
    GROUP_BYTES,
    MAX_CHUNK_BYTES,
    MAX_CUT,
    MIN_CUT,
    PIECE_BYTES,
    SEAM_BYTES,
    SMALL_BYTES,
    Region,
    next_cut,
    regions,
)
from controlplane.domain.tensors import Span, in_order

MIB = 1 << 20


def spans(*tensors: tuple[str, int], start: int = 0, seam: int = 0) -> list[Span]:
    result = []
    for name, length in tensors:
        result.append(Span(name=name, width=2, offset=start, length=length))
        start += length + seam
    return result


def shape(found: Iterable[Region]) -> list[tuple[int, bool]]:
    return [(region.length, bool(region.key)) for region in found]


class TestRegions:
    def test_a_chunk_begins_where_a_tensor_begins(self) -> None:
        found = regions(spans(("a", MIB), ("b", 2 * MIB), start=1000), 1000 + 3 * MIB)
        assert shape(found) == [(1000, False), (MIB, True), (2 * MIB, True)]

    def test_a_longer_head_leaves_the_tensors_chunks_as_they_were(self) -> None:
        tensors = (("a", MIB), ("b", 20 * MIB), ("c", 100), ("d", MIB))
        size = sum(length for _, length in tensors)
        before = regions(spans(*tensors, start=1000), 1000 + size)
        after = regions(spans(*tensors, start=6000), 6000 + size)
        assert [(r.key, r.length) for r in before[1:]] == [(r.key, r.length) for r in after[1:]]

    def test_another_order_of_large_tensors_leaves_their_keys(self) -> None:
        there = regions(spans(("a", MIB), ("b", MIB), ("c", MIB)), 3 * MIB)
        back = regions(spans(("c", MIB), ("b", MIB), ("a", MIB)), 3 * MIB)
        assert [r.key for r in there] == [r.key for r in reversed(back)]

    @pytest.mark.parametrize(
        ("length", "pieces"),
        [
            (16 * MIB, [16]),
            (16 * MIB + 1024, [8, 8 + 1 / 1024]),
            (20 * MIB, [8, 8, 4]),
            (19 * MIB, [8, 11]),
            (40 * MIB, [8, 8, 8, 8, 8]),
        ],
    )
    def test_a_long_tensor_is_split_from_its_own_start(
        self, length: int, pieces: list[float]
    ) -> None:
        found = regions(spans(("w", length), start=8), 8 + length)[1:]
        assert [region.length for region in found] == [int(piece * MIB) for piece in pieces]
        assert len({region.key for region in found}) == len(found)

    def test_a_tensor_that_grew_keeps_the_pieces_before_the_end(self) -> None:
        before = regions(spans(("vocabulary", 40 * MIB)), 40 * MIB)
        after = regions(spans(("vocabulary", 41 * MIB)), 41 * MIB)
        assert before[:4] == after[:4]

    def test_small_neighbours_share_a_chunk(self) -> None:
        found = regions(spans(*((f"b{n}", 100_000) for n in range(25))), 2_500_000)
        assert [region.length for region in found] == [1_000_000, 1_000_000, 500_000]

    def test_neighbours_of_another_width_do_not(self) -> None:
        narrow, wide = spans(("a", 1000), ("b", 1000))
        wide = Span(name="b", width=4, offset=wide.offset, length=1000)
        assert [region.width for region in regions([narrow, wide], 2000)] == [2, 4]

    def test_what_lies_between_two_tensors_ends_the_chunk_before(self) -> None:
        found = regions(spans(("a", MIB), ("b", MIB), start=50, seam=53), 50 + 2 * (MIB + 53))
        assert shape(found) == [(50, False), (MIB + 53, True), (MIB + 53, True)]

    def test_a_chunk_at_its_limit_leaves_the_seam_alone(self) -> None:
        tensors = spans(("a", MAX_CHUNK_BYTES), ("b", MIB), seam=64)
        found = regions(tensors, MAX_CHUNK_BYTES + MIB + 64)
        assert shape(found) == [(MAX_CHUNK_BYTES, True), (64, False), (MIB, True)]

    def test_a_file_without_tensors_is_one_region_for_its_content_to_cut(self) -> None:
        assert regions((), 5 * MIB) == (Region(offset=0, length=5 * MIB),)
        assert regions((), 0) == ()

    @given(
        tensors=st.lists(
            st.tuples(
                st.sampled_from([1, 4096, SMALL_BYTES, GROUP_BYTES, MAX_CHUNK_BYTES, 50 * MIB]),
                st.integers(0, 300),
                st.sampled_from([0, 1, SEAM_BYTES, SEAM_BYTES + 1]),
                st.sampled_from([1, 2, 4, 8]),
            ),
            max_size=12,
        ),
        tail=st.sampled_from([0, 1, SEAM_BYTES, MIB]),
    )
    def test_the_regions_are_the_whole_file_in_chunks_that_agents_take(
        self, tensors: list[tuple[int, int, int, int]], tail: int
    ) -> None:
        at, given_spans = 0, []
        for index, (length, more, gap, width) in enumerate(tensors):
            at += gap
            span = Span(name=str(index), width=width, offset=at, length=length + more)
            given_spans.append(span)
            at += span.length
        size = at + tail
        found = regions(in_order(given_spans, size), size)
        ends = [region.offset + region.length for region in found]
        assert [region.offset for region in found] == [0, *ends][: len(found)]
        assert (ends or [0])[-1] == size
        assert all(region.length > 0 for region in found)
        assert all(region.length <= MAX_CHUNK_BYTES for region in found if region.key)
        keyed = [region.key for region in found if region.key]
        assert len(set(keyed)) == len(keyed)
        starts = {span.offset for span in given_spans if span.length >= PIECE_BYTES}
        assert starts <= {region.offset for region in found}


def cuts_of(data: bytes) -> list[bytes]:
    chunks, at = [], 0
    while at < len(data):
        length = next_cut(data[at : at + MAX_CUT])
        chunks.append(data[at : at + length])
        at += length
    return chunks


class TestCuts:
    def test_random_bytes_fall_into_chunks_of_about_a_mebibyte(self) -> None:
        chunks = cuts_of(random.Random(11).randbytes(40 * MIB))
        assert all(MIN_CUT < len(chunk) <= MAX_CUT for chunk in chunks[:-1])
        assert 0.75 * MIB < 40 * MIB / len(chunks) < 1.5 * MIB

    def test_the_cuts_are_the_ones_they_always_were(self) -> None:
        """Another gear or mask would make every chunk of every opaque file new at every site."""
        lengths = [len(chunk) for chunk in cuts_of(random.Random(11).randbytes(5 * MIB))]
        assert lengths == [1216715, 1057328, 1051903, 1315844, 601090]

    @pytest.mark.parametrize("at", [0, 1000, 7 * MIB])
    def test_bytes_that_are_put_in_change_few_chunks(self, at: int) -> None:
        data = random.Random(12).randbytes(16 * MIB)
        before, after = cuts_of(data), cuts_of(data[:at] + b"inserted" + data[at:])
        assert len(set(after) - set(before)) <= 2

    def test_bytes_without_any_sign_are_cut_at_the_limit(self) -> None:
        assert [len(chunk) for chunk in cuts_of(bytes(9 * MIB))] == [4 * MIB, 4 * MIB, MIB]

    @pytest.mark.parametrize("length", [1, 15, 16, MIN_CUT - 1, MIN_CUT])
    def test_what_is_short_is_one_chunk(self, length: int) -> None:
        assert next_cut(random.Random(1).randbytes(length)) == length

    @pytest.mark.parametrize("length", [MIN_CUT + 1, MIN_CUT + 70_000, MIB, MIB + 1])
    def test_a_cut_never_lies_past_the_end(self, length: int) -> None:
        assert 0 < next_cut(random.Random(1).randbytes(length)) <= length

    def test_a_cut_depends_on_nothing_behind_it(self) -> None:
        data = random.Random(13).randbytes(MAX_CUT)
        length = next_cut(data)
        assert length < MAX_CUT
        assert next_cut(data[:length] + bytes(MAX_CUT - length)) == length
