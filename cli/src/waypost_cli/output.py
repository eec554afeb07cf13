"""What a command says: results on stdout, progress and errors on stderr. Decides how text is made
safe and laid out; it must not know what the results mean."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text

from waypost_cli.errors import CliError

# Control characters and bidirectional overrides could make a terminal show or do something else
# than was sent.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PIPE_WIDTH = 200  # no terminal: wide enough that a log shows a row in one line


class OutputFormat(StrEnum):
    """What `--output` accepts."""

    JSON = "json"
    TABLE = "table"
    JUNIT = "junit"


class Output:
    """Writes to the process's streams as they are when it is made."""

    def __init__(self, format_: OutputFormat) -> None:
        self.format = format_
        self.stderr = Console(stderr=True, highlight=False)
        self._stdout = Console(
            width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False
        )

    @property
    def live(self) -> bool:
        """Whether a person watches, so that a picture may move."""
        return self.stderr.is_terminal and not self.stderr.is_dumb_terminal

    def document(self, value: object) -> None:
        """Exactly one JSON document."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")

    def raw(self, text: str) -> None:
        """`text` unwrapped and unstyled, on stdout."""
        sys.stdout.write(text + "\n")

    def table(self, table: Table) -> None:
        self._stdout.print(table)

    def say(self, text: str) -> None:
        """One line of progress, on stderr."""
        self.stderr.print(Text(clean(text)), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")


def make_table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=Text(clean(title)) if title else None, title_justify="left", box=None)
    for column in columns:
        table.add_column(Text(column, style="bold"), overflow="fold")
    return table


def add_row(table: Table, cells: Sequence[object]) -> None:
    """Cells are shown as they are: no markup, no control characters; None is empty."""
    table.add_row(*(Text("" if cell is None else clean(str(cell))) for cell in cells))


def clean(text: str) -> str:
    """`text` in one line that a terminal shows as it is."""
    return _UNSAFE.sub(" ", text).encode("utf-8", "replace").decode()


def show_error(error: CliError) -> None:
    """The error on stderr: message, one line for each detail, the cure."""
    for line in error_lines(error):
        print(line, file=sys.stderr)


def error_lines(error: CliError) -> Iterable[str]:
    yield f"error: {clean(error.message)}"
    for detail in error.details:
        yield f"  {clean(detail)}"
    if error.cure:
        yield f"  cure: {clean(error.cure)}"


def show_rows(
    output: Output, documents: Sequence[Mapping[str, object]], columns: Mapping[str, str]
) -> None:
    """Documents as a table, a key each column under its heading; or as the JSON they came as."""
    if output.format is OutputFormat.JSON:
        output.document(list(documents))
        return
    table = make_table(*columns.values())
    for document in documents:
        add_row(table, [document.get(key) for key in columns])
    output.table(table)


def show_one(output: Output, document: Mapping[str, object], columns: Mapping[str, str]) -> None:
    """One document, in the form that was asked for."""
    if output.format is OutputFormat.JSON:
        output.document(document)
    else:
        show_rows(output, [document], columns)
