"""The thread that talks to the centre: session, polls, reports; never touches disk or server
of models.

Decides when to speak and how long to be silent after an error. The centre's silence changes
nothing here but the time of the next attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from waypost_agent import protocol as p
from waypost_agent.board import Board, Refusal, Snapshot
from waypost_agent.centre import Centre, CentreAnswer, CentreProblem, CentreSilent
from waypost_agent.clock import Clock
from waypost_agent.config import Timeouts
from waypost_agent.deliveries import Deliveries
from waypost_agent.errors import SERVER_BEHIND, AnswerError, ConfigError
from waypost_agent.identity import Identity, Membership
from waypost_agent.login import Login
from waypost_agent.protocol import Desired, ModelReport, Session
from waypost_agent.report_body import is_settled, report_body

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_INVENTORY_SECONDS = 300.0  # after which it is looked at again, and told where it changed
_FULL_REPORT_SECONDS = 900.0  # after which it is told in any case
# What changes at each look, and is of no hurry.
_DRIFTING = frozenset({"disk_free_bytes", "network"})
_LONGEST_RETRY_AFTER = 3600.0
_SHORTEST_PAUSE_SECONDS = 0.1
_AFTER_POLL_SECONDS = 1.0  # a report is due so soon after a poll that does not stand for it
# A session that ends sooner is refused by the centre, and then renewed.
_SHORTEST_SESSION_SECONDS = 30.0
# Nothing but a person changes these.
_LOCKED_OUT = frozenset(
    {"agent-revoked", "agent-locked", "session-counter-stale", "protocol-unsupported"}
)
_LOCKED_OUT_SECONDS = 600.0


class Link:
    """One thread's worth of conversation. `uniform(a, b)` gives a random number between."""

    def __init__(
        self,
        centre: Centre,
        identity: Identity,
        membership: Membership,
        board: Board,
        *,
        inventory: Callable[[], dict[str, Any]],
        clock: Clock,
        uniform: Callable[[float, float], float],
        timeouts: Timeouts,
        deliveries: Deliveries | None = None,
    ) -> None:
        self._centre = centre
        self._login = Login(centre, identity, membership.agent)
        self._membership = membership
        self._board = board
        self._inventory = inventory
        self._clock = clock
        self._uniform = uniform
        self._timeouts = timeouts
        self._deliveries = deliveries
        self._stopping = False
        self._session: Session | None = None
        self._renew_at = 0.0
        self._seq = 0
        self._poll_seconds = max(membership.poll_seconds, timeouts.poll_shortest_seconds)
        self._poll_at = 0.0
        self._report_at = 0.0
        self._inventory_at = 0.0
        self._full_report_at = 0.0
        self._told_inventory: dict[str, Any] = {}
        self._told_servers: object = None
        self._takes_compressed = False
        self._silent_until = 0.0
        self._failures = 0
        self._reported_changes = -1
        self._taken_seq: int | None = None  # of the last report, once the centre took it

    def stop(self) -> None:
        """Ask `run` to end. May be called by a signal handler: takes no lock."""
        self._stopping = True

    def run(self) -> None:
        """Poll and report until asked to stop."""
        while not self._stopping:
            until = self._clock.monotonic() + self.step()
            while not self._stopping and not self._has_cause():
                left = until - self._clock.monotonic()
                if left <= 0:
                    break
                self._board.wait_until(self._has_cause, min(left, 0.5))

    def step(self) -> float:
        """Do whatever is due; returns the seconds until something is due again."""
        now = self._clock.monotonic()
        if now < self._silent_until:
            return self._silent_until - now
        try:
            self._talk(now)
        except CentreSilent as error:
            self._back_off(error.reason, error.retry_after_seconds)
        except CentreProblem as error:
            self._back_off(str(error), self._lock_out_seconds(error))
        except AnswerError as error:
            self._board.refuse(Refusal(code=error.code, reason=error.reason))
            self._back_off(f"an answer was refused: {error.reason}", None)
        except (OSError, ConfigError) as error:
            # The counter cannot be written (a full disk): without it no session may be asked for.
            self._back_off(f"the agent's own state: {error}", None)
        else:
            self._failures = 0
        now = self._clock.monotonic()
        due = max(self._silent_until, min(self._poll_at, self._report_at, self._renew_at))
        if self._deliveries is not None:
            due = max(self._silent_until, min(due, self._deliveries.due_at()))
        return max(due - now, _SHORTEST_PAUSE_SECONDS)

    def poll_and_report(self) -> None:
        """One poll and one report now. Raises what went wrong (`CentreSilent` and others)."""
        self._ensure_session()
        self._poll()
        self._report()

    def poll(self) -> None:
        """One poll now. Raises what went wrong."""
        self._ensure_session()
        self._poll()

    def report(self) -> None:
        """One report now. Raises what went wrong."""
        self._ensure_session()
        self._report()

    def _talk(self, now: float) -> None:
        self._ensure_session()
        if self._board.take_poll_call():
            self._poll_at = now  # and stays due when this poll is not answered
        if now >= self._poll_at:
            self._poll()
        snapshot = self._board.snapshot()
        if snapshot.changes != self._reported_changes or now >= self._report_at:
            self._report()
        if self._deliveries is not None and now >= self._deliveries.due_at():
            self._deliveries.send(self._send_measurement)

    def _send_measurement(self, interval: Mapping[str, Any]) -> CentreAnswer:
        answer = self._authorised(
            lambda session: self._centre.post_compressed(
                "measurements", interval, token=session.token
            )
        )
        # A centre that unpacks one body unpacks any; older ones know no measurements.
        self._takes_compressed = True
        return answer

    def _has_cause(self) -> bool:
        """Whether something on the board is worth a call of the centre before the time."""
        if self._clock.monotonic() < self._silent_until:
            return False
        if self._session is not None and self._board.is_rejected(self._session.token):
            return True
        if self._board.is_poll_called():
            return True
        return self._board.snapshot().changes != self._reported_changes

    def _back_off(self, reason: str, wait_seconds: float | None) -> None:
        self._failures += 1
        if wait_seconds is None:
            longest = min(
                self._timeouts.link_retry_longest_seconds,
                self._timeouts.retry_first_seconds * 2 ** min(self._failures - 1, 20),
            )
            # Full jitter: after an outage a fleet must not return in step.
            seconds = self._uniform(0, longest)
        else:
            obeyed = min(wait_seconds, _LONGEST_RETRY_AFTER)
            seconds = obeyed + self._uniform(0, 0.2 * obeyed)
        seconds = max(seconds, _SHORTEST_PAUSE_SECONDS)
        self._silent_until = self._clock.monotonic() + seconds
        _log.warning("%s; serving goes on, again in %.1f s", reason, seconds)

    def _lock_out_seconds(self, error: CentreProblem) -> float | None:
        locked = error.code in _LOCKED_OUT
        return _LOCKED_OUT_SECONDS if locked else None

    # Session

    def _ensure_session(self) -> Session:
        now = self._clock.monotonic()
        session = self._session
        rejected = session is not None and self._board.is_rejected(session.token)
        if session is not None and not rejected and now < self._renew_at:
            return session
        return self._log_in()

    def _log_in(self) -> Session:
        session = self._login.open_session()
        self._session, self._seq, self._taken_seq = session, 0, None
        share = self._uniform(0.5, 0.8)
        lifetime = max(share * session.expires_seconds, _SHORTEST_SESSION_SECONDS)
        self._renew_at = self._clock.monotonic() + lifetime
        self._inventory_at = self._full_report_at = 0.0
        self._takes_compressed = False  # it may be another centre by now
        self._board.set_token(session.token)
        _log.info("session %d with the centre", session.session_counter)
        return session

    def _authorised(self, ask: Callable[[Session], _Result]) -> _Result:
        """Ask with the session; once more with a new one when the centre no longer knows it."""
        try:
            return ask(self._ensure_session())
        except CentreProblem as error:
            if error.status != 401:
                raise
        self._session = None
        self._board.set_token(None)
        return ask(self._log_in())

    # Desired state

    def _poll(self) -> None:
        held = self._board.desired()
        headers = {} if held is None else {"If-None-Match": held.etag}
        if holds := self._holding():
            headers["Waypost-Holds"] = holds
        answer = self._authorised(
            lambda session: self._centre.get("desired", token=session.token, headers=headers)
        )
        self._schedule_poll(answer)
        if answer.status == 304:
            if held is None:
                raise AnswerError("304 to a question without If-None-Match")
            if holds and answer.headers.get("Waypost-Held") == holds:
                self._report_at = self._poll_at + _AFTER_POLL_SECONDS
            self._board.refuse(None)
            return
        try:
            desired = p.parse_desired(answer.body)
        except AnswerError as error:
            self._refuse(error)
            return
        self._consider(desired, held)

    def _holding(self) -> str | None:
        """The number of the last report where it still says all there is to say: the poll stands
        for it then. A model under way is always told anew, since leases are freed by such words."""
        snapshot = self._board.snapshot()
        if (
            self._taken_seq is None
            or snapshot.changes != self._reported_changes
            or not is_settled(snapshot)
            or self._has_inventory_news(snapshot)
        ):
            return None
        return str(self._taken_seq)

    def _has_inventory_news(self, snapshot: Snapshot) -> bool:
        now = self._clock.monotonic()
        if now < self._inventory_at and snapshot.servers == self._told_servers:
            return False
        if now < self._full_report_at and _lasting(self._inventory()) == self._told_inventory:
            self._inventory_at, self._told_servers = now + _INVENTORY_SECONDS, snapshot.servers
            return False
        return True

    def _schedule_poll(self, answer: CentreAnswer) -> None:
        told = p.parse_poll_seconds(answer.headers.get("Waypost-Poll-Seconds"))
        self._poll_seconds = max(told, self._timeouts.poll_shortest_seconds)
        jitter = self._uniform(0.8, 1.2)
        self._poll_at = self._clock.monotonic() + self._poll_seconds * jitter

    def _consider(self, desired: Desired, held: Desired | None) -> None:
        if desired.site != self._membership.site:
            self._refuse(
                AnswerError(
                    f"the wishes are for the site {desired.site!r}, "
                    f"this is {self._membership.site!r}"
                )
            )
        elif held is None or desired.pair > held.pair:
            self._board.offer(desired)
        elif desired.pair < held.pair:
            self._refuse(
                AnswerError(
                    f"the centre is at generation {desired.pair[1]} of epoch {desired.pair[0]}, "
                    f"this site holds {held.pair[1]} of {held.pair[0]}; was it restored?",
                    code=SERVER_BEHIND,
                )
            )
        elif desired.document != held.document:
            self._refuse(AnswerError("the wishes changed without a new generation"))
        else:
            self._board.refuse(None)

    def _refuse(self, error: AnswerError) -> None:
        """Keep what is held; say why, where a report can carry it."""
        _log.error("the desired state was refused: %s", error.reason)
        report = None
        if error.wish is not None:
            model, _, generation, deployment, version = error.wish
            report = ModelReport(
                model=model,
                generation=generation,
                deployment=deployment,
                target=version,
                phase=p.FAILED,
                serving=None,
                healthy=None,
                reason_code=error.code,
                reason=error.reason,
            )
        self._board.refuse(Refusal(code=error.code, reason=error.reason, report=report))

    # Reports

    def _report(self) -> None:
        # Read before the board is: what the report says was still so at this moment, or came later.
        made = p.Moment(boot_id=self._clock.boot_id(), uptime_seconds=self._clock.boottime())
        snapshot = self._board.snapshot()
        now = self._clock.monotonic()
        inventory = self._inventory() if self._has_inventory_news(snapshot) else None

        def send(session: Session) -> CentreAnswer:
            self._seq += 1
            document = report_body(
                snapshot,
                seq=self._seq,
                sent_at=self._clock.utc_text(),
                made=made,
                inventory=inventory,
            )
            if self._takes_compressed:
                return self._centre.post_compressed("report", document, token=session.token)
            return self._centre.post("report", document, token=session.token)

        self._report_at = now + self._poll_seconds * self._uniform(0.8, 1.2)
        self._taken_seq = None
        try:
            answer = p.parse_report_answer(self._authorised(send).body)
        except CentreProblem as error:
            if error.status in (401, 403):
                raise
            # This report will never be taken; the next one may be.
            _log.error("the centre refused a report: %s", error)
            self._reported_changes = snapshot.changes
            if error.code == "generation-unknown":
                self._poll_at = now
            return
        self._reported_changes = snapshot.changes
        if not answer.duplicate and not answer.superseded:
            self._taken_seq = self._seq
        if inventory is not None:
            self._told_inventory, self._told_servers = _lasting(inventory), snapshot.servers
            self._inventory_at = now + _INVENTORY_SECONDS
            self._full_report_at = now + _FULL_REPORT_SECONDS
        held = self._board.desired()
        newer = held is None or (answer.epoch, answer.generation) > held.pair
        if answer.superseded or (newer and answer.generation > 0 and not snapshot.refusal):
            self._poll_at = now


def _lasting(inventory: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inventory.items() if key not in _DRIFTING}
