"""What a check of a bundle found: where it stands, what is wrong, and what would cure it.

Knows neither what was checked nor who asked. A fault refuses the version; a warning is told.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from controlplane.domain.errors import FieldError, InvalidInput

# What is shown of a file that is wrong everywhere; the rest is counted.
MAX_SHOWN: Final = 200
_INDEX = re.compile(r"\[\d+\]")


class Level(StrEnum):
    """How much a finding weighs."""

    FAULT = "fault"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`file` is a path in the version, `line` counts from 1, `field` may be empty for the whole
    file. `message` and `cure` are sentences."""

    level: Level
    file: str
    line: int | None
    field: str
    message: str
    cure: str

    @property
    def place(self) -> str:
        """As `config.pbtxt:12 instance_group.count`."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where} {self.field}" if self.field else where


def fault(
    file: str, message: str, cure: str, *, field: str = "", line: int | None = None
) -> Finding:
    return Finding(level=Level.FAULT, file=file, line=line, field=field, message=message, cure=cure)


def warning(
    file: str, message: str, cure: str, *, field: str = "", line: int | None = None
) -> Finding:
    return Finding(
        level=Level.WARNING, file=file, line=line, field=field, message=message, cure=cure
    )


def shown_field(place: str) -> str:
    """`instance_group.count` for `instance_group[0].count[0]`: the line tells which one."""
    return _INDEX.sub("", place)


def shown(text: str, most: int = 80) -> str:
    """What a pusher wrote, cut short, on one line and without anything that is not printable."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By file and line, each once."""
    return tuple(
        sorted(dict.fromkeys(findings), key=lambda each: (each.file, each.line or 0, each.field))
    )


def faults_of(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(each for each in findings if each.level is Level.FAULT)


def findings_error(findings: Iterable[Finding]) -> InvalidInput:
    """The refusal (`version-invalid`) that names every fault; warnings are left out."""
    faults = faults_of(findings)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    errors = [
        FieldError(field=each.place, message=f"{each.message} Cure: {each.cure}")
        for each in faults[:MAX_SHOWN]
    ]
    return InvalidInput("version-invalid", f"The version has {count}.", errors=errors)
