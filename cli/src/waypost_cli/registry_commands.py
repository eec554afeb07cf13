"""`waypost link`, `links`, `unlink`, `import` and `imports`: versions that come from MLflow."""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.durations import parse_seconds
from waypost_cli.errors import CliError, ExitCode, Finished
from waypost_cli.output import Output, show_one, show_rows
from waypost_cli.rollout_options import ModelArgument
from waypost_cli.session import Session, connected

_POLL_SECONDS = 2.0
_MAX_IMPORTS = 50
_LINK = {
    "id": "link",
    "model": "model",
    "remote_name": "in MLflow",
    "aliases": "aliases",
    "stages": "stages",
    "checked_at": "last look",
    "failure": "failure",
}
_IMPORT = {
    "id": "import",
    "remote_name": "in MLflow",
    "remote_version": "its version",
    "state": "state",
    "version": "version",
    "reason": "reason",
}
WatchedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--alias",
        help="An alias to watch, and the channel that it moves: prod=stable. May be repeated.",
        metavar="ALIAS[=CHANNEL]",
    ),
]


@connected()
def link_command(
    session: Session,
    model: ModelArgument,
    mlflow: Annotated[
        str, typer.Option("--mlflow", help="The registered model in MLflow.", metavar="NAME")
    ],
    alias: WatchedOption = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            "--stage",
            help="The same of a stage, where a server has them.",
            metavar="STAGE[=CHANNEL]",
        ),
    ] = None,
) -> None:
    """Let a model follow one of MLflow: what its aliases lead to is brought in."""
    asked = {"remote_name": mlflow, "aliases": _watched(alias), "stages": _watched(stage)}
    show_one(session.output, session.api.link_model(model, asked), _LINK)


@connected()
def links_command(session: Session, model: ModelArgument) -> None:
    """List what a model follows."""
    show_rows(session.output, session.api.list_links(model), _LINK)


@connected()
def unlink_command(
    session: Session,
    model: ModelArgument,
    link: Annotated[str, typer.Argument(help="Number of the link.", metavar="LINK")],
) -> None:
    """Let a model follow no more. Versions that came from there stay."""
    session.api.unlink_model(model, link)
    session.output.say(f"{model} follows link {link} no more")


@connected()
def import_command(
    session: Session,
    model: ModelArgument,
    version: Annotated[
        str | None, typer.Option("--version", help="Its number in MLflow.", metavar="N")
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", help="What this alias leads to now.")
    ] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="What is in this stage now.")] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow", help="Of which model there, if several are linked.", metavar="NAME"
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is here, or failed.")] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long to wait, such as 30m.")
    ] = "30m",
) -> None:
    """Bring in a version of a linked model by its number, an alias or a stage."""
    given = {"version": version, "alias": alias, "stage": stage}
    asked = {key: value for key, value in given.items() if value}
    if len(asked) != 1:
        raise CliError(
            "it is not clear what to import", cure="give one of --version, --alias and --stage"
        )
    seconds = parse_seconds(timeout)
    row = session.api.import_version(model, asked | ({"remote_name": mlflow} if mlflow else {}))
    if wait:
        row = _waited(session, model, row, seconds)
    show_one(session.output, row, _IMPORT)
    if row.get("state") == "failed":
        raise Finished(ExitCode.ERROR)


@connected()
def imports_command(session: Session, model: ModelArgument) -> None:
    """List what was brought in, or is on its way, the newest first."""
    show_rows(session.output, session.api.list_imports(model, limit=_MAX_IMPORTS), _IMPORT)


def _waited(
    session: Session,
    model: str,
    row: Document,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Document:
    """The import once it is over. Ends the command when that takes too long."""
    end = time.monotonic() + seconds
    said = ""
    while row.get("state") not in ("imported", "failed"):
        said = _say(session.output, row, said)
        if time.monotonic() >= end:
            session.output.say(f"not over after {seconds:g} s; it goes on")
            show_one(session.output, row, _IMPORT)
            raise Finished(ExitCode.TIMED_OUT)
        sleep(_POLL_SECONDS)
        row = session.api.get_import(model, str(row.get("id")))
    return row


def _say(output: Output, row: Document, said: str) -> str:
    now = f"version {row.get('remote_version')} is {row.get('state')} {row.get('reason') or ''}"
    if now != said:
        output.say(now)
    return now


def _watched(entries: list[str] | None) -> dict[str, str]:
    """Alias to channel; empty where none is named."""
    pairs = [entry.partition("=") for entry in entries or []]
    return {name: channel for name, _, channel in pairs}
