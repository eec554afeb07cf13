"""Asks the centre for leases, over HTTP and with the session that the link thread keeps.

Decides that whatever is neither a grant nor a refusal is no lease. Holds none itself.
"""

from __future__ import annotations

from collections.abc import Callable

from waypost_agent.centre import Centre, CentreProblem, CentreSilent
from waypost_agent.errors import LEASE_UNREACHABLE, WISH_SUPERSEDED, AnswerError, Retryable
from waypost_agent.protocol import LeaseGrant, LeaseQuestion, LeaseRefusal, parse_lease_answer

_LONGEST_RETRY_AFTER = 3600.0


class LeaseDesk:
    """`call_for_poll` is told when the centre answers that the wish is an old one."""

    def __init__(
        self,
        centre: Centre,
        *,
        token: Callable[[], str | None],
        reject_token: Callable[[str], None],
        call_for_poll: Callable[[], None],
    ) -> None:
        self._centre = centre
        self._token = token
        self._reject_token = reject_token
        self._call_for_poll = call_for_poll

    def ask_lease(self, question: LeaseQuestion) -> LeaseGrant | LeaseRefusal:
        token = self._token()
        if token is None:
            raise _no_answer("there is no session with the centre now")
        try:
            answer = self._centre.post("lease", question.document(), token=token)
            return parse_lease_answer(answer.body)
        except CentreSilent as error:
            after = min(error.retry_after_seconds or 0.0, _LONGEST_RETRY_AFTER)
            raise _no_answer(error.reason, after) from error
        except AnswerError as error:
            raise _no_answer(error.reason) from error
        except CentreProblem as error:
            if error.code == WISH_SUPERSEDED:
                self._call_for_poll()
                raise Retryable(
                    WISH_SUPERSEDED, f"the centre wishes something newer: {error.detail}"
                ) from error
            if error.status == 401:
                self._reject_token(token)
            raise _no_answer(str(error)) from error


def _no_answer(why: str, after_seconds: float = 0.0) -> Retryable:
    return Retryable(
        LEASE_UNREACHABLE,
        f"no lease, what serves goes on serving: {why}",
        after_seconds=after_seconds,
    )
