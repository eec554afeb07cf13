"""Durations as people write them: 30s, 10m, 1h30m. Decides what they mean, nothing else."""

import re

from waypost_cli.errors import CliError

_UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PATTERN = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?", re.ASCII)


def parse_seconds(text: str) -> int:
    """Seconds of `1d2h3m4s` (each part optional, in that order) or of a bare number of seconds."""
    if re.fullmatch(r"\d{1,8}", text, re.ASCII):
        return int(text)
    match = _PATTERN.fullmatch(text)
    if not text or match is None:
        raise CliError(f"{text!r} is not a duration", cure="write it as 30s, 10m, 1h30m or 2d")
    amounts = zip(match.groups(default="0"), _UNIT_SECONDS.values(), strict=True)
    return sum(int(amount) * seconds for amount, seconds in amounts)


def format_seconds(seconds: float) -> str:
    """The same grammar, for reading: 90 is `1m30s`."""
    left, parts = max(0, round(seconds)), []
    for unit, unit_seconds in _UNIT_SECONDS.items():
        amount, left = divmod(left, unit_seconds)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"
