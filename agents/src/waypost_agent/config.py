"""The agent's own configuration: one TOML file into one frozen object, or a clear error.

Decides what a key may be. Knows nothing of what the values are used for.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from waypost_agent.download_config import (
    DownloadConfig,
    MirrorConfig,
    parse_download,
    parse_mirror,
)
from waypost_agent.errors import ConfigError
from waypost_agent.limits import Limits
from waypost_agent.probation import Probation, parse_probation
from waypost_agent.servers import PATTERN, Shares, fault_of
from waypost_agent.trust_config import TrustConfig, parse_trust

DEFAULT_PATH = Path("/etc/waypost/agent.toml")
DRIFT = ("correct", "report")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# All its numbers: a plan may ask for any of them.
_TENSORRT = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){2,3}")
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
    """Where a Triton of this site is. `http_url` is reported, and asked at peace where it says
    the same as gRPC. `user` is the user it runs as (a name or a number), which only lets `doctor`
    say more. A version whose backend is not in `backend_directory` is refused before it is loaded;
    `metrics_url` is where a version on probation is counted. `tensorrt_version` is told to the
    centre, which chooses builds by it: Triton itself does not say."""

    repository: Path
    grpc_url: str = "127.0.0.1:8001"
    http_url: str = "http://127.0.0.1:8000"
    metrics_url: str = "http://127.0.0.1:8002/metrics"
    secret_key: str = "x-waypost-triton"
    secret_file: Path | None = None
    user: str | None = None
    backend_directory: Path | None = None
    tensorrt_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One Triton of the site. `state_dir` is the agent's folder for it; `name` is empty and
    `models` None for the one server of [triton], `models` None also for the one of [[servers]]
    that takes what no other takes."""

    triton: TritonConfig
    state_dir: Path
    name: str = ""
    models: tuple[str, ...] | None = None


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
    link_retry_longest_seconds: float = 120.0
    poll_shortest_seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """`centre_url` may be left out once the agent has joined. `metrics_port` 0 means: no metrics.
    `gpu_required`: a site without a visible GPU is at fault, says `doctor`. `allow_executable`:
    versions that run code of their own may be loaded; nobody can say so but this file.
    `measure_seconds`: how long an interval is over which the site is measured, 0 for none. `drift`
    says what becomes of what somebody changed by hand in Triton or in its repository; `probation`
    holds for wishes that come without one."""

    state_dir: Path
    servers: tuple[ServerConfig, ...]
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()  # noqa: RUF009  # frozen values
    centre_url: str | None = None
    ca_file: Path | None = None
    allow_plain_http: bool = False
    log_level: str = "INFO"
    metrics_port: int = 0
    gpu_required: bool = False
    allow_executable: bool = False
    measure_seconds: float = 60.0
    drift: str = "correct"
    probation: Probation = Probation()  # noqa: RUF009  # frozen values
    download: DownloadConfig = DownloadConfig()  # noqa: RUF009
    mirror: MirrorConfig = MirrorConfig()  # noqa: RUF009
    trust: TrustConfig = TrustConfig()  # noqa: RUF009

    @property
    def shares(self) -> Shares:
        """Which models each server takes, by its name."""
        return {server.name: server.models for server in self.servers}

    @property
    def left_behind(self) -> str | None:
        """What is wrong where the records are still those of one server, and there are several."""
        if not self.servers[0].name or not (self.state_dir / "journal").exists():
            return None
        return f"{self.state_dir} holds the records of the one server of [triton]"


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
    _refuse_unknown(document, Config, "", "triton")
    state_dir = _required_path(document, "state_dir", "")
    timeouts = _table(document, "timeouts")
    _refuse_unknown(timeouts, Timeouts, "timeouts.")
    limits = _table(document, "limits")
    _refuse_unknown(limits, Limits, "limits.")
    if (centre_url := _string(document, "centre_url", "")) is not None:
        check_url(centre_url, allow_plain_http=_boolean(document, "allow_plain_http"))
    return Config(
        state_dir=state_dir,
        servers=_servers(document, state_dir),
        centre_url=centre_url,
        ca_file=_path(document, "ca_file", ""),
        allow_plain_http=_boolean(document, "allow_plain_http"),
        log_level=_log_level(document),
        metrics_port=_port(document),
        gpu_required=_boolean(document, "gpu_required"),
        allow_executable=_boolean(document, "allow_executable"),
        measure_seconds=_measure_seconds(document),
        drift=_drift(document),
        probation=_probation(document),
        trust=parse_trust(_table(document, "trust")),
        download=(download := _download(document)),
        mirror=parse_mirror(
            _table(document, "mirror"),
            allow_plain_http=_boolean(document, "allow_plain_http"),
            has_mirrors=bool(download.mirrors),
        ),
        timeouts=Timeouts(**{key: _seconds(timeouts[key], f"timeouts.{key}") for key in timeouts}),
        limits=Limits(**{key: _limit(limits[key], key) for key in limits}),
    )


