"""What an ONNX model takes and gives, which operators it asks for and which files it reads.

Reads the wire format alone (`onnx.proto` of the ONNX repository), steps over weights without
reading them, and believes nothing beyond a field's own bounds. Every tensor that a model can hold
is visited, also in functions, nested graphs and sparse tensors: any of them may name a file.
Knows nothing of Triton's configuration but the names of its data types.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controlplane.domain.protobuf_wire import Field, Wire
from controlplane.domain.tensors import MAX_TENSORS, NotOfTheFormat

MAX_DEPTH: Final = 24  # of messages in messages; a graph in a graph is three
MAX_TENSORS_SHOWN: Final = 1024  # inputs or outputs

# Operators that ONNX Runtime brings itself; others come from libraries.
BUILT_IN_DOMAINS: Final = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
    }
)
# A node that carries, or names, an engine built elsewhere (ONNX Runtime's EP context).
BUILT_ENGINE: Final = "EPContext"

_MODEL_IR, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_TRAINING, _MODEL_FUNCTION = 1, 7, 8, 20, 25
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 5, 11, 12, 15
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_SPARSE_VALUES = 1
_INFO_NAME, _INFO_TYPE = 1, 2
_TYPE_KINDS: Final = {1: "tensor", 4: "sequence", 5: "map", 8: "sparse tensor", 9: "optional"}
_NODE_OP_TYPE = 4
_FUNCTION_OPSET, _FUNCTION_DOMAIN = 9, 10

# TensorProto.DataType to the names of Triton's; what is not here Triton cannot carry.
_DATA_TYPES: Final = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
    16: "TYPE_BF16",
}
_BATCH_NAMES: Final = frozenset({"batch", "batch_size", "batchsize", "n", "b", "bs"})
_OTHERS: Final = {
    b"\x7fELF": "a native library",
    b"PK\x03\x04": "a zip archive, as torch writes",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    **{bytes((0x80, protocol)): "a Python pickle" for protocol in range(2, 6)},
}


@dataclass(frozen=True, kw_only=True)
class OnnxTensor:
    """An input or output. `data_type` None: nothing that Triton can carry, `kind` says what.
    `dims` has -1 for any size and is None where the model does not say; `batch_dim` is the index
    of the dimension that looks like a batch, or None."""

    name: str
    kind: str
    data_type: str | None
    dims: tuple[int, ...] | None
    batch_dim: int | None


@dataclass(frozen=True, kw_only=True)
class ExternalData:
    """Weights in another file: `location` as written; None where a number cannot be read."""

    tensor: str
    location: str
    offset: int | None
    length: int | None


@dataclass(frozen=True, kw_only=True)
class OnnxSignature:
    """`inputs` are those without a value in the model. `custom_domains` are of operators that
    neither ONNX Runtime nor a function in the model brings."""

    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    external: tuple[ExternalData, ...] = ()
    custom_domains: frozenset[str] = frozenset()
    has_built_engine: bool = False

    @property
    def can_batch(self) -> bool:
        """Whether the first dimension of every input and output is a batch."""
        tensors = (*self.inputs, *self.outputs)
        return bool(tensors) and all(each.batch_dim == 0 for each in tensors)


def read_signature(data: memoryview) -> OnnxSignature:
    """The signature of the model in `data`, of which no weights are copied.

    Raises `NotOfTheFormat` for what is no ONNX model, whatever the bytes are.
    """
    head = bytes(data[:4])
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise NotOfTheFormat(f"it is {what}")
    walk = _Walk(Wire(lambda offset, length: bytes(data[offset : offset + length])))
    walk.model(len(data))
    return walk.signature()


class _Walk:
    """Visits a model. `seen` are the parts without which it is none."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._seen: set[int] = set()
        self._inputs: dict[str, OnnxTensor] = {}
        self._outputs: dict[str, OnnxTensor] = {}
        self._valued: set[str] = set()
        self._external: list[ExternalData] = []
        self._domains: set[str] = set()
        self._own_domains: set[str] = set()
        self._has_built_engine = False
        self._tensors = 0

    def model(self, size: int) -> None:
        for field in self._wire.fields(0, size):
            if field.number == _MODEL_IR and not field.has_bytes:
                self._seen.add(_MODEL_IR)
            elif field.has_bytes:
                self._part(field)

    def _part(self, field: Field) -> None:
        if field.number == _MODEL_GRAPH:
            if _MODEL_GRAPH in self._seen:
                raise NotOfTheFormat("it has two graphs")
            self._main_graph(field)
        elif field.number == _MODEL_OPSET:
            self._domains.add(self._text(field, 1))
        elif field.number == _MODEL_FUNCTION:
            self._own_domains.add(self._text(field, _FUNCTION_DOMAIN))
            self._visit(field, "function", 1)
        elif field.number == _MODEL_TRAINING:
            self._visit(field, "training", 1)
        self._seen.add(field.number)

    def signature(self) -> OnnxSignature:
        for number, what in ((_MODEL_IR, "version"), (_MODEL_GRAPH, "graph"), (8, "opset")):
            if number not in self._seen:
                raise NotOfTheFormat(f"it has no {what}, so it is cut off or no ONNX model")
        inputs = (each for name, each in self._inputs.items() if name not in self._valued)
        return OnnxSignature(
            inputs=tuple(inputs),
            outputs=tuple(self._outputs.values()),
            external=tuple(self._external),
            custom_domains=frozenset(self._domains - BUILT_IN_DOMAINS - self._own_domains),
            has_built_engine=self._has_built_engine,
        )

    def _main_graph(self, graph: Field) -> None:
        for field in self._wire.messages(graph):
            if field.number == _GRAPH_INITIALIZER:
                self._valued.add(self._tensor(field, 1))
            elif field.number == _GRAPH_SPARSE:
                self._valued.add(self._sparse(field))
            elif field.number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
                tensors = self._inputs if field.number == _GRAPH_INPUT else self._outputs
                tensor = self._value_info(field)
                if tensors.setdefault(tensor.name, tensor) is not tensor:
                    raise NotOfTheFormat(f"the name {tensor.name!r:.80} stands for two tensors")
                if len(tensors) > MAX_TENSORS_SHOWN:
                    raise NotOfTheFormat(f"more than {MAX_TENSORS_SHOWN} inputs or outputs")
            elif (child := _CHILDREN["graph"].get(field.number)) is not None:
                self._visit(field, child, 1)

    def _visit(self, message: Field, kind: str, depth: int) -> None:
        """Goes through what a message of this kind holds down to its tensors."""
        if depth > MAX_DEPTH:
            raise NotOfTheFormat(f"messages nested deeper than {MAX_DEPTH}")
        if kind == "tensor":
            self._tensor(message, depth)
            return
        children = _CHILDREN[kind]
        for field in self._wire.messages(message):
            if kind == "node" and field.number == _NODE_OP_TYPE:
                self._has_built_engine |= self._wire.text(field) == BUILT_ENGINE
            elif kind == "function" and field.number == _FUNCTION_OPSET:
                self._domains.add(self._text(field, 1))
            elif (child := children.get(field.number)) is not None:
                self._visit(field, child, depth + 1)

    def _sparse(self, sparse: Field) -> str:
        """Its name is that of its values."""
        names = [""]
        for field in self._wire.messages(sparse):
            if field.number in _CHILDREN["sparse"]:
                name = self._tensor(field, 2)
                if field.number == _SPARSE_VALUES:
                    names.append(name)
        return names[-1]

    def _tensor(self, tensor: Field, depth: int) -> str:
        """Notes every file that it names, also where it says that its values are inside."""
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise NotOfTheFormat(f"more than {MAX_TENSORS} tensors")
        name, said = "", list[tuple[str, str]]()
        for field in self._wire.messages(tensor):
            if field.number == _TENSOR_NAME:
                name = self._wire.text(field)
            elif field.number == _TENSOR_EXTERNAL:
                said.append((self._text(field, 1), self._text(field, 2)))
        numbers = {key: _number(value) for key, value in said if key in ("offset", "length")}
        for key, value in said:
            if key == "location":
                self._external.append(
                    ExternalData(
                        tensor=name,
                        location=value,
                        offset=numbers.get("offset", 0),
                        length=numbers.get("length", 0),
                    )
                )
        return name

    def _value_info(self, info: Field) -> OnnxTensor:
        name, kind, data_type = "", "nothing", None
        dims: tuple[tuple[int, str], ...] | None = None
        for field in self._wire.messages(info):
            if field.number == _INFO_NAME:
                name = self._wire.text(field)
            elif field.number == _INFO_TYPE:
                for each in self._wire.messages(field):
                    kind = _TYPE_KINDS.get(each.number, kind)
                    if each.number == 1:
                        data_type, dims = self._tensor_type(each)
        return OnnxTensor(
            name=name,
            kind=kind,
            data_type=data_type if kind == "tensor" else None,
            dims=None if dims is None else tuple(size for size, _ in dims),
            batch_dim=None if dims is None else _batch_dim(dims),
        )

    def _tensor_type(self, field: Field) -> tuple[str | None, tuple[tuple[int, str], ...] | None]:
        data_type: str | None = None
        dims: tuple[tuple[int, str], ...] | None = None
        for each in self._wire.fields(field.start, field.end):
            if each.number == 1 and not each.has_bytes:
                data_type = _DATA_TYPES.get(each.value)
            elif each.number == 2 and each.has_bytes:
                shape = self._wire.messages(each)
                dims = tuple(self._dimension(dim) for dim in shape if dim.number == 1)
        return data_type, dims

    def _dimension(self, dim: Field) -> tuple[int, str]:
        """Its size, -1 where any will do, and the name of such a one."""
        size, symbol = -1, ""
        for field in self._wire.fields(dim.start, dim.end):
            if field.number == 1 and not field.has_bytes:
                size = field.value if 0 < field.value < 1 << 63 else -1
            elif field.number == 2 and field.has_bytes:
                size, symbol = -1, self._wire.text(field)
        return size, symbol

    def _text(self, message: Field, number: int) -> str:
        texts = [
            self._wire.text(field)
            for field in self._wire.messages(message)
            if field.number == number
        ]
        return texts[-1] if texts else ""


# Which fields of which message lead on to tensors and to nodes.
_CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def _batch_dim(dims: tuple[tuple[int, str], ...]) -> int | None:
    """The one whose name says so, else the first where it may have any size."""
    for index, (size, symbol) in enumerate(dims):
        if size == -1 and symbol.lower() in _BATCH_NAMES:
            return index
    return 0 if dims and dims[0][0] == -1 else None


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
