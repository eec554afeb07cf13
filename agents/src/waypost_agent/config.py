"""The agent's own configuration: one TOML file into one frozen object, or a clear error.

Decides what a key may be. Knows nothing of what the values are used for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from waypost_agent.errors import ConfigError

DEFAULT_PATH = Path("/etc/waypost/agent.toml")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """Where this site's Triton is. `http_url` is only reported; nothing is sent there."""

    repository: Path
    grpc_url: str = "127.0.0.1:8001"
    http_url: str = "http://127.0.0.1:8000"
    secret_key: str = "x-waypost-triton"
    secret_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds. `load_timeout_seconds` is how long one load call waits before the index is
    polled instead; `load_deadline_seconds` is how long a version may take to load at all."""

    call_timeout_seconds: float = 10.0
    infer_timeout_seconds: float = 30.0
    load_timeout_seconds: float = 20.0
    load_deadline_seconds: float = 900.0
    unload_deadline_seconds: float = 300.0
    observe_seconds: float = 5.0
    busy_poll_seconds: float = 0.1
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 30.0
    retry_first_seconds: float = 1.0
    retry_longest_seconds: float = 60.0
    link_retry_longest_seconds: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """`centre_url` may be left out once the agent has joined."""

    state_dir: Path
    triton: TritonConfig
    timeouts: Timeouts = Timeouts()
    centre_url: str | None = None
    ca_file: Path | None = None
    allow_plain_http: bool = False
    disk_reserve_bytes: int = 256 << 20


def load_config(path: Path) -> Config:
    """Read and check the file. Raises `ConfigError` naming the key and what would be right."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; name the agent's configuration with --config FILE"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return parse_config(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(document: Mapping[str, Any]) -> Config:
    """Check the keys of the whole file. Raises `ConfigError`."""
    _refuse_unknown(document, Config, "")
    triton = _table(document, "triton")
    _refuse_unknown(triton, TritonConfig, "triton.")
    timeouts = _table(document, "timeouts")
    _refuse_unknown(timeouts, Timeouts, "timeouts.")
    if (centre_url := _string(document, "centre_url", "")) is not None:
        check_url(centre_url, allow_plain_http=_boolean(document, "allow_plain_http"))
    return Config(
        state_dir=_required_path(document, "state_dir", ""),
        centre_url=centre_url,
        ca_file=_path(document, "ca_file", ""),
        allow_plain_http=_boolean(document, "allow_plain_http"),
        disk_reserve_bytes=_whole(document, "disk_reserve_bytes", Config.disk_reserve_bytes),
        triton=TritonConfig(
            repository=_required_path(triton, "repository", "triton."),
            secret_file=_path(triton, "secret_file", "triton."),
            **{
                key: value
                for key in ("grpc_url", "http_url", "secret_key")
                if (value := _string(triton, key, "triton.")) is not None
            },
        ),
        timeouts=Timeouts(**{key: _seconds(timeouts, key) for key in timeouts}),
    )


def check_url(url: str, *, allow_plain_http: bool) -> None:
    """Raises `ConfigError` unless `url` is one the agent may send its token to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"centre_url: {url!r} is not a URL such as https://waypost.example")
    if parts.username or parts.password:
        raise ConfigError("centre_url: must not hold a user name or a password")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not allow_plain_http:
        raise ConfigError(
            f"centre_url: {url!r} would send tokens in the clear; use https, or set "
            "allow_plain_http = true where the network itself is trusted"
        )


def _refuse_unknown(table: Mapping[str, Any], kind: type, where: str) -> None:
    known = {field.name for field in fields(kind)}
    for key in sorted(set(table) - known):
        raise ConfigError(f"{where}{key}: unknown key; known are {', '.join(sorted(known))}")


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{key}: must be a table, written [{key}]")
    return value


def _string(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ConfigError(f"{where}{key}: must be a text in quotes, it is {value!r}")
    return value


def _path(table: Mapping[str, Any], key: str, where: str) -> Path | None:
    text = _string(table, key, where)
    if text is not None and not text.startswith("/"):
        raise ConfigError(f"{where}{key}: must be an absolute path, it is {text!r}")
    return None if text is None else Path(text)


def _required_path(table: Mapping[str, Any], key: str, where: str) -> Path:
    path = _path(table, key, where)
    if path is None:
        raise ConfigError(f'{where}{key}: is missing; give an absolute path, {key} = "/..."')
    return path


def _boolean(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key}: must be true or false, it is {value!r}")
    return value


def _whole(table: Mapping[str, Any], key: str, default: int) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{key}: must be a whole number from 0, it is {value!r}")
    return value


def _seconds(table: Mapping[str, Any], key: str) -> float:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400:
        raise ConfigError(
            f"timeouts.{key}: must be a number of seconds over 0 and at most 86400, it is {value!r}"
        )
    return float(value)
