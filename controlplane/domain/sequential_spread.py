"""How much less requests say than if each were independent: the design effect (Kish 1965).

Errors come in bursts, load comes in waves and sites differ. What an effect leaves unexplained is
added up by interval, by runs of intervals and by site; where such sums vary more than independent
requests would, every request counts for less. Until there are enough of them, how much bad answers
clump in time stands in. It must not know what is judged."""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Intervals in a run, short and long: bursts last for seconds, waves for minutes.
RUNS = (6, 24)
# With so many groups their own spread counts as much as what stands in for it.
PRIOR_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """What one version at one site in one interval leaves unexplained, with its sign in the effect;
    `expected`: its variance if requests were independent."""

    site: str
    interval: int
    rest: float
    expected: float


def design_effect(
    pieces: Iterable[Piece], *, are_sites_compared: bool, clumping: float = 1.0
) -> float:
    """By how much the variance is larger than that of independent requests, at least 1.

    `are_sites_compared`: the effect is between sites, so their difference is taken as it is found;
    else few groups are believed only in part. `clumping`: what is believed until then.
    """
    kept = list(pieces)
    levels: Sequence[Callable[[Piece], Hashable]] = (
        lambda piece: (piece.site, piece.interval),
        lambda piece: (piece.site, piece.interval // RUNS[0]),
        lambda piece: (piece.site, piece.interval // RUNS[1]),
    )
    believed = max(1.0, clumping)
    found = [1.0, *(_inflation(kept, level, PRIOR_GROUPS, believed) for level in levels)]
    prior = 0 if are_sites_compared else PRIOR_GROUPS
    found.append(_inflation(kept, lambda piece: piece.site, prior, believed))
    return max(found)


def clumping_of(series: Iterable[Sequence[tuple[float, float]]]) -> float:
    """How bad answers clump: their variance from one interval to the next by that of independent
    ones (1); waves and sites that differ do not matter. Each series is one version's at one site in
    order of time: (bad, requests). None bad: 1."""
    found = expected = 0.0
    for intervals in series:
        for (bad, size), (next_bad, next_size) in pairwise(intervals):
            found += (bad / size - next_bad / next_size) ** 2 * size * next_size
            expected += bad + next_bad
    return found / expected if expected else 1.0


def _inflation(
    pieces: list[Piece], group: Callable[[Piece], Hashable], prior: float, believed: float
) -> float:
    rests: dict[Hashable, float] = {}
    expected: dict[Hashable, float] = {}
    for piece in pieces:
        key = group(piece)
        rests[key] = rests.get(key, 0.0) + piece.rest
        expected[key] = expected.get(key, 0.0) + piece.expected
    total = sum(expected.values())
    squares = sum(value * value for value in expected.values())
    # Groups of very unequal size are fewer than they seem.
    free = total * total / squares - 1 if squares else 0.0
    if free <= 0.5:
        return believed if prior else 1.0
    found = sum(rest * rest for rest in rests.values()) / total * (free + 1) / free
    # By one standard error less: the largest of several noisy ones would be too large as a rule.
    return ((found - math.sqrt(2 / free)) * free + believed * prior) / (free + prior)
