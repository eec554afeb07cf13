"""The answers to one streamed request, put together as one: what a decoupled model gives.

Decides when an answer is whole and when it is too much. Knows neither channel nor clock; `take` is
called by a thread of the client.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from waypost_agent.ports import Answer, InferenceRefused
from waypost_agent.triton_tensors import tensor_of

MOST_RESPONSES = 4096
MOST_BYTES = 64 << 20
# Set on the last response of a request (Triton's gRPC protocol, "Decoupled Models").
_FINAL = "triton_final_response"


class Streamed:
    """`done` is set by the final response, or by the error that takes its place."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        self._results: list[Any] = []
        self._bytes = 0

    def take(self, result: Any, error: Exception | None) -> None:
        """One response, or why there is none. What comes after the end is passed over."""
        if self.done.is_set():
            return
        if error is not None:
            self._end(error)
            return
        response = result.get_response()
        if response.outputs:  # the final one may be empty
            self._results.append(result)
            self._bytes += response.ByteSize()
        if len(self._results) > MOST_RESPONSES or self._bytes > MOST_BYTES:
            self._end(
                InferenceRefused(
                    f"it answers on and on: {len(self._results)} responses of {self._bytes} bytes "
                    f"came, at most {MOST_RESPONSES} of {MOST_BYTES} are taken"
                )
            )
        elif _FINAL in response.parameters and response.parameters[_FINAL].bool_param:
            self.done.set()

    def _end(self, error: Exception) -> None:
        self.error = error
        self._results.clear()
        self.done.set()

    def answer(self, outputs: Sequence[str]) -> Answer:
        """All responses as one: of each output the values in their order, along the first axis.

        Raises `InferenceRefused` where there was none, or they do not fit together."""
        if not self._results:
            raise InferenceRefused("the model ended its answer without a single response")
        joined = {}
        for name in outputs:
            arrays = [each.as_numpy(name) for each in self._results]
            parts = [array for array in arrays if array is not None]
            try:
                if parts:
                    joined[name] = tensor_of(name, np.concatenate(parts))
            except ValueError as error:
                raise InferenceRefused(
                    f"the {len(parts)} responses do not fit together: output {name!r}: {error}"
                ) from error
        return Answer(version=self._results[0].get_response().model_version, outputs=joined)
