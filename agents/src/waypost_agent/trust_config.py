"""Whose signatures this site asks for: the table [trust] of agent.toml.

Decides what a key may be. Knows nothing of signatures, and reads no file of keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waypost_agent.errors import ConfigError

ALLOWED = "allowed"
WARNED = "warned"
REFUSED = "refused"
_UNSIGNED = (ALLOWED, WARNED, REFUSED)
MOST_KEYS = 16


@dataclass(frozen=True, kw_only=True)
class TrustConfig:
    """`keys` are files, each with one public key in PEM; any of them will do. `unsigned` says what
    becomes of a version that none of them signed."""

    keys: tuple[Path, ...] = ()
    unsigned: str = ALLOWED


def parse_trust(table: Mapping[str, Any]) -> TrustConfig:
    """Who gives keys means them: unsigned versions are refused unless it says otherwise. Raises
    `ConfigError`."""
    for key in sorted(set(table) - {"keys", "unsigned"}):
        raise ConfigError(f"trust.{key}: unknown key; known are keys, unsigned")
    keys = table.get("keys", [])
    if not isinstance(keys, list) or not all(
        isinstance(each, str) and each.startswith("/") for each in keys
    ):
        raise ConfigError(
            "trust.keys: must be a list of absolute paths such as "
            f'["/etc/waypost/release.pem"], it is {keys!r:.200}'
        )
    if len(keys) > MOST_KEYS:
        raise ConfigError(f"trust.keys: has {len(keys)} files, at most {MOST_KEYS} are allowed")
    unsigned = table.get("unsigned", REFUSED if keys else ALLOWED)
    if unsigned not in _UNSIGNED:
        raise ConfigError(
            f"trust.unsigned: must be one of {', '.join(_UNSIGNED)}, it is {unsigned!r:.80}"
        )
    if unsigned != ALLOWED and not keys:
        raise ConfigError(
            f'trust.unsigned: is "{unsigned}", and trust.keys names no key that could have signed'
        )
    return TrustConfig(keys=tuple(map(Path, keys)), unsigned=str(unsigned))
