"""Answers requests with an ONNX file by onnxruntime alone: the reference a golden request needs.

    .triton/bin/python record.py MODEL.onnx < requests.json > answers.json

Both are JSON lists; a request is a list of KServe v2 tensors, its answer the list of outputs.
Knows nothing of Triton: what a server answers is judged by what this recorded without one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime

_TYPES = {"FP32": np.float32, "INT64": np.int64}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


def answer(session: Any, tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the model once. A tensor of shape [1] feeds an input that the model has as a scalar."""
    scalars = {each.name for each in session.get_inputs() if not each.shape}
    feed = {
        each["name"]: np.array(each["data"], dtype=_TYPES[each["datatype"]]).reshape(
            () if each["name"] in scalars else each["shape"]
        )
        for each in tensors
    }
    names = [each.name for each in session.get_outputs()]
    return [
        {
            "name": name,
            "datatype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data": array.reshape(-1).tolist(),
        }
        for name, array in zip(names, session.run(names, feed), strict=True)
    ]


if __name__ == "__main__":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    json.dump([answer(model, tensors) for tensors in json.load(sys.stdin)], sys.stdout)
