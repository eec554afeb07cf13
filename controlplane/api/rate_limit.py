"""How often one caller may ask: a bucket of tokens for each, refilled at a steady rate.

The buckets live in this process: with several web processes a caller has the sum of their limits.
That is enough to keep one runaway script from slowing everybody, and needs no shared cache; it is
no quota to bill by. Whoever has a token sends the bytes of files uncounted, and nothing else. A
call that waits for news is counted before it waits.

Headers: draft-ietf-httpapi-ratelimit-headers-10 (`RateLimit-Policy`, `RateLimit`)."""

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest

from controlplane.accounts.models import ApiToken
from controlplane.domain.errors import WaypostError

MAX_CALLERS = 10_000
_POLICY = "caller"
_BLOB = re.compile(r"/api/v1/models/[^/]+/versions/\d+/blobs/[0-9a-f]{64}", re.ASCII)
# In the ASGI scope of a request that was counted already: the headers to answer with.
COUNTED = "waypost.counted"


class TooManyRequests(WaypostError):
    """The caller asks more often than it may; `retry_after` is in whole seconds, `headers` say how
    it stands."""

    def __init__(
        self, *, rate: float, burst: int, retry_after: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(
            "too-many-requests",
            f"This caller may ask {burst} times at once and {rate:g} times a second; "
            f"wait {retry_after} s.",
            extra={"retry_after": retry_after},
        )
        self.headers = {**headers, "Retry-After": str(retry_after)}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is left of a bucket; `full_in` seconds until it is full again."""

    allowed: bool
    remaining: int
    full_in: float
    next_in: float


class Buckets:
    """One bucket per caller; those that nobody used for longest are forgotten first, full."""

    def __init__(self, *, most: int = MAX_CALLERS) -> None:
        self._most = most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, caller: str, *, rate: float, burst: int, now: float) -> Verdict:
        """`rate` in requests per second, `now` on a clock that only rises, in seconds."""
        with self._lock:
            left, then = self._held.pop(caller, (float(burst), now))
            left = min(float(burst), left + max(0.0, now - then) * rate)
            allowed = left >= 1
            if allowed:
                left -= 1
            self._held[caller] = (left, now)
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return Verdict(
            allowed=allowed,
            remaining=int(left),
            full_in=(burst - left) / rate,
            next_in=max(0.0, 1 - left) / rate,
        )

    def clear(self) -> None:
        with self._lock:
            self._held.clear()


BUCKETS = Buckets()


def count_request(request: HttpRequest, token: ApiToken | None) -> dict[str, str]:
    """The headers to answer with. Raises `TooManyRequests`, which holds them as well."""
    counted: dict[str, str] | None = getattr(request, "scope", {}).get(COUNTED)
    if counted is not None:
        return counted
    if token and request.method in ("PUT", "HEAD") and _BLOB.fullmatch(request.path_info):
        return {}
    # Whoever proves nothing is counted by address: made-up tokens must not each be a new caller.
    caller = token.digest if token else f"address {request.META.get('REMOTE_ADDR', '')}"
    return count_call(caller)


def count_call(caller: str) -> dict[str, str]:
    """As `count_request`, by the caller's name: the digest of its token."""
    rate, burst = float(settings.WAYPOST_API_RATE), int(settings.WAYPOST_API_BURST)
    if not rate:
        return {}
    verdict = BUCKETS.take(caller, rate=rate, burst=burst, now=time.monotonic())
    headers = {
        "RateLimit-Policy": f'"{_POLICY}";q={burst};w={max(1, math.ceil(burst / rate))}',
        "RateLimit": f'"{_POLICY}";r={verdict.remaining};t={math.ceil(verdict.full_in)}',
    }
    if not verdict.allowed:
        wait = max(1, math.ceil(verdict.next_in))
        raise TooManyRequests(rate=rate, burst=burst, retry_after=wait, headers=headers)
    return headers
