"""Looks at the mirrors of this site and at the hour. Judges nothing, changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime

import urllib3
from urllib3.exceptions import HTTPError

from waypost_agent.config import Config
from waypost_agent.doctor.facts import MirrorFacts, SharingFacts
from waypost_agent.downloads import read_secret
from waypost_agent.errors import ConfigError
from waypost_agent.mirrors import HEADER
from waypost_agent.windows import opens_at

_NOBODYS = "0" * 64  # the digest of no file: a mirror that takes the secret answers 404
_READ_SECONDS = 10.0


def look_at_sharing(config: Config, moment: float) -> SharingFacts:
    """The mirrors in turn, and when the next download window opens; `moment` is the time of day in
    seconds."""
    now = datetime.fromtimestamp(moment, UTC).astimezone(config.download.time_zone)
    opens = opens_at(config.download.windows, now)
    secret_file = config.mirror.secret_file
    if secret_file is None:
        return SharingFacts(opens_at=opens)
    try:
        secret = read_secret(secret_file)
    except ConfigError as error:
        return SharingFacts(opens_at=opens, secret_fault=str(error))
    mirrors = tuple(_ask(config, url, secret) for url in config.download.mirrors)
    return SharingFacts(opens_at=opens, mirrors=mirrors)


def _ask(config: Config, url: str, secret: str) -> MirrorFacts:
    with urllib3.PoolManager(
        retries=False,
        timeout=urllib3.Timeout(
            connect=config.timeouts.connect_timeout_seconds, read=_READ_SECONDS
        ),
        ca_certs=None if config.ca_file is None else str(config.ca_file),
        cert_reqs="CERT_REQUIRED",
    ) as pool:
        try:
            response = pool.request(
                "GET",
                f"{url.rstrip('/')}/agent/v1/blobs/{_NOBODYS}",
                headers={HEADER: secret},
                redirect=False,
            )
        except (HTTPError, OSError) as error:
            return MirrorFacts(url=url, fault=str(error))
    return MirrorFacts(url=url, status=response.status)
