"""Runs in the converter's own environment and process, never in the control plane's: it unpickles,
which runs the code of whoever wrote the model. Reads one JSON object from stdin, writes
`model.onnx` and `golden.json` where it is told, and answers with one JSON object on stdout.

What it makes is believed no more than an upload. Protocol: `conversion.py`."""

import json
import os
import sys
import warnings
from typing import Any

# Operators that every ONNX Runtime of the last years knows.
OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
MAX_ROWS = 8
ABSOLUTE, RELATIVE = 1e-4, 1e-3
_DATATYPES = {
    "tensor(float)": ("FP32", "float32"),
    "tensor(double)": ("FP64", "float64"),
    "tensor(float16)": ("FP16", "float16"),
    "tensor(int8)": ("INT8", "int8"),
    "tensor(int16)": ("INT16", "int16"),
    "tensor(int32)": ("INT32", "int32"),
    "tensor(int64)": ("INT64", "int64"),
    "tensor(uint8)": ("UINT8", "uint8"),
    "tensor(uint16)": ("UINT16", "uint16"),
    "tensor(uint32)": ("UINT32", "uint32"),
    "tensor(uint64)": ("UINT64", "uint64"),
    "tensor(bool)": ("BOOL", "bool"),
    "tensor(string)": ("BYTES", "str"),
}


class CannotConvert(Exception):
    """A sentence for the author of the model."""


def main() -> int:
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what a model prints as it loads is no answer
    warnings.simplefilter("ignore")
    asked = json.loads(sys.stdin.read(1 << 20))
    try:
        answer: dict[str, Any] = {"ok": True, **_convert(asked)}
    except CannotConvert as error:
        answer = {"ok": False, "error": str(error)}
    except MemoryError:
        answer = {"ok": False, "error": "it needs more memory than the converter may use"}
    except Exception as error:
        answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    os.write(answer_to, json.dumps(answer)[:60_000].encode())
    return 0


def _convert(asked: dict[str, Any]) -> dict[str, Any]:
    example = _read_example(asked.get("example"))
    graph = asked["graph"]
    original = None
    if asked["kind"] == "sklearn":
        original = _sklearn(asked, example, graph)
    elif asked["kind"] == "xgboost":
        original = _xgboost(asked, example, graph)
    if example is None:
        return {"golden": False}
    document, outputs = _golden(graph, example)
    if original is not None:
        _compare(original, example, outputs)
    with open(asked["golden"], "w", encoding="utf-8") as file:
        json.dump(document, file)
    return {"golden": True}


def _read_example(path: str | None) -> Any:
    """An array, or arrays by name: of tensors, or of a table's columns."""
    import numpy as np

    if not path:
        return None
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    if isinstance(found, dict) and {"columns", "data"} <= set(found):
        rows = found["data"][:MAX_ROWS]
        return {
            str(name): np.asarray([row[n] for row in rows]).reshape(-1, 1)
            for n, name in enumerate(found["columns"])
        }
    if isinstance(found, dict):
        return {str(name): np.asarray(value)[:MAX_ROWS] for name, value in found.items()}
    return np.asarray(found)[:MAX_ROWS]


def _sklearn(asked: dict[str, Any], example: Any, graph: str) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = _load_sklearn(asked)
    width = getattr(model, "n_features_in_", None) or _width(example)
    options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
    converted = convert_sklearn(
        model,
        name="model",  # else one by chance, and the same model had other bytes each time
        initial_types=[("input", FloatTensorType([None, int(width)]))],
        options=options,
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )
    _write(converted, graph)
    frame = hasattr(model, "feature_names_in_")

    def answer(array: Any) -> list[Any]:
        given = array
        if frame:
            import pandas

            given = pandas.DataFrame(array, columns=list(model.feature_names_in_))
        proba = [model.predict_proba(given)] if hasattr(model, "predict_proba") else []
        predicts = hasattr(model, "predict")
        return [model.predict(given) if predicts else model.transform(given), *proba]

    return answer


def _load_sklearn(asked: dict[str, Any]) -> Any:
    path, form = asked["model"], asked.get("format") or "pickle"
    if form == "skops":
        import skops.io

        unknown = skops.io.get_untrusted_types(file=path)
        trusted = set(asked.get("trusted") or ())
        if not set(unknown) <= trusted:
            names = ", ".join(sorted(set(unknown) - trusted)[:10])
            raise CannotConvert(
                f"it holds types that skops does not trust: {names}; name them in "
                "skops_trusted_types as it is logged"
            )
        return skops.io.load(path, trusted=sorted(unknown))
    import cloudpickle

    with open(path, "rb") as file:
        return cloudpickle.load(file)


