"""`waypost freeze …` and `waypost budget`: what stands above all rollouts."""

from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.errors import CliError
from waypost_cli.output import show_one, show_rows
from waypost_cli.rollout_verbs import ReasonOption
from waypost_cli.selectors import selector_of
from waypost_cli.session import Session, connected

freeze_app = typer.Typer(help="Hold offers and activations everywhere or at some sites.")

_COLUMNS = {
    "id": "id",
    "holds": "holds",
    "sites": "sites now",
    "created_by": "by",
    "created_at": "since",
    "until": "until",
    "reason": "reason",
}


@freeze_app.callback(invoke_without_command=True)
@connected()
def freeze_command(
    session: Session,
    site: Annotated[
        list[str] | None, typer.Option("--site", metavar="SITE", help="These sites; repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Sites with this label; repeatable."),
    ] = None,
    tier: Annotated[str | None, typer.Option("--tier", help="Sites of this tier.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Sites in this region.")] = None,
    reason: ReasonOption = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="TIME",
            help="Ends by itself then: 2026-12-01T06:00:00+01:00. Without it: when it is lifted.",
        ),
    ] = None,
) -> None:
    """Freeze at once: nothing is offered or activated, sites that are switching finish. Conditions
    narrow each other; without any every site is held."""
    if not reason:
        raise CliError("a freeze needs a reason: everybody who waits reads it", cure="add --reason")
    selector = selector_of(sites=site, labels=label, tier=tier, region=region)
    asked: dict[str, object] = {"selector": selector, "reason": reason}
    if until:
        asked["until"] = until
    made = session.api.freeze(asked)
    session.output.say(
        f"freeze {made.get('id')} holds {made.get('sites')} sites;"
        f" to end it: waypost freeze lift {made.get('id')}"
    )
    show_one(session.output, _shown(made), _COLUMNS)


@freeze_app.command("list")
@connected()
def list_command(
    session: Session,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
) -> None:
    """List the freezes that are in force."""
    filters = {} if all_ else {"active": "true"}
    freezes = session.api.list_freezes(filters)
    show_rows(session.output, [_shown(freeze) for freeze in freezes], _COLUMNS)


@freeze_app.command("lift")
@connected()
def lift_command(
    session: Session,
    freeze_id: Annotated[str, typer.Argument(help="Number of the freeze.", metavar="ID")],
    reason: ReasonOption = None,
) -> None:
    """End a freeze: what waits goes on."""
    lifted = session.api.lift_freeze(freeze_id, reason=reason)
    session.output.say(f"freeze {freeze_id} is lifted")
    show_one(session.output, _shown(lifted), _COLUMNS)


@connected()
def budget_command(
    session: Session,
    changing_percent: Annotated[
        str | None,
        typer.Option(
            "--changing-percent",
            metavar="N|none",
            help="At most so many per cent of all sites may activate something within an hour.",
        ),
    ] = None,
    reason: ReasonOption = None,
) -> None:
    """Show the budget over all rollouts, or set it."""
    columns = {"changing_percent": "sites changing per hour, %"}
    if changing_percent is None:
        show_one(session.output, session.api.get_budget(), columns)
        return
    asked: dict[str, object] = {"changing_percent": _percent(changing_percent)}
    if reason:
        asked["reason"] = reason
    show_one(session.output, session.api.set_budget(asked), columns)


def _percent(text: str) -> int | None:
    if text == "none":
        return None
    number = text.removesuffix("%")
    if not (number.isascii() and number.isdigit() and len(number) <= 3):
        raise CliError(f"{text!r} is no share of sites", cure="give 1 to 100, or none")
    return int(number)


def _shown(freeze: Document) -> Document:
    """With its selector in words, for the table; JSON keeps it too."""
    selector = freeze.get("selector")
    words = []
    for key, value in selector.items() if isinstance(selector, dict) else ():
        if isinstance(value, dict):
            value = ", ".join(f"{k}={v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        words.append(f"{key} {value}")
    return {**freeze, "holds": "; ".join(words) or "every site"}
