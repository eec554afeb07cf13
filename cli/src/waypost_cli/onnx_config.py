"""A config.pbtxt for a folder that has none, from the signature of its one ONNX file.

Reads the wire format alone (`onnx.proto` of the ONNX repository) and steps over weights: a model of
any size costs no memory. The control plane holds what is written against the model again."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from waypost_cli.bundle import CONFIG_FILE
from waypost_cli.errors import CliError

_DEFAULT_FILE = "model.onnx"
_MAX_TENSORS = 1024
_MAX_NAME_BYTES = 1 << 16
# TensorProto.DataType to Triton's names; what is not here Triton cannot carry.
_TYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64",
    8: "STRING", 9: "BOOL", 10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
_KINDS = {1: "tensor", 4: "sequence", 5: "map", 8: "sparse tensor", 9: "optional"}
_SIZES = {1: 8, 5: 4}  # of the wire types whose length is fixed
_BY_HAND = "write config.pbtxt by hand: backend, max_batch_size, and each input and output"


class _NotOnnxError(Exception):
    """The bytes are no ONNX model."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output. `type` as Triton calls it, empty where it cannot carry it; `dims` has -1
    for any size and is None where the model does not say."""

    name: str
    kind: str
    type: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A number, or (`value` None) the bytes from `start` to `end`."""

    number: int
    value: int | None
    start: int
    end: int


def write_config(folder: Path, *, model: str, max_batch_size: int) -> Path | None:
    """The file that it wrote; None where there is one already. Raises `CliError`."""
    path = folder / CONFIG_FILE
    if path.exists():
        return None
    found = sorted(each.name for each in folder.glob("*.onnx") if each.is_file())
    if len(found) != 1:
        raise CliError(
            f"a configuration is made from one ONNX file, and {folder} holds {len(found)} at its"
            " top",
            cure=_BY_HAND,
        )
    text = config_of(folder / found[0], model=model, max_batch_size=max_batch_size)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error
    return path


def config_of(file: Path, *, model: str, max_batch_size: int = 0) -> str:
    """A complete config.pbtxt. With `max_batch_size` over 0 the first dimension of every tensor is
    the batch and is left out. Raises `CliError` naming every tensor that Triton cannot carry."""
    try:
        inputs, outputs = _signature(file)
    except _NotOnnxError as error:
        raise CliError(f"{file.name} is no ONNX model: {error}") from error
    except (OSError, ValueError) as error:
        raise CliError(f"{file} cannot be read: {error}") from error
    sides = (("input", inputs), ("output", outputs))
    faults = [
        f"{file.name}: {kind} {each.name!r:.80} {why}"
        for kind, tensors in sides
        for each in tensors
        for why in _why_not(each, max_batch_size)
    ]
    if not inputs or not outputs:
        faults.append(f"{file.name}: has no inputs or no outputs")
    if faults:
        raise CliError(
            f"no configuration can be made from {file.name}", details=faults, cure=_BY_HAND
        )
    lines = [
        f"# Made by Waypost from the signature of {file.name}.",
        f"name: {_quoted(model)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
    ]
    if file.name != _DEFAULT_FILE:
        lines.append(f"default_model_filename: {_quoted(file.name)}")
    for kind, tensors in sides:
        entries = ",\n".join(_entry(each, max_batch_size) for each in tensors)
        lines.append(f"{kind} [\n{entries}\n]")
    return "\n".join(lines) + "\n"


def _why_not(tensor: Tensor, max_batch_size: int) -> Iterator[str]:
    if not tensor.name.isprintable() or not tensor.name:
        yield "has no name that a configuration can hold"
    if tensor.kind != "tensor":
        hint = " (scikit-learn: convert with zipmap=False)" if tensor.kind == "sequence" else ""
        yield f"is a {tensor.kind}, and Triton carries only tensors{hint}"
        return
    if not tensor.type:
        yield "has a type that Triton does not carry; cast it in the model"
    if tensor.dims is None:
        yield "does not say how many dimensions it has; export the model with shapes"
    elif max_batch_size > 0 and tensor.dims[:1] != (-1,):
        yield "has a fixed first dimension, so requests cannot be batched; use --max-batch-size 0"


