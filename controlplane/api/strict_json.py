"""JSON as anybody may send it: only what every database and every client can hold comes through.

It must not know what a body means."""

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

MAX_DEPTH = 32
MAX_NUMBER_LENGTH = 30  # 2**63 has 19 digits


class StrictJSONParser(JSONParser):
    """For DRF's views."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return loads(stream.read())
        except ValueError as error:
            raise ParseError(f"The body is not JSON that can be used: {error}.") from error


def loads(raw: bytes) -> Any:
    """The value of a UTF-8 body. Raises `ValueError` with what is wrong, in a few words."""
    try:
        value = json.loads(
            raw.decode(), parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _refuse_what_cannot_be_kept(value)
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:MAX_NUMBER_LENGTH]} is too large a number")
    return number


def _int(text: str) -> int:
    if len(text) > MAX_NUMBER_LENGTH:
        raise ValueError(f"{text[:MAX_NUMBER_LENGTH]}… is too large a number")
    return int(text)


def _refuse_what_cannot_be_kept(value: Any) -> None:
    """PostgreSQL keeps no NUL, and no UTF-8 holds half a surrogate pair: neither in values nor in
    keys. Goes by a list of its own: a deep body must not use up the stack."""
    todo = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, str):
            _refuse_text(item)
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
            inner = [*item, *item.values()] if isinstance(item, dict) else item
            todo += [(each, depth + 1) for each in inner]


def _refuse_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("a text holds the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a surrogate pair") from error
