"""How this agent proves who it is to the centre: challenge, session, and a new key when asked for.

Decides which of two keys is tried, and that a change of the key never stands in the way of a
session. Keeps no session.
"""

from __future__ import annotations

import logging

from waypost_agent import protocol as p
from waypost_agent.centre import Centre, CentreProblem, CentreSilent
from waypost_agent.errors import AnswerError, ConfigError
from waypost_agent.identity import Identity
from waypost_agent.protocol import Session

_log = logging.getLogger(__name__)
_OTHER_KEY = "signature-invalid"


class Login:
    """`agent` is what the centre calls this agent."""

    def __init__(self, centre: Centre, identity: Identity, agent: str) -> None:
        self._centre = centre
        self._identity = identity
        self._agent = agent

    def open_session(self) -> Session:
        """A new session; the one before it is over. Raises `CentreSilent`, `CentreProblem`,
        `AnswerError`, `ConfigError`, `OSError`."""
        session = self._open()
        if session.rotate_by is None and not self._identity.has_next_key():
            return session
        try:
            self._rotate()
        except (CentreSilent, CentreProblem, AnswerError, ConfigError, OSError) as error:
            # Whether the centre took it, the next session shows; the old key is there until then.
            _log.warning("the key was not changed, again with the next session: %s", error)
            return session
        return self._adopt()

    def _open(self) -> Session:
        try:
            return self._ask(by_next_key=False)
        except CentreProblem as error:
            if error.code != _OTHER_KEY or not self._identity.has_next_key():
                raise
        # The centre took the next key and its answer was lost, or this process ended then.
        return self._adopt()

    def _adopt(self) -> Session:
        session = self._ask(by_next_key=True)
        self._identity.adopt_next_key()
        _log.info("the key of this agent is a new one")
        return session

    def _ask(self, *, by_next_key: bool) -> Session:
        nonce = self._nonce()
        counter = self._identity.next_session_counter()
        signature = self._identity.sign_session(
            self._agent, nonce, counter, by_next_key=by_next_key
        )
        answer = self._centre.post(
            "session",
            {
                "agent": self._agent,
                "nonce": nonce,
                "session_counter": counter,
                "signature": signature,
            },
        )
        session = p.parse_session(answer.body)
        if session.session_counter != counter:
            raise AnswerError(
                f"the session is for counter {session.session_counter}, asked was {counter}"
            )
        return session

    def _rotate(self) -> None:
        nonce = self._nonce()
        rotation = self._identity.sign_rotation(self._agent, nonce)
        answer = self._centre.post(
            "rotate-key", {"agent": self._agent, "nonce": nonce, **vars(rotation)}
        )
        known = p.parse_rotation(answer.body)
        if known != rotation.public_key:
            raise AnswerError(f"the centre knows the key {known}, sent was {rotation.public_key}")

    def _nonce(self) -> str:
        answer = self._centre.post("challenge", {"agent": self._agent})
        return p.parse_challenge(answer.body).nonce
