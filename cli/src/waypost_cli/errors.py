"""How a command ends: the exit codes of the contract and the errors a person can act on.

It knows nothing of HTTP libraries, files or terminals."""

from collections.abc import Mapping, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses that CI jobs branch on; part of the public contract."""

    OK = 0
    ERROR = 1
    ROLLOUT_FAILED = 2
    TIMED_OUT = 3
    WAITS_FOR_PERSON = 4


class Finished(Exception):
    """Ends a command with a status other than 0 after its output was written."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code.name)
        self.exit_code = exit_code


class CliError(Exception):
    """What was wrong, in one line; `details` are further lines, `cure` is what to do about it."""

    def __init__(self, message: str, *, details: Sequence[str] = (), cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        self.cure = cure


class FileChangedError(CliError):
    """A file is no longer what was hashed. Sending it again cannot help."""


class UnavailableError(CliError):
    """No usable answer for now: the network, or a 5xx. The same request may work later.

    `retry_after_seconds` is the server's wish, if it named one.
    """

    def __init__(
        self,
        message: str,
        *,
        details: Sequence[str] = (),
        cure: str = "",
        retry_after_seconds: float | None = None,
        answered: bool = False,
    ) -> None:
        super().__init__(message, details=details, cure=cure)
        self.retry_after_seconds = retry_after_seconds
        self.answered = answered


class UnderWayError(UnavailableError):
    """An earlier attempt of this very call is not over yet, or was cut off."""


class LinkExpiredError(CliError):
    """An address that was good for a while is not any more; a fresh one may be."""


class ApiError(CliError):
    """A refusal by the control plane (RFC 9457). `code` is stable; `extra`: other members."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        extra: Mapping[str, object],
        details: Sequence[str] = (),
        cure: str = "",
    ) -> None:
        super().__init__(message, details=details, cure=cure)
        self.status = status
        self.code = code
        self.extra = extra
