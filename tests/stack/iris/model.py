"""Serves the iris classifier in `model.onnx` beside this file, inside Triton's python backend."""

from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils

# The bad version ships another number here: it loads, and names the wrong kind of iris.
LABELS_OFF_BY = 0


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        flowers = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        label, probabilities = self._session.run(["label", "probabilities"], {"X": flowers})
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("label", (label + LABELS_OFF_BY) % 3),
                pb_utils.Tensor("probabilities", probabilities),
            ]
        )
