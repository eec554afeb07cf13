"""Fetches the public keys of an identity provider (OpenID Connect Discovery 1.0, RFC 7517).

The only URLs it opens are an issuer that somebody trusted, and the `jwks_uri` that this issuer
names: https, at an address that was looked at before the connection is made, without redirects or
proxies, bounded in time and size. It must not know what an identity is worth."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from jwt import PyJWK, PyJWKClient, PyJWKSet
from jwt.exceptions import PyJWKClientError, PyJWTError

from controlplane.audit.timed_wire import Deadline, TimedWire
from controlplane.audit.webhooks_http import resolve
from controlplane.audit.webhooks_target import (
    BadTarget,
    Target,
    TargetRules,
    address_refusal,
    parse_target,
)
from controlplane.domain.errors import Unauthenticated, WaypostError

WELL_KNOWN = "/.well-known/openid-configuration"
KEYS_KEPT_SECONDS = 300.0
# A key that is not among those held has them fetched anew, but not more often than this: anybody
# can make up the name of a key. After a failure nobody asks for as long.
COOLDOWN_SECONDS = 10.0
TOTAL_SECONDS = 10.0
MAX_BYTES = 256 * 1024
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Fetch = Callable[[str], object]
FAILURES = (OSError, ValueError, PyJWTError, http.client.HTTPException)


class IssuerUnavailable(WaypostError):
    """Its keys cannot be had now; asking again may help."""

    def __init__(self, issuer: str, why: str) -> None:
        super().__init__(
            "issuer-unavailable",
            f"The keys of {issuer} cannot be fetched: {why}.",
            extra={"retry_after": int(COOLDOWN_SECONDS)},
        )


def why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it does not answer within {TOTAL_SECONDS:g} s"
    return str(error)[:200] or type(error).__name__


def issuer_rules(url: str) -> TargetRules:
    """Where an issuer may be: https at public addresses, or what the settings open besides."""
    try:
        loopback = urlsplit(url).hostname in _LOOPBACK
    except ValueError:
        loopback = False
    plain = bool(settings.WAYPOST_OIDC_ALLOW_LOOPBACK_HTTP) and loopback
    private = plain or bool(settings.WAYPOST_OIDC_ALLOW_PRIVATE)
    return TargetRules(allow_http=plain, allow_private=private)


def fetch_json(url: str) -> object:
    """The document at `url`. Raises `OSError`, `ValueError` (also `BadTarget`), `HTTPException`."""
    rules = issuer_rules(url)
    target = parse_target(url, rules)
    deadline = Deadline(seconds=TOTAL_SECONDS)
    with contextlib.ExitStack() as stack:
        plain = wire = stack.enter_context(_connect(target, rules))
        if target.scheme == "https":
            wire = _trust().wrap_socket(plain, server_hostname=target.host)
            stack.enter_context(wire)
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = TimedWire(wire, deadline)
        stack.callback(connection.close)
        headers = {"Host": target.authority, "Accept": "application/json"}
        connection.request("GET", target.path, headers={**headers, "Connection": "close"})
        answer = stack.enter_context(connection.getresponse())
        if answer.status != http.HTTPStatus.OK:
            raise ValueError(f"it answered {answer.status}")
        raw = answer.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(f"its answer has more than {MAX_BYTES} bytes")
    return json.loads(raw)


def _connect(target: Target, rules: TargetRules) -> socket.socket:
    refused = "it has no address"
    for address in resolve(target.host, target.port):
        refused = address_refusal(address, rules)
        if not refused:
            return socket.create_connection((address, target.port), timeout=TOTAL_SECONDS / 2)
    raise BadTarget(refused)


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


class _KeySet(PyJWKClient):
    """PyJWT's cache and rotation, with our way of fetching."""

    def __init__(
        self, issuer: str, fetch: Fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(issuer, lifespan=KEYS_KEPT_SECONDS, cooldown_duration=COOLDOWN_SECONDS)
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._failed: tuple[float, str] | None = None

    def fetch_data(self) -> Any:
        """Called by one thread at a time: PyJWT holds its lock. The others wait, and find what came
        of it, a failure too."""
        if self._failed and self._clock() - self._failed[0] < COOLDOWN_SECONDS:
            raise ValueError(self._failed[1])
        try:
            keys = self._fetched()
            PyJWKSet.from_dict(keys)
        except FAILURES as error:
            self._failed = (self._clock(), why(error))
            raise
        self._failed = None
        return keys

    def _fetched(self) -> dict[str, Any]:
        said = self._fetch(self._issuer.rstrip("/") + WELL_KNOWN)
        if not isinstance(said, dict) or said.get("issuer") != self._issuer:
            raise ValueError("its discovery document is of another issuer")
        where = said.get("jwks_uri")
        if not isinstance(where, str):
            raise ValueError("its discovery document names no keys")
        keys = self._fetch(where)
        if not isinstance(keys, dict):
            raise ValueError("its keys are no JSON Web Key Set")
        return keys


class IssuerKeys:
    """The keys of every issuer that was asked about, for one process."""

    def __init__(
        self, fetch: Fetch = fetch_json, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._held: dict[str, _KeySet] = {}
        self._lock = threading.Lock()

    def find(self, issuer: str, key_id: str) -> PyJWK:
        """Raises `Unauthenticated` for a key the issuer does not have, `IssuerUnavailable`."""
        with self._lock:
            keys = self._held.setdefault(issuer, _KeySet(issuer, self._fetch, self._clock))
        try:
            return keys.get_signing_key(key_id)
        except PyJWKClientError as error:
            detail = "The identity is signed with a key that its issuer does not have."
            raise Unauthenticated("identity-invalid", detail) from error
        except FAILURES as error:
            raise IssuerUnavailable(issuer, why(error)) from error

    def forget(self) -> None:
        with self._lock:
            self._held.clear()


ISSUER_KEYS = IssuerKeys()
