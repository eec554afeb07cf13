"""Where the weights of an ONNX model lie, in its own file or in files of data beside it.

Knows of the schema (`onnx.proto`) only the few fields that lead to tensors: the initialisers of a
graph, the constants in its nodes, and the graphs inside nodes, as those of `If` and `Loop` are.
Weights are stepped over, never read.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from controlplane.domain.protobuf_wire import Field, Wire
from controlplane.domain.tensors import MAX_TENSORS, NotOfTheFormat, Read, Span, in_order

# Of graphs in graphs; what lies deeper is cut by content.
MAX_DEPTH: Final = 8

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OUTPUT, _NODE_ATTRIBUTE = 2, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 1, 5, 6
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA, _TENSOR_EXTERNAL = 2, 8, 9, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# TensorProto.DataType; what is not listed counts as bytes. A complex number is two floats.
_WIDTHS: Final = {1: 4, 4: 2, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8, 14: 4, 15: 8, 16: 2}


@dataclass(frozen=True, kw_only=True)
class OnnxTensors:
    """Spans in the model's own file, and in each other file by its path in the version. Those of
    other files are as claimed: `in_order` sorts them out once the file's size is known."""

    own: tuple[Span, ...]
    external: Mapping[str, tuple[Span, ...]]


def onnx_tensors(read: Read, size: int, path: str) -> OnnxTensors:
    """The tensors of the model in the file `path` of a version. Raises `NotOfTheFormat`."""
    walk = _Walk(Wire(read), posixpath.dirname(path))
    for field in walk.wire.fields(0, size):
        if field.number == _MODEL_GRAPH and field.has_bytes:
            walk.graph(field, "", 0)
    return OnnxTensors(
        own=in_order(walk.own, size),
        external={place: tuple(spans) for place, spans in walk.external.items()},
    )


class _Walk:
    """Gathers the tensors of graphs. `where` is a graph's place in the model: it begins names."""

    def __init__(self, wire: Wire, folder: str) -> None:
        self.wire = wire
        self.own: list[Span] = []
        self.external: dict[str, list[Span]] = {}
        self._folder = folder
        self._tensors = 0

    def graph(self, graph: Field, where: str, depth: int) -> None:
        for field in self.wire.messages(graph):
            if field.number == _GRAPH_INITIALIZER:
                self._tensor(field, where)
            elif field.number == _GRAPH_NODE:
                self._node(field, where, depth)

    def _node(self, node: Field, where: str, depth: int) -> None:
        output = ""
        for field in self.wire.messages(node):
            if field.number == _NODE_OUTPUT:
                output = output or self.wire.text(field)
            elif field.number == _NODE_ATTRIBUTE:
                self._attribute(field, f"{where}{output}/", depth)

    def _attribute(self, attribute: Field, where: str, depth: int) -> None:
        for field in self.wire.messages(attribute):
            if field.number == _ATTRIBUTE_NAME:
                where = f"{where}{self.wire.text(field)}/"
            elif field.number == _ATTRIBUTE_TENSOR:
                self._tensor(field, where)
            elif field.number == _ATTRIBUTE_GRAPH and depth < MAX_DEPTH:
                self.graph(field, where, depth + 1)

    def _tensor(self, tensor: Field, where: str) -> None:
        """Notes where a tensor's bytes lie, unless its values are written as numbers."""
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise NotOfTheFormat(f"more than {MAX_TENSORS} tensors")
        name, width = where, 1
        raw: Field | None = None
        said: dict[str, str] = {}
        for field in self.wire.fields(tensor.start, tensor.end):
            if field.number == _TENSOR_TYPE and not field.has_bytes:
                width = _WIDTHS.get(field.value, 1)
            elif field.number == _TENSOR_NAME and field.has_bytes:
                name = where + self.wire.text(field)
            elif field.number == _TENSOR_RAW_DATA and field.has_bytes:
                raw = field
            elif field.number == _TENSOR_EXTERNAL and field.has_bytes:
                key, value = self._entry(field)
                said[key] = value
        if raw is not None:
            length = raw.end - raw.start
            self.own.append(Span(name=name, width=width, offset=raw.start, length=length))
        elif (place := _place(said)) is not None:
            location, offset, length = place
            path = posixpath.normpath(posixpath.join(self._folder, location))
            span = Span(name=name, width=width, offset=offset, length=length)
            self.external.setdefault(path, []).append(span)

    def _entry(self, entry: Field) -> tuple[str, str]:
        texts = {field.number: self.wire.text(field) for field in self.wire.messages(entry)}
        return texts.get(_ENTRY_KEY, ""), texts.get(_ENTRY_VALUE, "")


def _place(said: Mapping[str, str]) -> tuple[str, int, int] | None:
    """Location, offset and length of external data; None for one that cannot be told."""
    offset, length = _number(said.get("offset", "0")), _number(said.get("length", ""))
    if "location" not in said or offset is None or length is None:
        return None
    return said["location"], offset, length


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
