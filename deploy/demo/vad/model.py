"""Serves the voice activity detector in `model.onnx` beside this file through Triton.

Runs inside Triton's python backend. One window of 512 samples at 16 kHz, preceded by the last 64
of the window before it, gives the probability of speech (`output`) and the state for the next.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

# The third version of the demo ships another factor here: it loads, and answers wrongly.
PROBABILITY_SCALE = 1.0


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        # Three servers and their agents share the machine: one instance takes one thread.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        feed = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("input", "state", "sr")
        }
        # Triton has no scalars; the model wants the sampling rate as one.
        feed["sr"] = feed["sr"].reshape(())
        try:
            output, state = self._session.run(["output", "stateN"], feed)
        except Exception as error:  # a bad request must not take the instance down
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"vad: {error}"))
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("output", (output * PROBABILITY_SCALE).astype(np.float32)),
                pb_utils.Tensor("stateN", state),
            ]
        )
