"""The leases this agent holds: leave of the centre to begin with a version.

Decides how long a lease may still begin and when one is over. In memory only: a restart voids them
all, and the agent asks again. What needs a lease, `decide` says.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Protocol

from waypost_agent import situation as sit
from waypost_agent.clock import Clock
from waypost_agent.errors import LeaseRefused
from waypost_agent.protocol import LeaseGrant, LeaseQuestion, LeaseRefusal, Moment

_log = logging.getLogger(__name__)


class LeaseSource(Protocol):
    """Who says when a site may begin with a version."""

    def ask_lease(self, question: LeaseQuestion) -> LeaseGrant | LeaseRefusal:
        """Safe to repeat. Raises `Retryable` when there is no answer."""
        ...


# Nothing begins in the last seconds of a lease: a report made right after its end must not be able
# to say "not begun" of a step that begins at that moment and is not on the board yet.
_TELL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A lease and the moment (CLOCK_BOOTTIME, seconds) from which it can no longer begin."""

    lease: sit.Lease
    begin_before: float
    begun: bool = False


class Leases:
    """At most one lease per model."""

    def __init__(self, source: LeaseSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._held: dict[str, _Held] = {}

    def held_for(self, wish: sit.Wish) -> sit.Lease | None:
        """The lease under which a step of this wish may begin now, or has begun."""
        held = self._held.get(wish.model)
        if held is None or not held.lease.covers(wish):
            return None
        return held.lease if held.begun or self._clock.boottime() < held.begin_before else None

    def ask(self, wish: sit.Wish, target: sit.Target, deployment: int | None) -> None:
        """Ask for one and hold it. Raises `LeaseRefused`, or `Retryable` without an answer."""
        # Read before the question goes out: the centre starts counting no earlier, so here the
        # time is over first, however long the answer takes.
        asked_at = self._clock.boottime()
        answer = self._source.ask_lease(
            LeaseQuestion(
                model=wish.model,
                generation=wish.generation,
                epoch=wish.epoch,
                deployment=deployment,
                manifest_digest=target.digest,
                asked=Moment(boot_id=self._clock.boot_id(), uptime_seconds=asked_at),
            )
        )
        if isinstance(answer, LeaseRefusal):
            raise LeaseRefused(
                answer.reason_code, answer.reason, retry_seconds=answer.retry_seconds
            )
        lease = sit.Lease(
            number=answer.lease, epoch=wish.epoch, generation=wish.generation, target=target
        )
        begin_before = asked_at + answer.begin_within_seconds - _TELL_SECONDS
        self._held[wish.model] = _Held(lease=lease, begin_before=begin_before)
        _log.info("lease %d for version %s of %s", lease.number, target.version, wish.model)

    def begin(self, wish: sit.Wish) -> bool:
        """Begin under the lease, or go on under it; False when there is none any more."""
        if self.held_for(wish) is None:
            return False
        self._held[wish.model] = replace(self._held[wish.model], begun=True)
        return True

    def settle(self, model: str) -> None:
        """The outcome is there; whatever comes next asks anew."""
        self._held.pop(model, None)
