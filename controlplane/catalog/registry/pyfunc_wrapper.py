"""Goes into a version as its `model.py`: serves a model of MLflow's python flavor, which lies in
the folder `mlflow` beside it, by Triton's python backend. It runs at the site, where `mlflow` and
what the model needs must be installed for the backend. It must not import anything of Waypost."""

import json
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Inputs and outputs have the names and types of config.pbtxt; batches are as they come."""

    def initialize(self, args: dict[str, str]) -> None:
        import mlflow.pyfunc

        folder = os.path.join(args["model_repository"], args["model_version"], "mlflow")
        self._model = mlflow.pyfunc.load_model(folder)
        config = json.loads(args["model_config"])
        self._inputs = [entry["name"] for entry in config["input"]]
        batched = config["max_batch_size"] > 0  # then the first dimension stands in no `dims`
        self._outputs = [
            (
                entry["name"],
                pb_utils.triton_string_to_numpy(entry["data_type"]),
                [-1] * batched + [int(size) for size in entry["dims"]],
            )
            for entry in config["output"]
        ]
        kind = config["parameters"].get("waypost_inputs", {}).get("string_value", "")
        self._columns = kind == "columns"
        self._alone = kind == "array"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            given = {
                name: _decoded(pb_utils.get_input_tensor_by_name(request, name).as_numpy())
                for name in self._inputs
            }
            answer = self._model.predict(self._as_trained(given))
            tensors = [
                pb_utils.Tensor(name, _encoded(self._part(answer, number, name), dtype, dims))
                for number, (name, dtype, dims) in enumerate(self._outputs)
            ]
        except Exception as error:  # one bad request must not take the model down
            fault = pb_utils.TritonError(f"{type(error).__name__}: {error}")
            return pb_utils.InferenceResponse(output_tensors=[], error=fault)
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _as_trained(self, given: dict[str, Any]) -> Any:
        if self._alone:
            return next(iter(given.values()))
        if self._columns:
            import pandas

            return pandas.DataFrame({name: array.reshape(-1) for name, array in given.items()})
        return given

    def _part(self, answer: Any, number: int, name: str) -> Any:
        if isinstance(answer, dict):
            return answer[name]
        if hasattr(answer, "columns"):
            return answer[name] if name in answer.columns else answer.iloc[:, number]
        return answer[number] if isinstance(answer, tuple) else answer


def _decoded(array: Any) -> Any:
    if array.dtype != object:
        return array
    return np.array([x.decode() if isinstance(x, bytes) else x for x in array.reshape(-1)]).reshape(
        array.shape
    )


def _encoded(value: Any, dtype: Any, dims: list[int]) -> Any:
    array = np.asarray(value)
    if array.ndim == len(dims) - 1 and dims[-1] == 1:
        array = array[..., np.newaxis]  # a column: config.pbtxt has one value in each row of it
    if dtype == np.object_:
        texts = [str(x).encode() for x in array.reshape(-1)]
        return np.array(texts, dtype=np.object_).reshape(array.shape)
    return array.astype(dtype)
