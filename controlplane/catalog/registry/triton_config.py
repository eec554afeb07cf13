"""A `config.pbtxt` from the signature that MLflow keeps with a model, for flavors whose files do
not say themselves what goes in and comes out. Values in, values out.

Types by Triton's model configuration (docs/user_guide/model_configuration, "Datatypes")."""

import json
import re

from controlplane.catalog.registry import Refused
from controlplane.catalog.registry.mlmodel import Signature, TensorSpec

_TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "str": "TYPE_STRING",
    "object": "TYPE_STRING",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/ -]{0,199}")
_CURE = (
    "Log the model with a signature (infer_signature of its inputs and outputs), or add a "
    "config.pbtxt to extra_files."
)


def torchscript_config(signature: Signature | None) -> str:
    """libtorch knows its tensors by their place alone: `INPUT__0`, `OUTPUT__0`."""
    signature = _whole(signature)
    return _config(
        "pytorch",
        [(f"INPUT__{n}", spec) for n, spec in enumerate(signature.inputs)],
        [(f"OUTPUT__{n}", spec) for n, spec in enumerate(signature.outputs)],
    )


def pyfunc_config(signature: Signature | None) -> str:
    """For `pyfunc_wrapper.py`; a parameter tells it in which form its model takes inputs."""
    signature = _whole(signature)
    alone = len(signature.inputs) == 1 and not signature.inputs[0].name
    form = "array" if alone else "columns" if signature.columns else "tensors"
    inputs = [(spec.name or f"input_{n}", spec) for n, spec in enumerate(signature.inputs)]
    outputs = [(spec.name or f"output_{n}", spec) for n, spec in enumerate(signature.outputs)]
    parameter = f'parameters {{ key: "waypost_inputs" value {{ string_value: "{form}" }} }}\n'
    return _config("python", inputs, outputs) + parameter


def _whole(signature: Signature | None) -> Signature:
    if signature is None or not signature.inputs or not signature.outputs:
        raise Refused(f"The model's signature does not say what goes in and comes out. {_CURE}")
    return signature


def _config(
    backend: str, inputs: list[tuple[str, TensorSpec]], outputs: list[tuple[str, TensorSpec]]
) -> str:
    lines = [f'backend: "{backend}"', "max_batch_size: 0"]
    for side, specs in (("input", inputs), ("output", outputs)):
        for name, spec in specs:
            dims = ", ".join(str(size) for size in spec.shape)
            kind = _TYPES.get(spec.dtype)
            if kind is None or not spec.shape or not _NAME.fullmatch(name):
                raise Refused(
                    f"The model's signature has {name[:80]!r} of the type {spec.dtype} and the "
                    f"shape {list(spec.shape)}, for which Triton has no tensor. {_CURE}"
                )
            lines.append(
                f"{side} {{ name: {json.dumps(name)} data_type: {kind} dims: [ {dims} ] }}"
            )
    return "\n".join(lines) + "\n"
