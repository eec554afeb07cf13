"""Sites in a sentence: how many, and a few by name."""

from collections.abc import Iterable

from controlplane.domain.views import SiteNote


def count_sites(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


def name_sites(notes: Iterable[SiteNote], count: int) -> str:
    """Up to three sites by name, the rest as a number: a reason must fit a line."""
    first = list(notes)[:3]
    if not first:
        return count_sites(count)
    shown = ", ".join(f"{n.site} ({n.note})" if n.note else n.site for n in first)
    more = count - len(first)
    return f"{shown} and {more} more" if more > 0 else shown
