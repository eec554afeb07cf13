"""Which sums cover a window of time: all of it, nothing else, and only those that are kept."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.telemetry.grains import Grain, Window, cover, within_kept

minutes_apart = st.integers(0, 3 * 24 * 60)


def spans(window: Window) -> Iterator[tuple[datetime, datetime]]:
    for piece in cover(window):
        yield piece.window.start, piece.window.end


NOW = datetime(2026, 11, 23, 12, 34, 56, tzinfo=UTC)


@given(minutes_apart, minutes_apart)
@settings(max_examples=200, deadline=None)
def test_pieces_are_the_window_without_gap_or_overlap(back: int, length: int) -> None:
    start = Grain.MINUTE.floor(NOW) - timedelta(minutes=back)
    window = Window(start=start, end=start + timedelta(minutes=length))
    pieces = list(spans(window))
    assert all(one[1] == other[0] for one, other in pairwise(pieces))
    if length:
        assert (pieces[0][0], pieces[-1][1]) == (window.start, window.end)
    assert len(pieces) <= (5 if length else 0)


@given(st.integers(0, 500 * 24 * 60), st.integers(0, 500 * 24 * 60))
@settings(max_examples=200, deadline=None)
def test_a_window_shrinks_to_what_is_kept_and_no_further_than_it_must(
    back: int, length: int
) -> None:
    start = NOW - timedelta(minutes=back)
    end = start + timedelta(minutes=length)
    window = within_kept(Window(start=start, end=end), NOW)
    assert start <= window.start or window.start == window.end
    assert window.end <= end or window.start == window.end
    for piece in cover(window):
        assert piece.window.start >= piece.grain.kept_since(NOW)
    if back < 2 * 24 * 60 - 1 and length:
        assert window.start - start < timedelta(minutes=1)
