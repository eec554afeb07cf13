"""Which of a site's Triton servers a model belongs to, by patterns such as `detect-*`.

Pure. `*` stands for any letters, `?` for one. Knows neither files nor servers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import combinations

PATTERN = re.compile(r"[A-Za-z0-9_*?-]{1,64}")

# By the name of the server; None takes what no other does. "" is the name of one server alone.
Shares = Mapping[str, tuple[str, ...] | None]
ALONE: Shares = {"": None}


def owner(model: str, shares: Shares) -> str | None:
    """The server that a model belongs to, None when it belongs to none."""
    for name, patterns in shares.items():
        if patterns is not None and any(is_match(pattern, model) for pattern in patterns):
            return name
    return next((name for name, patterns in shares.items() if patterns is None), None)


def is_match(pattern: str, model: str) -> bool:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), model) is not None


def unclaimed(model: str, shares: Shares) -> str:
    """Why nobody at this site serves a model, and what would be right."""
    takes = "; ".join(
        f"{name} takes {', '.join(patterns)}" for name, patterns in shares.items() if patterns
    )
    return (
        f"no server of this site takes a model named {model}: {takes}. Add it to the models of "
        "one of the [[servers]] in agent.toml, or leave models out of one of them"
    )


def fault_of(shares: Shares) -> str | None:
    """What is wrong with the shares as a whole, None when every model has one server at most."""
    rest = [name for name, patterns in shares.items() if patterns is None]
    if len(rest) > 1:
        return (
            f"{' and '.join(rest)} have no models; only one server may take what no other takes, "
            'give the others patterns, models = ["vad", "detect-*"]'
        )
    for (one, ours), (other, theirs) in combinations(shares.items(), 2):
        for a in ours or ():
            for b in theirs or ():
                if (both := common_name(a, b)) is not None:
                    return (
                        f"{a!r} of {one} and {b!r} of {other} both take models such as {both!r}; "
                        "a model belongs to one server"
                    )
    return None


@cache
def common_name(a: str, b: str) -> str | None:
    """A name that both patterns take, None when there is none."""
    if not a and not b:
        return ""
    for one, other in ((a, b), (b, a)):
        if one.startswith("*"):
            rest = common_name(one[1:], other)
            if rest is not None:
                return rest
            if not other:
                return None
            if other.startswith("*"):
                return common_name(one, other[1:])
            rest = common_name(one, other[1:])
            return None if rest is None else _letter(other[0]) + rest
    if not a or not b:
        return None
    if a[0] != b[0] and "?" not in (a[0], b[0]):
        return None
    rest = common_name(a[1:], b[1:])
    return None if rest is None else _letter(a[0] if a[0] != "?" else b[0]) + rest


def _letter(sign: str) -> str:
    return "x" if sign == "?" else sign
