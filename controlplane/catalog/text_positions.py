"""Where each field of a text in protobuf's text format stands: its place, its line, its value.

Only counts and pairs brackets (protobuf.dev/reference/protobuf/textformat-spec); what is right,
protobuf's own parser decides. A text that it refuses is walked as far as it makes sense.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_DEPTH: Final = 16  # Triton's own schema is 6 deep

_TOKEN = re.compile(
    r"""(?P<skip>[\s,;]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
      | (?P<word>[A-Za-z0-9_.+-]+)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPENS, _CLOSES = "{<", "}>"

Path = tuple[tuple[str, int], ...]


class TooDeep(Exception):
    """More braces within braces than any configuration has."""

    def __init__(self, line: int) -> None:
        super().__init__(f"nested deeper than {MAX_DEPTH}")
        self.line = line


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A field: its name after those it stands in, each with how many of that name came before it
    there; its line from 1; and its value as written, where that is one word or text."""

    path: Path
    line: int
    value: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.path)


def marks(text: str) -> Iterator[Mark]:
    """The fields in the order they stand. Raises `TooDeep`."""
    walk = _Walk()
    line, end = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", end, match.start())
        end = match.start()
        if match.lastgroup != "skip":
            yield from walk.take(match.lastgroup or "", match.group(), line)


class _Walk:
    """Takes tokens. `_field` is the name whose value comes next; in a list it stays so."""

    def __init__(self) -> None:
        self._stack: list[tuple[Path, tuple[str, int] | None, bool]] = []
        self._path: Path = ()
        self._seen: Counter[tuple[Path, str]] = Counter()
        self._field: tuple[str, int] | None = None
        self._in_list = False
        self._extension: list[str] | None = None

    def take(self, kind: str, token: str, line: int) -> Iterator[Mark]:
        if self._extension is not None:
            self._extend(token, line)
        elif kind == "mark":
            yield from self._mark(token, line)
        elif self._field is None and kind == "word":
            self._field = (token, line)
        elif self._field is not None:
            yield self._entry(token, line)
            if not self._in_list:
                self._field = None

    def _extend(self, token: str, line: int) -> None:
        assert self._extension is not None
        if token == "]":
            self._field = (f"[{''.join(self._extension)}]", line)
            self._extension = None
        else:
            self._extension.append(token)

    def _mark(self, token: str, line: int) -> Iterator[Mark]:
        if token == "[":
            if self._field is None:
                self._extension = []
            else:
                self._in_list = True
        elif token == "]":
            self._field, self._in_list = None, False
        elif token in _OPENS and self._field is not None:
            if len(self._stack) >= MAX_DEPTH:
                raise TooDeep(line)
            entry = self._entry("", line)
            yield entry
            self._stack.append((self._path, self._field, self._in_list))
            self._path = entry.path
            self._field, self._in_list = None, False
        elif token in _CLOSES and self._stack:
            self._path, self._field, self._in_list = self._stack.pop()
            if not self._in_list:
                self._field = None

    def _entry(self, value: str, line: int) -> Mark:
        assert self._field is not None
        name, named_at = self._field
        index = self._seen[self._path, name]
        self._seen[self._path, name] += 1
        # In a list each element has its own line; elsewhere the name says where the field is.
        at = line if self._in_list else named_at
        return Mark(path=(*self._path, (name, index)), line=at, value=value)
