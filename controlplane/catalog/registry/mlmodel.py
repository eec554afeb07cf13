"""The file `MLmodel`, in which MLflow says what a model is. It comes from whoever logged the model:
its size is bounded, it may hold no aliases (which grow without end), and what is not understood is
left out. Values in, values out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from controlplane.catalog.registry import Refused

MLMODEL_FILE = "MLmodel"
MAX_MLMODEL_BYTES = 1 << 20
_MAX_TENSORS = 1000
# MLflow's names of column types, as numpy has them.
_COLUMN_TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "str",
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor of a model's signature: numpy's name of its type, its shape with -1 for any. The
    name is empty where the model has one without a name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What goes in and comes out. `columns`: the inputs are the columns of a table."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    columns: bool = False


@dataclass(frozen=True, kw_only=True)
class Mlmodel:
    """`flavors` by name, each with its own keys; `example` is the path of the input example."""

    flavors: Mapping[str, Mapping[str, Any]]
    signature: Signature | None = None
    example: str = ""
    example_info: Mapping[str, Any] = field(default_factory=dict)

    def text(self, flavor: str, key: str) -> str:
        value = self.flavors.get(flavor, {}).get(key)
        return value if isinstance(value, str) else ""


def parse_mlmodel(raw: bytes) -> Mlmodel:
    """Raises `Refused` for a file that is none."""
    if len(raw) > MAX_MLMODEL_BYTES:
        raise Refused(f"{MLMODEL_FILE} has more than {MAX_MLMODEL_BYTES} bytes.")
    try:
        document = yaml.load(raw.decode(), Loader=_PlainLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Refused(f"{MLMODEL_FILE} cannot be read as YAML.") from error
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise Refused(f"{MLMODEL_FILE} names no flavors.")
    info = document.get("saved_input_example_info")
    info = info if isinstance(info, dict) else {}
    example = info.get("artifact_path")
    return Mlmodel(
        flavors={str(k): v for k, v in flavors.items() if isinstance(v, dict)},
        signature=_signature(document.get("signature")),
        example=example if isinstance(example, str) else "",
        example_info={str(k): v for k, v in info.items() if isinstance(v, str | dict)},
    )


class _PlainLoader(yaml.SafeLoader):
    """No aliases: nine of them in a row make a gigabyte of a kilobyte."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not used here")
        return super().compose_node(parent, index)


def _signature(found: object) -> Signature | None:
    if not isinstance(found, dict):
        return None
    inputs, columns = _tensors(found.get("inputs"))
    outputs, _ = _tensors(found.get("outputs"))
    if not inputs:
        return None
    return Signature(inputs=inputs, outputs=outputs, columns=columns)


def _tensors(text: object) -> tuple[tuple[TensorSpec, ...], bool]:
    """The tensors of one side, and whether they are columns. Nothing when any is not understood:
    half a signature is none."""
    try:
        entries = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_TENSORS:
        return (), False
    specs = [_tensor(entry) for entry in entries if isinstance(entry, dict)]
    known = tuple(spec for spec in specs if spec is not None)
    if len(known) != len(entries):
        return (), False
    return known, any(entry.get("type") != "tensor" for entry in entries)


def _tensor(entry: Mapping[str, Any]) -> TensorSpec | None:
    name = entry.get("name", "")
    if not isinstance(name, str) or len(name) > 200:
        return None
    spec = entry.get("tensor-spec")
    if isinstance(spec, dict):
        dtype, shape = spec.get("dtype"), spec.get("shape")
        good = isinstance(shape, list) and len(shape) <= 16 and all(map(_dimension, shape))
        if not good or not isinstance(dtype, str):
            return None
        assert isinstance(shape, list)
        return TensorSpec(name=name, dtype=dtype[:20], shape=tuple(shape))
    dtype = _COLUMN_TYPES.get(str(entry.get("type")))
    return TensorSpec(name=name, dtype=dtype, shape=(-1, 1)) if dtype else None


def _dimension(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and -1 <= size < 1 << 31
