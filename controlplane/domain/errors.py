"""Errors a caller can act on: each has a stable `code` and a sentence. They know nothing of HTTP;
`api/errors.py` maps the class to a status."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FieldError:
    """One fault in the input: where it is, and what would be right."""

    field: str
    message: str


class WaypostError(Exception):
    """Base of every error that is the caller's to cure.

    `code` is part of the public contract; `extra` holds members a program may need
    (allowed verbs, missing digests).
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.extra = extra or {}


class InvalidInput(WaypostError):
    """The request itself is wrong; repeating it cannot help."""


class NotFound(WaypostError):
    """The named thing does not exist, or not for this caller."""


class Conflict(WaypostError):
    """The request is well formed but the present state does not allow it."""


class Unauthenticated(WaypostError):
    """The caller did not prove who it is."""


class Forbidden(WaypostError):
    """The caller is known and may not do this."""


class TooLarge(WaypostError):
    """The body is over its limit."""