def _servers(document: Mapping[str, Any], state_dir: Path) -> tuple[ServerConfig, ...]:
    tables = document.get("servers")
    if tables is None:
        triton = _triton(_table(document, "triton"), "triton.", ())
        return (ServerConfig(triton=triton, state_dir=state_dir),)
    if "triton" in document:
        raise ConfigError("triton: is the one server of a site; it cannot stand beside [[servers]]")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ConfigError("servers: must be a list of tables, each written [[servers]]")
    if not tables:
        raise ConfigError("servers: there is none; write one [[servers]] for each Triton")
    servers = tuple(_server(table, number, state_dir) for number, table in enumerate(tables))
    _refuse_twice([server.name for server in servers], "name")
    for key in ("grpc_url", "http_url", "metrics_url"):
        _refuse_twice([getattr(server.triton, key) for server in servers], key)
    _refuse_shared_folders(servers)
    if fault := fault_of({server.name: server.models for server in servers}):
        raise ConfigError(f"servers: {fault}")
    return servers


def _server(table: Mapping[str, Any], number: int, state_dir: Path) -> ServerConfig:
    name = _string(table, "name", f"servers[{number}].")
    if name is None or not _SERVER_NAME.fullmatch(name):
        raise ConfigError(
            f"servers[{number}].name: must be up to 64 letters, digits, - and _, it is {name!r}"
        )
    where = f"servers.{name}."
    models = table.get("models")
    if models is not None and not _are_patterns(models):
        raise ConfigError(
            f'{where}models: must be a list of names and patterns such as ["vad", "detect-*"], '
            f"it is {models!r}"
        )
    return ServerConfig(
        name=name,
        models=None if models is None else tuple(models),
        triton=_triton(table, where, ("name", "models")),
        state_dir=state_dir / "servers" / name,
    )


def _are_patterns(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, str) and PATTERN.fullmatch(each) for each in value)
    )


def _refuse_twice(values: Sequence[str], key: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(
                f"servers: two have the {key} {value!r} (the default where none is given); each "
                "server has its own"
            )


def _refuse_shared_folders(servers: Sequence[ServerConfig]) -> None:
    for one, other in permutations(servers, 2):
        ours, theirs = one.triton.repository, other.triton.repository
        if ours.is_relative_to(theirs):
            raise ConfigError(
                f"servers: the repository {ours} of {one.name} lies in {theirs} of {other.name}; "
                "each server has a folder of its own"
            )


def _triton(table: Mapping[str, Any], where: str, beside: Sequence[str]) -> TritonConfig:
    """Where one Triton is; `beside` names the keys of the table that are not about that."""
    _refuse_unknown(table, TritonConfig, where, *beside)
    return TritonConfig(
        repository=_required_path(table, "repository", where),
        secret_file=_path(table, "secret_file", where),
        backend_directory=_path(table, "backend_directory", where),
        tensorrt_version=_tensorrt_version(table, where),
        **{
            key: value
            for key in ("grpc_url", "http_url", "secret_key", "user", "metrics_url")
            if (value := _string(table, key, where)) is not None
        },
    )


def _tensorrt_version(table: Mapping[str, Any], where: str) -> str | None:
    value = _string(table, "tensorrt_version", where)
    if value is not None and not _TENSORRT.fullmatch(value):
        raise ConfigError(
            f"{where}tensorrt_version: must be a version of three or four numbers such as "
            f'"10.3.0", it is {value!r}'
        )
    return value


def _download(document: Mapping[str, Any]) -> DownloadConfig:
    allow = _boolean(document, "allow_plain_http")

    def check(url: str, key: str) -> None:
        check_url(url, allow_plain_http=allow, key=key)

    return parse_download(_table(document, "download"), check)


def move_records(config: Config) -> str:
    """What to do with the records of one server where there are several now."""
    return (
        "stop the agent and move journal, versions, staging, building, quarantine, rollback and "
        f"said.json to {config.state_dir}/servers/NAME, NAME being who has that repository now"
    )


def check_url(url: str, *, allow_plain_http: bool, key: str = "centre_url") -> None:
    """Raises `ConfigError` unless `url` is one the agent may send its token to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{key}: {url!r} is not a URL such as https://waypost.example")
    if parts.username or parts.password:
        raise ConfigError(f"{key}: must not hold a user name or a password")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not allow_plain_http:
        raise ConfigError(
            f"{key}: {url!r} would send tokens in the clear; use https, or set "
            "allow_plain_http = true where the network itself is trusted"
        )


def _refuse_unknown(table: Mapping[str, Any], kind: type, where: str, *more: str) -> None:
    known = {field.name for field in fields(kind)} | set(more)
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


def _measure_seconds(document: Mapping[str, Any]) -> float:
    value = document.get("measure_seconds", Config.measure_seconds)
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not (value == 0 or 10 <= value <= 3600):
        raise ConfigError(
            "measure_seconds: must be a number of seconds from 10 to 3600, or 0 for no "
            f"measurements, it is {value!r}"
        )
    return float(value)


def _drift(document: Mapping[str, Any]) -> str:
    value = document.get("drift", DRIFT[0])
    if value not in DRIFT:
        raise ConfigError(f"drift: must be one of {', '.join(DRIFT)}, it is {value!r}")
    return str(value)


def _probation(document: Mapping[str, Any]) -> Probation:
    table = _table(document, "probation")
    _refuse_unknown(table, Probation, "probation.")
    try:
        return parse_probation({"seconds": 0, **table})
    except ValueError as error:
        raise ConfigError(f"probation.{error}") from error


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