def _xgboost(asked: dict[str, Any], example: Any, graph: str) -> Any:
    import xgboost
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    classes = {
        "XGBClassifier": xgboost.XGBClassifier,
        "XGBRegressor": xgboost.XGBRegressor,
        "XGBRanker": xgboost.XGBRanker,
        "Booster": xgboost.Booster,
    }
    name = str(asked.get("model_class") or "").rpartition(".")[2]
    if name not in classes:
        raise CannotConvert(
            f"it is a {name or 'model of no class'}; known are {', '.join(classes)}"
        )
    model = classes[name]()
    model.load_model(asked["model"])
    booster = model if name == "Booster" else model.get_booster()
    width = booster.num_features() or _width(example)
    booster.feature_names = None  # the converter knows no names but its own
    converted = convert_xgboost(
        model,
        name="model",
        initial_types=[("input", FloatTensorType([None, int(width)]))],
        target_opset=15,
    )
    _write(converted, graph)

    def answer(array: Any) -> list[Any]:
        if name == "Booster":
            return [model.predict(xgboost.DMatrix(array))]
        proba = [model.predict_proba(array)] if hasattr(model, "predict_proba") else []
        return [model.predict(array), *proba]

    return answer


def _write(converted: Any, graph: str) -> None:
    converted.ir_version = min(converted.ir_version, IR_VERSION)
    with open(graph, "wb") as file:
        file.write(converted.SerializeToString())


def _width(example: Any) -> int:
    if example is None:
        raise CannotConvert("the number of its inputs is known from nothing; log an input_example")
    return len(example) if isinstance(example, dict) else int(example.shape[-1])


def _golden(graph: str, example: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The golden document, and the outputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feeds = _feeds(session.get_inputs(), example)
    given = [
        {
            "name": entry.name,
            "datatype": _DATATYPES[entry.type][0],
            "shape": list(feeds[entry.name].shape),
            "data": _flat(feeds[entry.name]),
        }
        for entry in session.get_inputs()
    ]
    wanted = [entry for entry in session.get_outputs() if entry.type in _DATATYPES]
    if not wanted:
        raise CannotConvert("none of its outputs is a tensor")
    answers = session.run([entry.name for entry in wanted], feeds)
    told = []
    for entry, value in zip(wanted, answers, strict=True):
        datatype = _DATATYPES[entry.type][0]
        output: dict[str, Any] = {
            "name": entry.name,
            "datatype": datatype,
            "shape": list(value.shape),
            "data": _flat(value),
        }
        if datatype.startswith("FP"):
            output["tolerance"] = {"absolute": ABSOLUTE, "relative": RELATIVE}
        told.append(output)
    request = {"name": "input-example", "inputs": given, "outputs": told}
    outputs = {entry.name: value for entry, value in zip(wanted, answers, strict=True)}
    return {"schema": "waypost.golden/1", "requests": [request]}, outputs


def _feeds(inputs: Any, example: Any) -> dict[str, Any]:
    import numpy as np

    odd = [entry.name for entry in inputs if entry.type not in _DATATYPES]
    if odd:
        raise CannotConvert(f"its input {odd[0]} is no tensor")
    if isinstance(example, dict) and set(example) >= {entry.name for entry in inputs}:
        arrays = [example[entry.name] for entry in inputs]
    elif len(inputs) == 1:
        arrays = [_as_array(example)]
    else:
        names = ", ".join(entry.name for entry in inputs)
        raise CannotConvert(f"its input example does not name its inputs {names}")
    feeds = {}
    for entry, array in zip(inputs, arrays, strict=True):
        kind = _DATATYPES[entry.type][1]
        feeds[entry.name] = array.astype(object if kind == "str" else np.dtype(kind))
    return feeds


def _as_array(example: Any) -> Any:
    """A table as one array, row by row."""
    import numpy as np

    array = example
    if isinstance(example, dict):
        array = np.concatenate([np.atleast_2d(column) for column in example.values()], axis=1)
    if array.dtype.kind not in "bifuO" and array.dtype.kind not in "US":
        raise CannotConvert(f"its input example is of the type {array.dtype}")
    return array


def _compare(original: Any, example: Any, outputs: dict[str, Any]) -> None:
    """The ONNX model must answer as the model did that it was made from."""
    import numpy as np

    given = _as_array(example).astype(np.float32)
    for before, (name, after) in zip(original(given), outputs.items(), strict=False):
        before = np.asarray(before)
        if before.dtype.kind in "fc" and after.dtype.kind == "f":
            if before.size != after.size or not np.allclose(
                before.reshape(-1), after.reshape(-1), atol=ABSOLUTE, rtol=RELATIVE
            ):
                raise CannotConvert(f"as ONNX it answers otherwise (output {name})")
        elif [str(x) for x in before.reshape(-1)] != [str(x) for x in after.reshape(-1)]:
            raise CannotConvert(f"as ONNX it answers otherwise (output {name})")


def _flat(array: Any) -> list[Any]:
    import numpy as np

    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CannotConvert("its answers hold numbers that are not finite")
    return [str(x) if array.dtype.kind in "OUS" else x for x in array.reshape(-1).tolist()]


if __name__ == "__main__":
    sys.exit(main())
