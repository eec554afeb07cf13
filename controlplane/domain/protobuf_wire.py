"""Fields of protobuf messages by the wire format alone (protobuf.dev/programming-guides/encoding).

Steps from length to length through a small window and reads nothing that nobody asks for. The file
is not trusted: every length ends inside its message, and the walk has an end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from controlplane.domain.tensors import MAX_NAME_BYTES, NotOfTheFormat, Read

MAX_FIELDS: Final = 1_000_000  # about two seconds' walk
_WINDOW_BYTES: Final = 4096
_MAX_VARINT_BYTES: Final = 10
_VARINT, _BYTES = 0, 2
_FIXED: Final = {1: 8, 5: 4}  # bytes of the wire types that have no length


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a message: its number, and for one with a length where its bytes lie."""

    number: int
    value: int
    start: int
    end: int
    has_bytes: bool


class Wire:
    """The messages of one file."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._window = b""
        self._window_at = 0
        self._fields_left = MAX_FIELDS

    def fields(self, at: int, end: int) -> Iterator[Field]:
        """Raises `NotOfTheFormat` for what is no message that ends at `end`."""
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise NotOfTheFormat(f"more than {MAX_FIELDS} fields on the way to the weights")
            tag, at = self._varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            value, start = 0, at
            if wire_type == _VARINT:
                value, at = self._varint(at, end)
            elif wire_type == _BYTES:
                length, start = self._varint(at, end)
                at = start + length
            elif wire_type in _FIXED:
                at += _FIXED[wire_type]
            else:
                raise NotOfTheFormat(f"wire type {wire_type} at {start}")
            if at > end or number == 0:
                raise NotOfTheFormat(f"a field at {start} has no number or no end")
            yield Field(
                number=number, value=value, start=start, end=at, has_bytes=wire_type == _BYTES
            )

    def messages(self, message: Field) -> Iterator[Field]:
        """Those of its fields that have bytes: texts, blobs and messages."""
        return (field for field in self.fields(message.start, message.end) if field.has_bytes)

    def text(self, field: Field) -> str:
        if field.end - field.start > MAX_NAME_BYTES:
            raise NotOfTheFormat(f"a name of {field.end - field.start} bytes at {field.start}")
        return self._bytes(field.start, field.end - field.start).decode(errors="replace")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        data = self._bytes(at, min(_MAX_VARINT_BYTES, end - at))
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, at + index + 1
        raise NotOfTheFormat(f"a number at {at} does not end")

    def _bytes(self, at: int, length: int) -> bytes:
        inside = at - self._window_at
        if inside < 0 or inside + length > len(self._window):
            self._window = self._read(at, max(_WINDOW_BYTES, length))
            self._window_at, inside = at, 0
        return self._window[inside : inside + length]
