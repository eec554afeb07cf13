"""Choosing rows by labels in one line: `region=eu,tier!=lab,ring in (0,1),!old`.

The grammar is that of Kubernetes label selectors: requirements joined by commas, all of which must
hold; `=` or `==`, `!=`, `in (…)`, `notin (…)`, `key` (has it) and `!key` (has it not). `!=` and
`notin` hold for what lacks the key. It must not know rows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.errors import FieldError, InvalidInput

MAX_LENGTH = 1000
MAX_REQUIREMENTS = 20
_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_VALUE = re.compile(r"[A-Za-z0-9_.:/@+-]{0,128}")
_BLANK = re.compile(r"[ \t]*")
_WORD = re.compile(r"(notin|in)(?=[ \t(])")


class Relation(StrEnum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """`values` is empty for `EXISTS` and `MISSING`."""

    key: str
    relation: Relation
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        match self.relation:
            case Relation.EXISTS:
                return self.key in labels
            case Relation.MISSING:
                return self.key not in labels
            case Relation.IN:
                return self.key in labels and labels[self.key] in self.values
            case Relation.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values


def parse_label_selector(text: str) -> tuple[Requirement, ...]:
    """Raises `InvalidInput` that says at which character, from 1, it cannot be read."""
    if len(text) > MAX_LENGTH:
        raise _fault(MAX_LENGTH + 1, f"a selector has at most {MAX_LENGTH} characters")
    reader = _Reader(text)
    found = [reader.requirement()]
    while reader.taken(","):
        found.append(reader.requirement())
        if len(found) > MAX_REQUIREMENTS:
            raise _fault(reader.place + 1, f"more than {MAX_REQUIREMENTS} requirements")
    reader.end()
    return tuple(found)


class _Reader:
    """Goes through the text once; `place` counts from 0."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.place = 0
        self._skip()

    def requirement(self) -> Requirement:
        if self.taken("!"):
            return Requirement(key=self._key(), relation=Relation.MISSING)
        key = self._key()
        if self.taken("!="):
            return Requirement(
                key=key, relation=Relation.NOT_IN, values=frozenset((self._value(),))
            )
        if self.taken("==") or self.taken("="):
            return Requirement(key=key, relation=Relation.IN, values=frozenset((self._value(),)))
        if word := self._match(_WORD):
            relation = Relation.NOT_IN if word == "notin" else Relation.IN
            return Requirement(key=key, relation=relation, values=self._values())
        return Requirement(key=key, relation=Relation.EXISTS)

    def taken(self, mark: str) -> bool:
        if not self._text.startswith(mark, self.place):
            return False
        self.place += len(mark)
        self._skip()
        return True

    def end(self) -> None:
        if self.place < len(self._text):
            raise _fault(self.place + 1, "expected a comma, =, !=, in (…) or notin (…)")

    def _values(self) -> frozenset[str]:
        if not self.taken("("):
            raise _fault(self.place + 1, "expected ( before the values")
        values = {self._value()}
        while self.taken(","):
            values.add(self._value())
        if not self.taken(")"):
            raise _fault(self.place + 1, "expected a comma or ) after a value")
        return frozenset(values)

    def _key(self) -> str:
        key = self._match(_KEY)
        if not key:
            raise _fault(self.place + 1, "expected the key of a label, such as region")
        return key

    def _value(self) -> str:
        return self._match(_VALUE)

    def _match(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self.place)
        text = found[0] if found else ""
        self.place += len(text)
        self._skip()
        return text

    def _skip(self) -> None:
        blank = _BLANK.match(self._text, self.place)
        assert blank is not None
        self.place = blank.end()


def _fault(position: int, message: str) -> InvalidInput:
    return InvalidInput(
        "selector-invalid",
        f"The selector cannot be read at character {position}: {message}.",
        errors=[FieldError(field="selector", message=f"character {position}: {message}")],
        extra={"position": position},
    )
