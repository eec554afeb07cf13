"""The wrapper that goes into versions made from MLflow's python flavor, over small stand-ins for
what Triton's python backend and MLflow bring at a site."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import controlplane.catalog.registry as registry
from controlplane.catalog.registry.mlmodel import Signature, TensorSpec
from controlplane.catalog.registry.triton_config import pyfunc_config

WRAPPER = Path(registry.__file__).with_name("pyfunc_wrapper.py")
Predict = Callable[[Any], Any]


class Tensor:
    """As `pb_utils.Tensor`."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


def stand_in(predict: Predict, loaded: list[str]) -> dict[str, ModuleType]:
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor = Tensor  # type: ignore[attr-defined]  # a module made by hand
    utils.TritonError = str  # type: ignore[attr-defined]
    utils.InferenceResponse = SimpleNamespace  # type: ignore[attr-defined]
    utils.get_input_tensor_by_name = lambda request, name: request[name]  # type: ignore[attr-defined]
    types = {"TYPE_FP32": np.float32, "TYPE_STRING": np.object_, "TYPE_INT64": np.int64}
    utils.triton_string_to_numpy = types.__getitem__  # type: ignore[attr-defined]
    mlflow, pyfunc = ModuleType("mlflow"), ModuleType("mlflow.pyfunc")

    def load_model(folder: str) -> Any:
        loaded.append(folder)
        return SimpleNamespace(predict=predict)

    pyfunc.load_model = load_model  # type: ignore[attr-defined]
    mlflow.pyfunc = pyfunc  # type: ignore[attr-defined]
    return {"triton_python_backend_utils": utils, "mlflow": mlflow, "mlflow.pyfunc": pyfunc}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Loads the wrapper as the backend does, and asks it once."""

    def run(
        predict: Predict,
        form: str,
        inputs: Any,
        outputs: Any,
        *,
        dims: tuple[int, ...] = (-1,),
        max_batch_size: int = 0,
        **given: Any,
    ) -> Any:
        loaded: list[str] = []
        for name, module in stand_in(predict, loaded).items():
            monkeypatch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("model", WRAPPER)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = {
            "max_batch_size": max_batch_size,
            "input": [{"name": name} for name in inputs],
            "output": [
                {"name": name, "data_type": kind, "dims": dims} for name, kind in outputs.items()
            ],
            "parameters": {"waypost_inputs": {"string_value": form}},
        }
        model = module.TritonPythonModel()
        arguments = {"model_repository": "/repo/m", "model_version": "3"}
        model.initialize({**arguments, "model_config": json.dumps(config)})
        assert loaded == ["/repo/m/3/mlflow"]
        request = {name: Tensor(name, array) for name, array in given.items()}
        return model.execute([request])[0]

    return run


def test_an_unnamed_array_goes_in_as_it_is(serve: Callable[..., Any]) -> None:
    array = np.ones((2, 3), np.float32)
    answer = serve(
        lambda x: x.sum(axis=1), "array", ["input_0"], {"output_0": "TYPE_FP32"}, input_0=array
    )
    assert answer.output_tensors[0].array.tolist() == [3.0, 3.0]
    assert answer.output_tensors[0].array.dtype == np.float32


def test_named_tensors_go_in_and_come_out_by_name(serve: Callable[..., Any]) -> None:
    given = {"a": np.array([1, 2]), "b": np.array([b"x", b"y"], dtype=object)}
    answer = serve(
        lambda x: {"n": x["a"] * 2, "t": list(x["b"])},
        "tensors",
        ["a", "b"],
        {"t": "TYPE_STRING", "n": "TYPE_INT64"},
        **given,
    )
    text, number = answer.output_tensors
    assert text.array.tolist() == [b"x", b"y"]
    assert number.array.tolist() == [2, 4]


@pytest.mark.parametrize(("dims", "max_batch_size"), [((-1, 1), 0), ((1,), 8)])
def test_a_column_comes_out_in_the_shape_that_its_configuration_says(
    dims: tuple[int, ...], max_batch_size: int, serve: Callable[..., Any]
) -> None:
    """As seen of a table of pandas: its columns are flat."""
    answer = serve(
        lambda x: {"n": x["a"].reshape(-1) * 2, "t": ["x", "y"]},
        "tensors",
        ["a"],
        {"n": "TYPE_FP32", "t": "TYPE_STRING"},
        dims=dims,
        max_batch_size=max_batch_size,
        a=np.ones((2, 1), np.float32),
    )
    number, text = answer.output_tensors
    assert number.array.tolist() == [[2.0], [2.0]]
    assert text.array.tolist() == [[b"x"], [b"y"]]


def test_one_bad_request_is_answered_by_an_error(serve: Callable[..., Any]) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no such colour")

    answer = serve(fail, "array", ["x"], {"y": "TYPE_FP32"}, x=np.ones(1))
    assert answer.error == "ValueError: no such colour"
    assert answer.output_tensors == []


def test_its_configuration_names_what_the_wrapper_looks_for() -> None:
    unnamed = TensorSpec(name="", dtype="float32", shape=(-1, 4))
    text = pyfunc_config(Signature(inputs=(unnamed,), outputs=(unnamed,)))
    assert 'input { name: "input_0"' in text
    assert 'output { name: "output_0"' in text
    assert 'key: "waypost_inputs" value { string_value: "array" }' in text
