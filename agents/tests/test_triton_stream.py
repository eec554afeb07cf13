"""The responses of a decoupled model, put together; with the client's own messages, no server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tritonclient.grpc import InferResult, service_pb2

from waypost_agent import triton_stream
from waypost_agent.ports import InferenceRefused, Tensor
from waypost_agent.triton_stream import Streamed


def response(*values: float, final: bool | None = None, shape: Sequence[int] = ()) -> InferResult:
    """One with the output y; without values an empty one."""
    message = service_pb2.ModelInferResponse(model_name="m", model_version="3")
    if values:
        data = np.array(values, dtype=np.float32)
        message.outputs.add(name="y", datatype="FP32", shape=shape or data.shape)
        message.raw_output_contents.append(data.tobytes())
    if final is not None:
        message.parameters["triton_final_response"].bool_param = final
    return InferResult(message)


def told(*results: InferResult) -> Streamed:
    streamed = Streamed()
    for result in results:
        streamed.take(result, None)
    return streamed


def test_responses_are_laid_together_along_the_first_axis_in_their_order() -> None:
    streamed = told(response(1, final=False), response(2, 3, final=False), response(final=True))
    assert streamed.done.is_set()
    answer = streamed.answer(["y", "other"])
    assert answer.version == "3"
    y = Tensor(name="y", datatype="FP32", shape=(3,), values=(1.0, 2.0, 3.0))
    assert answer.outputs == {"y": y}


def test_the_last_response_may_hold_values() -> None:
    streamed = told(response(1, 2, shape=[1, 2]), response(3, 4, shape=[1, 2], final=True))
    y = streamed.answer(["y"]).outputs["y"]
    assert (y.shape, y.values) == ((2, 2), (1.0, 2.0, 3.0, 4.0))


def test_it_is_not_done_before_the_last_response() -> None:
    assert not told(response(1), response(2, final=False)).done.is_set()


def test_no_response_at_all_is_refused() -> None:
    with pytest.raises(InferenceRefused, match="without a single response"):
        told(response(final=True)).answer(["y"])


def test_responses_that_do_not_fit_together_are_refused() -> None:
    streamed = told(response(1), response(2, shape=[1, 1]), response(final=True))
    with pytest.raises(InferenceRefused, match="do not fit together: output 'y'"):
        streamed.answer(["y"])


ONE_BYTES = response(1).get_response().ByteSize()


@pytest.mark.parametrize(("bound", "value"), [("MOST_RESPONSES", 2), ("MOST_BYTES", 2 * ONE_BYTES)])
def test_a_model_that_answers_on_and_on_is_refused_and_held_no_longer(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(triton_stream, bound, value)
    streamed = told(*[response(1)] * 9)
    assert streamed.done.is_set()
    assert isinstance(streamed.error, InferenceRefused)
    assert f"3 responses of {3 * ONE_BYTES} bytes" in str(streamed.error)
    with pytest.raises(InferenceRefused):
        streamed.answer(["y"])


def test_an_error_ends_it_and_what_follows_is_passed_over() -> None:
    streamed, error = told(response(1)), OSError("gone")
    streamed.take(None, error)
    streamed.take(response(2, final=True), None)
    assert streamed.done.is_set()
    assert streamed.error is error
