"""ONNX models for tests, made by hand from the wire format: with inputs, outputs and operators."""

from collections.abc import Iterable, Sequence

from tests.unit.model_files import message, number

FLOAT, INT64, STRING, COMPLEX = 1, 7, 8, 14
Dims = Sequence[int | str | None] | None


def shape_of(dims: Sequence[int | str | None]) -> bytes:
    """A whole number is a size, a text the name of one, None one without a name."""
    parts = []
    for dim in dims:
        if isinstance(dim, int):
            parts.append(message(1, number(1, dim & (1 << 64) - 1)))
        elif isinstance(dim, str):
            parts.append(message(1, message(2, dim.encode())))
        else:
            parts.append(message(1))
    return message(2, *parts)


def tensor_type(data_type: int, dims: Dims) -> bytes:
    shape = b"" if dims is None else shape_of(dims)
    return message(1, number(1, data_type), shape)


def value(name: str, data_type: int = FLOAT, dims: Dims = ("batch", 4)) -> bytes:
    """A ValueInfo's fields: what stands in `input` (11) or `output` (12) of a graph."""
    return message(1, name.encode()) + message(2, tensor_type(data_type, dims))


def sequence_value(name: str) -> bytes:
    return message(1, name.encode()) + message(2, message(4, message(1, tensor_type(FLOAT, ()))))


def operator(op_type: str, *attributes: bytes, domain: str = "") -> bytes:
    where = message(7, domain.encode()) if domain else b""
    return message(
        1, message(1, b"x"), message(2, b"y"), message(4, op_type.encode()), *attributes, where
    )


def function(name: str, domain: str, *parts: bytes, opset: str = "") -> bytes:
    """A function of the model, with nodes as a graph has them but under the field 7."""
    nodes = (message(7, part) for part in parts)
    opsets = message(9, message(1, opset.encode()), number(2, 1)) if opset else b""
    return message(25, message(1, name.encode()), *nodes, opsets, message(10, domain.encode()))


def model(
    *parts: bytes,
    inputs: Iterable[bytes] = (value("x"),),
    outputs: Iterable[bytes] = (value("y"),),
    opsets: Iterable[str] = ("",),
    after: bytes = b"",
) -> bytes:
    """`parts` are the graph's initialisers and nodes, `after` more fields of the model."""
    graph = message(
        7,
        operator("Relu"),
        message(2, b"main"),
        *parts,
        *(message(11, each) for each in inputs),
        *(message(12, each) for each in outputs),
    )
    imports = b"".join(message(8, message(1, each.encode()), number(2, 17)) for each in opsets)
    return number(1, 8) + message(2, b"tests") + graph + imports + after
