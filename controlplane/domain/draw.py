"""Draws sites so that a few stand for all: each kind gets its share, and the draw can be repeated.

A kind is a tier with a hardware in a region: a canary of one region alone would tell of its
network, not of the version. It must not know stages; chance comes from the seed alone, so the order
in which sites are given does not matter."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from controlplane.domain.selector import SiteTraits

Stratum = tuple[str, str, str]


def ticket(seed: str, name: str) -> bytes:
    """The site's place in the draw."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def draw(sites: Sequence[SiteTraits], count: int, seed: str) -> list[str]:
    """`count` of the sites (all, when there are fewer), by name, each stratum in proportion.

    A stratum gets its exact share rounded down; the places left go to the largest remainders, ties
    and the order within a stratum by SHA-256 of seed and name.
    """
    if count >= len(sites):
        return sorted(site.name for site in sites)
    strata: dict[Stratum, list[str]] = defaultdict(list)
    for site in sites:
        strata[site.tier, site.hardware, site.region].append(site.name)
    drawn: list[str] = []
    for stratum, places in _places(strata, count, seed).items():
        ranked = sorted(strata[stratum], key=lambda name: ticket(seed, name))
        drawn += ranked[:places]
    return sorted(drawn)


def draw_per(sites: Sequence[SiteTraits], trait: str, count: int, seed: str) -> list[str]:
    """`count` of each region, tier or hardware, as `trait` says."""
    groups: dict[str, list[SiteTraits]] = defaultdict(list)
    for site in sites:
        groups[getattr(site, trait)].append(site)
    return sorted(name for group in groups.values() for name in draw(group, count, seed))


def _places(strata: dict[Stratum, list[str]], count: int, seed: str) -> dict[Stratum, int]:
    """How many of the `count` places each stratum gets: largest remainder, in whole numbers."""
    total = sum(map(len, strata.values()))
    places = {stratum: count * len(names) // total for stratum, names in strata.items()}
    left = count - sum(places.values())
    by_remainder = sorted(
        strata,
        key=lambda stratum: (
            -(count * len(strata[stratum]) % total),
            ticket(seed, "\0".join(stratum)),
        ),
    )
    for stratum in by_remainder[:left]:
        places[stratum] += 1
    return places
