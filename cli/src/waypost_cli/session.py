"""The options every command takes, and what a command works with. Decides which of them wins:
the one nearest to the command, then the environment; it must not know any command."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.api import Api
from waypost_cli.connection import make_connection
from waypost_cli.errors import CliError
from waypost_cli.output import Output, OutputFormat
from waypost_cli.transport import Transport


@dataclass(frozen=True, kw_only=True)
class GlobalOptions:
    """As given at one place of the command line; None is not given."""

    url: str | None = None
    token: str | None = None
    ca_file: Path | None = None
    output: OutputFormat | None = None

    def over(self, other: "GlobalOptions") -> "GlobalOptions":
        """These where given, else the other's."""
        chosen = {}
        for field in fields(self):
            mine = getattr(self, field.name)
            chosen[field.name] = getattr(other, field.name) if mine is None else mine
        return GlobalOptions(**chosen)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a command works with."""

    api: Api
    output: Output


_PANEL = "Control plane and output"
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Address of the control plane, or WAYPOST_URL.",
        rich_help_panel=_PANEL,
        metavar="URL",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="API token; better as WAYPOST_TOKEN, out of process lists.",
        rich_help_panel=_PANEL,
        metavar="TOKEN",
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        help="PEM file of an authority to trust as well, or WAYPOST_CA_FILE.",
        rich_help_panel=_PANEL,
        metavar="FILE",
    ),
]
OutputOption = Annotated[
    OutputFormat | None,
    typer.Option(
        "--output",
        "-o",
        help="Form of the result: table if not given, junit for rollout status and waiting.",
        rich_help_panel=_PANEL,
    ),
]
_OPTIONS = {
    "url": UrlOption,
    "token": TokenOption,
    "ca_file": CaFileOption,
    "output": OutputOption,
}


def from_environment(environment: Mapping[str, str]) -> GlobalOptions:
    """An empty variable is one that is not set, as CI systems have it."""
    ca_file = environment.get("WAYPOST_CA_FILE")
    return GlobalOptions(
        url=environment.get("WAYPOST_URL") or None,
        token=environment.get("WAYPOST_TOKEN") or None,
        ca_file=Path(ca_file) if ca_file else None,
    )


def remember(ctx: typer.Context, given: GlobalOptions) -> GlobalOptions:
    """Merges what was given here over what was given nearer to `waypost`; sub-commands see it."""
    inherited = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
    merged = given.over(inherited)
    ctx.obj = merged
    return merged


def connected(*, junit: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the global options beside its own, and hands it a `Session` as `session`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(ctx: typer.Context, **arguments: object) -> None:
            given = GlobalOptions(**{name: arguments.pop(name) for name in _OPTIONS})  # type: ignore[arg-type]
            options = remember(ctx, given).over(from_environment(os.environ))
            if ctx.invoked_subcommand is not None:
                return
            output = Output(options.output or OutputFormat.TABLE)
            if output.format is OutputFormat.JUNIT and not junit:
                raise CliError(
                    "--output junit is not for this command",
                    cure="it goes with rollout status, rollout wait and rollout start --wait",
                )
            with open_session(options, output) as session:
                command(session=session, **arguments)

        _set_signature(run, command)
        return run

    return decorate


@contextmanager
def open_session(options: GlobalOptions, output: Output) -> Iterator[Session]:
    connection = make_connection(url=options.url, token=options.token, ca_file=options.ca_file)
    if connection.sends_token_in_clear:
        output.warn(f"{connection.url} is not https: anyone on the way can read the token")
    with Transport(connection) as transport:
        yield Session(api=Api(transport), output=output)


def _set_signature(run: Callable[..., None], command: Callable[..., None]) -> None:
    """Typer builds the options from the signature: the command's own, then the global ones."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "session"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        *(parameter.replace(kind=keyword) for parameter in own),
        *(
            inspect.Parameter(name, keyword, default=None, annotation=annotation)
            for name, annotation in _OPTIONS.items()
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
