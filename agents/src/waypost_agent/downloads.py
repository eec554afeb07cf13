"""Puts together what fetches and shares files, from the site's configuration.

Decides nothing. Knows nothing of command lines or of the agent's threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from waypost_agent.centre import Centre
from waypost_agent.clock import SystemClock
from waypost_agent.config import Config
from waypost_agent.errors import ConfigError
from waypost_agent.files import Fetching
from waypost_agent.mirror_server import MirrorServer
from waypost_agent.mirrors import Mirror, MirrorBlobs
from waypost_agent.pace import Bucket
from waypost_agent.ports import MapSource
from waypost_agent.store import Store

_log = logging.getLogger(__name__)
_LEAST_SECRET = 16  # letters


def make_fetching(config: Config, maps: MapSource, bucket: Bucket) -> Fetching:
    zone = config.download.time_zone

    def wall_clock() -> datetime:
        return datetime.now(zone) if zone is not None else datetime.now().astimezone()

    return Fetching(
        connections=config.download.connections,
        maps=maps,
        bucket=bucket,
        windows=config.download.windows,
        wall_clock=wall_clock,
    )


def make_mirrors(config: Config) -> tuple[Mirror, ...]:
    """Raises `ConfigError` for a secret that cannot be read."""
    secret_file = config.mirror.secret_file
    if secret_file is None or not config.download.mirrors:
        return ()
    secret = read_secret(secret_file)
    return tuple(
        Mirror(
            url,
            MirrorBlobs(
                Centre(
                    url,
                    ca_file=config.ca_file,
                    connect_timeout_seconds=config.timeouts.connect_timeout_seconds,
                    read_timeout_seconds=config.timeouts.read_timeout_seconds,
                    name=f"the mirror {url}",
                ),
                secret,
            ),
            SystemClock(),
        )
        for url in config.download.mirrors
    )


@contextmanager
def serving_mirror(config: Config, stores: Sequence[Store]) -> Iterator[None]:
    """Serve what the stores hold meanwhile, where the site is to be a mirror. A mirror that cannot
    listen is no reason not to serve models."""
    mirror = config.mirror
    if mirror.listen is None or mirror.secret_file is None:
        yield
        return

    def find(sha256: str) -> Path | None:
        found = (store.find_file(sha256) for store in stores)
        return next((path for path in found if path is not None), None)

    try:
        secret = read_secret(mirror.secret_file)
        server = MirrorServer(mirror.listen, secret=secret, find=find, tls=mirror.tls)
    except (OSError, ConfigError) as error:
        _log.error("no mirror at %s port %d: %s", *mirror.listen, error)
        yield
        return
    with server:
        yield


def read_secret(path: Path) -> str:
    """Raises `ConfigError`."""
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mirror.secret_file: {path} cannot be read: {error}") from error
    if len(secret) < _LEAST_SECRET or not secret.isascii() or not secret.isprintable():
        raise ConfigError(
            f"mirror.secret_file: {path} must hold at least {_LEAST_SECRET} letters and digits in "
            "one line, such as `openssl rand -hex 32` prints"
        )
    return secret
