"""`waypost strategy …`: named ways through the fleet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.errors import CliError
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.rollout_verbs import ReasonOption
from waypost_cli.session import Session, connected

strategy_app = typer.Typer(no_args_is_help=True, help="List, show and keep strategies.")

NameArgument = Annotated[
    str, typer.Argument(help="Name, or NAME@VERSION.", metavar="NAME[@VERSION]")
]


@strategy_app.command("list")
@connected()
def list_command(session: Session) -> None:
    """List the strategies a rollout can be started by, the built-in ones first."""
    strategies = session.api.list_strategies()
    if session.output.format is OutputFormat.JSON:
        session.output.document(strategies)
        return
    table = make_table("strategy", "title", "stages", "")
    for strategy in strategies:
        stages = ", ".join(str(stage.get("name")) for stage in _stages(strategy))
        kind = "built in" if strategy.get("built_in") else ""
        add_row(table, (_named(strategy), strategy.get("title"), stages, kind))
    session.output.table(table)


@strategy_app.command("show")
@connected()
def show_command(session: Session, name: NameArgument) -> None:
    """Show a strategy: the latest version in use, or the one that is named."""
    plain, _, version = name.partition("@")
    _show(session.output, session.api.get_strategy(plain, version or None))


@strategy_app.command("create")
@connected()
def create_command(
    session: Session,
    file: Annotated[Path, typer.Argument(help="The strategy as JSON.", metavar="FILE")],
) -> None:
    """Keep a strategy, or the next version of one. Rollouts that run stay as they were planned."""
    kept = session.api.create_strategy(_read(file))
    session.output.say(f"kept as {_named(kept)}: waypost rollout plan MODEL N --strategy NAME")
    _show(session.output, kept)


@strategy_app.command("retire")
@connected()
def retire_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the strategy.", metavar="NAME")],
    reason: ReasonOption = None,
) -> None:
    """Take a strategy out of use. Rollouts that were planned by it go on."""
    retired = session.api.retire_strategy(name, reason=reason)
    session.output.say(f"strategy {name} is retired")
    _show(session.output, retired)


def _show(output: Output, strategy: Document) -> None:
    if output.format is OutputFormat.JSON:
        output.document(strategy)
        return
    table = make_table("stage", "selects", "soak s", "policy", title=_title(strategy))
    for stage in _stages(strategy):
        policy = _words(stage.get("policy"))
        if stage.get("trailing"):
            policy = ", ".join(filter(None, ["trailing", policy]))
        cells = (stage.get("name"), _words(stage.get("select")) or "all that are left")
        add_row(table, (*cells, stage.get("soak_seconds"), policy))
    output.table(table)


def _title(strategy: Document) -> str:
    approval = strategy.get("approval")
    terms = [
        "barrier" if strategy.get("barrier") else "",
        "takes late joiners" if strategy.get("late_joiners") else "",
        "needs approval" if isinstance(approval, dict) and approval.get("required") else "",
        "retired" if strategy.get("retired") else "",
    ]
    said = [f"{_named(strategy)}: {strategy.get('title')}", *filter(None, terms)]
    return ", ".join(said)


def _named(strategy: Document) -> str:
    return f"{strategy.get('name')}@{strategy.get('version')}"


def _stages(strategy: Document) -> list[Document]:
    stages = strategy.get("stages")
    return [s for s in stages if isinstance(s, dict)] if isinstance(stages, list) else []


def _words(document: object) -> str:
    pairs = document.items() if isinstance(document, dict) else ()
    return ", ".join(f"{key} {json.dumps(value)}".replace('"', "") for key, value in pairs)


def _read(path: Path) -> Document:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CliError(f"the strategy file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CliError(f"the strategy file {path} is not JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise CliError(
            f"the strategy file {path} holds no object",
            cure='write {"name": "night-shift", "stages": [{"name": "edge"}]}',
        )
    return document
