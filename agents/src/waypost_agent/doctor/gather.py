"""Brings in the facts: asks this machine, the centre and Triton. Judges nothing, changes nothing.

The centre is asked without a session: a login here would end that of the agent that runs.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from waypost_agent.accelerators import Gpus
from waypost_agent.config import Config, ServerConfig, TritonConfig, load_config
from waypost_agent.doctor.facts import (
    CentreFacts,
    Facts,
    FolderFacts,
    HostFacts,
    IdentityFacts,
    JournalFacts,
    TrustFacts,
)
from waypost_agent.doctor.look import look_at_triton
from waypost_agent.doctor.neighbours import look_at_sharing
from waypost_agent.errors import ConfigError
from waypost_agent.identity import Identity
from waypost_agent.inventory import disk_bytes
from waypost_agent.server import make_journal
from waypost_agent.trust import make_trust

_OCTAL = re.compile(r"\\([0-7]{3})")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def gather(config_path: Path, now: Callable[[], float] = time.time) -> tuple[Facts, ...]:
    """All facts, for each server of the site; one that cannot be learned says so and holds up no
    other. `now` is the time of day in seconds."""
    try:
        config = load_config(config_path)
    except ConfigError as error:
        return (Facts(host=_host(None), config_path=config_path, config_fault=str(error)),)
    identity = _identity(config)
    url = config.centre_url or identity.centre_url
    site = Facts(
        host=_host(config.servers[0]),
        config_path=config_path,
        config=config,
        left_behind=config.left_behind,
        state_dir=look_at_folder(config.state_dir),
        identity=identity,
        centre=None if url is None else ask_centre(config, url, now),
        trust=_trust(config),
        sharing=look_at_sharing(config, now()),
    )
    return tuple(_gather_server(site, config, server) for server in config.servers)


def _gather_server(site: Facts, config: Config, its: ServerConfig) -> Facts:
    journal = make_journal(its.state_dir)
    unreadable, set_aside = journal.faults()
    server, models = look_at_triton(config, its, journal, unreadable)
    return replace(
        site,
        of=its,
        host=_host(its),
        secret_fault=_secret_fault(its.triton),
        # Before the first start it has no folder of its own yet.
        home=look_at_folder(its.state_dir if its.state_dir.exists() else config.state_dir),
        repository=look_at_folder(its.triton.repository),
        server=server,
        journal=JournalFacts(unreadable=unreadable, set_aside=set_aside),
        models=models,
    )


def _host(its: ServerConfig | None) -> HostFacts:
    gpus = Gpus().look()
    known, user = (False, None) if its is None else _triton_user(its.triton.user)
    total, free = (None, None) if its is None else disk_bytes(its.triton.repository)
    return HostFacts(
        python=sys.version_info[:3],
        uid=os.geteuid(),
        has_boot_id=_BOOT_ID.is_file(),
        has_boottime=_has_boottime(),
        gpus=None if gpus is None else len(gpus),
        disk_bytes=total,
        free_bytes=free,
        triton_user=user,
        triton_user_known=known,
    )


def _has_boottime() -> bool:
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME) > 0
    except (OSError, AttributeError):
        return False


def _triton_user(user: str | None) -> tuple[bool, tuple[int, frozenset[int]] | None]:
    """Whether it is known here, its number and its groups. A bare number needs no entry here: in
    a container it is all there is."""
    if user is None:
        return False, None
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        return (True, (int(user), frozenset())) if user.isdigit() else (False, None)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return True, (entry.pw_uid, frozenset(groups))


def _trust(config: Config) -> TrustFacts:
    try:
        keys = make_trust(config.trust).keys
    except ConfigError as error:
        return TrustFacts(fault=str(error))
    return TrustFacts(
        fingerprints=tuple(key.fingerprint for key in keys),
        changeable=tuple(str(path) for path in config.trust.keys if path.stat().st_mode & 0o022),
    )


def _secret_fault(its: TritonConfig) -> str | None:
    path = its.secret_file
    if path is None:
        return None
    try:
        return None if path.read_text().strip() else f"triton.secret_file: {path} is empty"
    except (OSError, UnicodeDecodeError) as error:
        return f"triton.secret_file: {path} cannot be read: {error}"


def look_at_folder(path: Path) -> FolderFacts:
    """What the file system says of it, and whether this process may write there."""
    try:
        status = path.stat()
    except OSError:
        return FolderFacts(path=path, exists=False)
    return FolderFacts(
        path=path,
        exists=True,
        is_folder=stat.S_ISDIR(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mode=stat.S_IMODE(status.st_mode),
        device=status.st_dev,
        mount=mount_of(path),
        writable=os.access(path, os.W_OK | os.X_OK),
    )


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The mount that a path lies on: two of one file system have the same device, and still no
    file can be moved between them."""
    try:
        points = [line.split()[4] for line in table.read_text().splitlines()]
        real = path.resolve()
    except (OSError, IndexError):
        return None
    # The kernel writes blanks and the like as three octal digits.
    unescaped = [_OCTAL.sub(lambda found: chr(int(found[1], 8)), point) for point in points]
    over = [point for point in unescaped if real.is_relative_to(point)]
    return max(over, key=len, default=None)


def _identity(config: Config) -> IdentityFacts:
    try:
        key_mode = stat.S_IMODE((config.state_dir / "agent.key").stat().st_mode)
    except FileNotFoundError:
        key_mode = None
    except OSError as error:
        return IdentityFacts(fault=f"{config.state_dir}/agent.key: {error.strerror}")
    try:
        membership = Identity(config.state_dir).membership()
    except (ConfigError, OSError) as error:
        return IdentityFacts(key_mode=key_mode, fault=str(error))
    return IdentityFacts(
        key_mode=key_mode,
        site=None if membership is None else membership.site,
        centre_url=None if membership is None else membership.centre_url,
    )


def ask_centre(config: Config, url: str, now: Callable[[], float] = time.time) -> CentreFacts:
    """Find it by its name, then ask whether it lives."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return CentreFacts(url=url, name_fault=error.strerror or str(error))
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    timeouts = config.timeouts
    with urllib3.PoolManager(
        retries=False,
        timeout=urllib3.Timeout(
            connect=timeouts.connect_timeout_seconds, read=timeouts.read_timeout_seconds
        ),
        ca_certs=None if config.ca_file is None else str(config.ca_file),
        cert_reqs="CERT_REQUIRED",
    ) as pool:
        try:
            response = pool.request("GET", f"{url.rstrip('/')}/healthz/live", redirect=False)
        except (HTTPError, OSError) as error:
            return CentreFacts(
                url=url,
                addresses=addresses,
                fault=str(error),
                tls_fault=isinstance(error, SSLError),
            )
    return CentreFacts(
        url=url,
        addresses=addresses,
        status=response.status,
        is_centre=response.data[:200].replace(b" ", b"") == b'{"status":"ok"}',
        ahead_seconds=_ahead_seconds(response.headers.get("Date"), now()),
    )


def _ahead_seconds(date: str | None, now: float) -> float | None:
    """The centre's clock less this one."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
