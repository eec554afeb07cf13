"""How a site fetches and shares files: the tables [download] and [mirror] of agent.toml.

Decides what a key may be. Knows nothing of what the values are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from waypost_agent.errors import ConfigError
from waypost_agent.windows import Window, parse_windows

MOST_CONNECTIONS = 8


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """`mirrors` are asked in order before the centre. Outside `windows` nothing is fetched for a
    way forward; without any, every hour will do. `time_zone` None is that of the machine."""

    connections: int = 2
    mirrors: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    time_zone: ZoneInfo | None = None


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    """`secret_file` holds what the agents of a region show each other. With `listen` this one
    serves what it holds, over TLS with the certificate chain and key of the two files."""

    secret_file: Path | None = None
    listen: tuple[str, int] | None = None
    tls: tuple[Path, Path] | None = None


def parse_download(
    table: Mapping[str, Any], check_url: Callable[[str, str], None]
) -> DownloadConfig:
    """`check_url` refuses an address (and the key it stands under) that no secret may be sent to.
    Raises `ConfigError`."""
    _refuse_unknown(table, {field.name for field in fields(DownloadConfig)}, "download.")
    connections = table.get("connections", DownloadConfig.connections)
    if not isinstance(connections, int) or isinstance(connections, bool):
        connections = 0
    if not 1 <= connections <= MOST_CONNECTIONS:
        raise ConfigError(
            f"download.connections: must be a whole number from 1 to {MOST_CONNECTIONS}, "
            f"it is {table['connections']!r}"
        )
    mirrors = table.get("mirrors", [])
    if not isinstance(mirrors, list) or not all(isinstance(url, str) for url in mirrors):
        raise ConfigError(
            'download.mirrors: must be a list of addresses such as ["https://10.0.0.5:8443"], '
            f"it is {mirrors!r}"
        )
    for url in mirrors:
        check_url(url, "download.mirrors")
    try:
        windows = parse_windows(table.get("windows", []))
    except ValueError as error:
        raise ConfigError(f"download.windows: {error}") from error
    return DownloadConfig(
        connections=connections,
        mirrors=tuple(mirrors),
        windows=windows,
        time_zone=_zone(table.get("time_zone")),
    )


def parse_mirror(
    table: Mapping[str, Any], *, allow_plain_http: bool, has_mirrors: bool
) -> MirrorConfig:
    """Raises `ConfigError`."""
    known = {"secret_file", "listen", "tls_certificate", "tls_key"}
    _refuse_unknown(table, known, "mirror.")
    secret_file = _path(table, "secret_file")
    listen = _address(table.get("listen"))
    certificate, key = _path(table, "tls_certificate"), _path(table, "tls_key")
    if (certificate is None) != (key is None):
        raise ConfigError("mirror.tls_certificate: and mirror.tls_key belong together; give both")
    tls = None if certificate is None or key is None else (certificate, key)
    if secret_file is None and (has_mirrors or listen is not None):
        raise ConfigError(
            "mirror.secret_file: is missing; agents that share files show each other its contents"
        )
    if listen is not None and tls is None and not allow_plain_http:
        raise ConfigError(
            "mirror.listen: would take the secret in the clear; give tls_certificate and tls_key, "
            "or set allow_plain_http = true where the network itself is trusted"
        )
    return MirrorConfig(secret_file=secret_file, listen=listen, tls=tls)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in sorted(set(table) - known):
        raise ConfigError(f"{where}{key}: unknown key; known are {', '.join(sorted(known))}")


def _path(table: Mapping[str, Any], key: str) -> Path | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("/"):
        raise ConfigError(f"mirror.{key}: must be an absolute path, it is {value!r}")
    return Path(value)


def _address(value: object) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65_535:
        raise ConfigError(
            f'mirror.listen: must be an address and a port such as "10.0.0.5:8443", it is {value!r}'
        )
    return host.strip("[]"), int(port)


def _zone(value: object) -> ZoneInfo | None:
    if value is None:
        return None
    try:
        return ZoneInfo(str(value))
    except (KeyError, ValueError, OSError) as error:  # an unknown one is a KeyError
        raise ConfigError(
            f"download.time_zone: {value!r} is not a time zone of this machine, such as "
            '"Europe/Berlin"'
        ) from error
