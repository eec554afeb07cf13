"""Model files for tests, made by hand from what their formats say."""

import json
from collections.abc import Mapping, Sequence


def safetensors(
    tensors: Mapping[str, tuple[str, bytes]], *, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Each tensor as its dtype and its bytes, in that order."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [], "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + b"".join(data for _, data in tensors.values())


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(body)) + body


def inner(name: str, data: bytes, *, data_type: int = 1) -> bytes:
    """An initialiser of a graph that holds its bytes itself; 1 is FLOAT."""
    return message(
        5, number(1, len(data)), number(2, data_type), message(8, name.encode()), message(9, data)
    )


def outer(name: str, location: str, *, data_type: int = 1, **where: object) -> bytes:
    """One whose bytes lie in a file beside the model."""
    said = {"location": location, **where}
    entries = (
        message(13, message(1, key.encode()), message(2, str(value).encode()))
        for key, value in said.items()
    )
    return message(5, number(2, data_type), message(8, name.encode()), *entries, number(14, 1))


def node(output: str, *attributes: bytes) -> bytes:
    return message(1, message(2, output.encode()), message(4, b"Op"), *attributes)


def subgraph(name: str, parts: Sequence[bytes]) -> bytes:
    """An attribute of a node that is a graph with these initialisers and nodes."""
    return message(5, message(1, name.encode()), message(6, *parts))


def constant(output: str, data: bytes) -> bytes:
    """A node that holds a tensor without a name."""
    value = message(5, number(2, 1), message(9, data))
    return node(output, message(5, message(1, b"value"), value))


def onnx(parts: Sequence[bytes]) -> bytes:
    """A model with these initialisers and nodes in its graph, and one node more."""
    graph = message(7, node("y"), message(2, b"main"), *parts)
    return number(1, 8) + message(2, b"tests") + graph + message(8, number(2, 17))
