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
from waypost_agent.limits import Limits

DEFAULT_PATH = Path("/etc/waypost/agent.toml")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_DAY = 86_400
# The least of each whole number of [limits]. The serving version and the one before it always stay;
# a scrub whose turn reads nothing would find every file rotten.
_LEAST = {
    "reserve_bytes": 0,
    "keep_versions": 2,
    "quarantine_bytes": 0,
    "bytes_per_second": 0,
    "stall_bytes_per_second": 0,
    "scrub_turn_bytes": 1,
}
_LONGEST = {"scrub_first_seconds": 366 * _DAY, "scrub_every_seconds": 366 * _DAY}


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """Where this site's Triton is. `http_url` is reported, and asked by `doctor` alone. `user` is
    the user it runs as (a name or a number) and `backend_directory` where its backends lie: both
    only let `doctor` say more."""

    repository: Path
    grpc_url: str = "127.0.0.1:8001"
    http_url: str = "http://127.0.0.1:8000"
    secret_key: str = "x-waypost-triton"
    secret_file: Path | None = None
    user: str | None = None
    backend_directory: Path | None = None


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
    """`centre_url` may be left out once the agent has joined. `metrics_port` 0 means: no metrics.
    `gpu_required`: a site without a visible GPU is at fault, says `doctor`."""

    state_dir: Path
    triton: TritonConfig
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()  # noqa: RUF009  # frozen values
    centre_url: str | None = None
    ca_file: Path | None = None
    allow_plain_http: bool = False
    log_level: str = "INFO"
    metrics_port: int = 0
    gpu_required: bool = False


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
    limits = _table(document, "limits")
    _refuse_unknown(limits, Limits, "limits.")
    if (centre_url := _string(document, "centre_url", "")) is not None:
        check_url(centre_url, allow_plain_http=_boolean(document, "allow_plain_http"))
    return Config(
        state_dir=_required_path(document, "state_dir", ""),
        centre_url=centre_url,
        ca_file=_path(document, "ca_file", ""),
        allow_plain_http=_boolean(document, "allow_plain_http"),
        log_level=_log_level(document),
        metrics_port=_port(document),
        gpu_required=_boolean(document, "gpu_required"),
        triton=TritonConfig(
            repository=_required_path(triton, "repository", "triton."),
            secret_file=_path(triton, "secret_file", "triton."),
            backend_directory=_path(triton, "backend_directory", "triton."),
            **{
                key: value
                for key in ("grpc_url", "http_url", "secret_key", "user")
                if (value := _string(triton, key, "triton.")) is not None
            },
        ),
        timeouts=Timeouts(**{key: _seconds(timeouts[key], f"timeouts.{key}") for key in timeouts}),
        limits=Limits(**{key: _limit(limits[key], key) for key in limits}),
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


def _whole(value: object, name: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: must be a whole number from {least}, it is {value!r}")
    return value


def _port(document: Mapping[str, Any]) -> int:
    value = _whole(document.get("metrics_port", Config.metrics_port), "metrics_port")
    if value > 65_535:
        raise ConfigError(
            f"metrics_port: must be a port from 1 to 65535, or 0 for none, it is {value!r}"
        )
    return value


def _log_level(document: Mapping[str, Any]) -> str:
    value = document.get("log_level", Config.log_level)
    if value not in LOG_LEVELS:
        raise ConfigError(f"log_level: must be one of {', '.join(LOG_LEVELS)}, it is {value!r}")
    return str(value)


def _limit(value: object, key: str) -> Any:
    name = f"limits.{key}"
    if key in _LEAST:
        return _whole(value, name, _LEAST[key])
    return _seconds(value, name, _LONGEST.get(key, _DAY))


def _seconds(value: object, name: str, longest: int = _DAY) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= longest:
        raise ConfigError(
            f"{name}: must be a number of seconds over 0 and at most {longest}, it is {value!r}"
        )
    return float(value)
