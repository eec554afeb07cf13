"""Brings waiting measurements to the centre, a few at a time, and never in the way of the rest.

Decides how many go at once, how long to wait after an error and which will never be taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from waypost_agent.centre import CentreAnswer, CentreProblem, CentreSilent
from waypost_agent.clock import Clock
from waypost_agent.errors import AnswerError
from waypost_agent.measurement_queue import MeasurementQueue
from waypost_agent.protocol import parse_measurement_answer

_log = logging.getLogger(__name__)

Post = Callable[[Mapping[str, Any]], CentreAnswer]

AT_ONCE = 5
# A day that waited is told within the hour, and a fleet brings it in no rush.
PAUSE_SECONDS = 5.0
FIRST_RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 3600.0
# What is wrong with one measurement, and not with the talk.
_POISON = frozenset({"invalid-request", "report-too-large", "measurement-too-old"})


class Deliveries:
    def __init__(
        self, queue: MeasurementQueue, clock: Clock, uniform: Callable[[float, float], float]
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._uniform = uniform
        self._not_before = 0.0
        self._failures = 0

    def due_at(self) -> float:
        """When there is something to bring, by the monotonic clock."""
        return self._not_before if len(self._queue) > 0 else math.inf

    def send(self, post: Post) -> None:
        """Bring some. Raises nothing: what went wrong is logged and tried again later."""
        try:
            for _ in range(AT_ONCE):
                if not self._send_one(post):
                    return
        except CentreSilent as error:
            self._put_off(error.reason, error.retry_after_seconds)
        except (CentreProblem, AnswerError, OSError) as error:
            self._put_off(str(error), None)
        else:
            self._not_before = self._clock.monotonic() + self._uniform(0.8, 1.2) * PAUSE_SECONDS

    def _send_one(self, post: Post) -> bool:
        """Whether there was one."""
        waiting = self._queue.first()
        if waiting is None:
            return False
        name, interval = waiting
        try:
            parse_measurement_answer(post(interval).body, seq=interval["seq"])
        except CentreProblem as error:
            if error.code not in _POISON:
                raise
            _log.error("the centre will never take a measurement: %s", error)
            self._queue.drop(name)
        else:
            self._queue.take(name, dropped=interval["dropped"])
        self._failures = 0
        return True

    def _put_off(self, reason: str, retry_after: float | None) -> None:
        self._failures += 1
        longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 10))
        least = min(retry_after or 0.0, LONGEST_RETRY_SECONDS)
        seconds = least + self._uniform(0.5, 1.0) * longest
        self._not_before = self._clock.monotonic() + seconds
        _log.info("measurements wait %.0f s longer: %s", seconds, reason)