def _entry(tensor: Tensor, max_batch_size: int) -> str:
    dims = tensor.dims or ()
    served = dims[1:] if max_batch_size > 0 else dims
    sizes = ", ".join(map(str, served or (1,)))
    # A batch of single numbers: Triton states [ 1 ] and takes it away again for the model.
    reshape = " reshape { shape: [ ] }" if max_batch_size > 0 and not served else ""
    name = _quoted(tensor.name)
    return f"  {{ name: {name} data_type: TYPE_{tensor.type} dims: [ {sizes} ]{reshape} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _signature(file: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs without a value in the model, and outputs."""
    with file.open("rb") as opened:
        if not opened.seek(0, 2):
            raise _NotOnnxError("it is empty")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            whole = _Field(number=0, value=None, start=0, end=len(data))
            fields = list(_fields(data, whole))
            graphs = [field for field in fields if field.number == 7 and field.value is None]
            if len(graphs) != 1 or not {1, 8} <= {field.number for field in fields}:
                raise _NotOnnxError("it has no graph, version or opset; it may be cut off")
            return _tensors(data, graphs[0])


def _tensors(data: mmap.mmap, graph: _Field) -> tuple[list[Tensor], list[Tensor]]:
    valued: set[str] = set()
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for field in _fields(data, graph):
        if field.value is not None:
            continue
        if field.number == 5:  # an initializer
            valued.add(_text(data, field, 8))
        elif field.number == 15:  # a sparse one is named as its values are
            valued |= {_text(data, values, 8) for values in _parts(data, field, 1)}
        elif field.number in (11, 12):
            (inputs if field.number == 11 else outputs).append(_tensor(data, field))
        if len(inputs) + len(outputs) > _MAX_TENSORS:
            raise _NotOnnxError(f"it has more than {_MAX_TENSORS} inputs and outputs")
    return [each for each in inputs if each.name not in valued], outputs


def _tensor(data: mmap.mmap, info: _Field) -> Tensor:
    """Of a ValueInfoProto."""
    kind, data_type = "nothing", 0
    dims: tuple[int, ...] | None = None
    for of_type in _parts(data, info, 2):
        for each in _fields(data, of_type):
            if each.value is not None:
                continue
            kind = _KINDS.get(each.number, kind)
            for part in _fields(data, each) if each.number == 1 else ():
                if part.number == 1 and part.value is not None:
                    data_type = part.value
                elif part.number == 2 and part.value is None:
                    dims = tuple(_size(data, dim) for dim in _parts(data, part, 1))
    return Tensor(name=_text(data, info, 1), kind=kind, type=_TYPES.get(data_type, ""), dims=dims)


def _size(data: mmap.mmap, dim: _Field) -> int:
    """-1 where any will do."""
    size = -1
    for field in _fields(data, dim):
        if field.number == 1 and field.value is not None:
            size = field.value if 0 < field.value < 1 << 63 else -1
        elif field.number == 2 and field.value is None:
            size = -1
    return size


def _text(data: mmap.mmap, message: _Field, number: int) -> str:
    """Empty where there is none; the last of several, as protobuf has it."""
    text = b""
    for each in _parts(data, message, number):
        if each.end - each.start > _MAX_NAME_BYTES:
            raise _NotOnnxError("a name in it is too long")
        text = data[each.start : each.end]
    return text.decode(errors="replace")


def _parts(data: mmap.mmap, message: _Field, number: int) -> Iterator[_Field]:
    """The texts or messages of that number."""
    for field in _fields(data, message):
        if field.number == number and field.value is None:
            yield field


def _fields(data: mmap.mmap, message: _Field) -> Iterator[_Field]:
    """Raises `_NotOnnxError` for what is none of protobuf's encoding."""
    at, end = message.start, message.end
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        value: int | None = None
        start = at
        if kind == 0:
            value, at = _varint(data, at, end)
        elif kind == 2:
            length, start = _varint(data, at, end)
            at = start + length
        elif kind in _SIZES:
            value, at = 0, at + _SIZES[kind]
        else:
            raise _NotOnnxError("its bytes are of another format")
        if at > end or not number:
            raise _NotOnnxError("it is cut off, or of another format")
        yield _Field(number=number, value=value, start=start, end=at)


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _NotOnnxError("it is cut off")
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotOnnxError("its bytes are of another format")
