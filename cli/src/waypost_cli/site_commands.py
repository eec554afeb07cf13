"""`waypost sites …`: options of each command and how sites are shown."""

from collections.abc import Sequence
from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels
from waypost_cli.output import Output, OutputFormat, add_row, clean, make_table
from waypost_cli.session import Session, connected

sites_app = typer.Typer(help="List sites, add them, let their agents join.")

TierFilter = Annotated[str | None, typer.Option("--tier", help="Of this tier only.")]
RegionFilter = Annotated[str | None, typer.Option("--region", help="In this region only.")]
HealthFilter = Annotated[str | None, typer.Option("--health", help="With this health only.")]


@sites_app.callback(invoke_without_command=True)
@connected()
def sites_command(session: Session) -> None:
    """List sites (as `waypost sites list`), add them, let their agents join."""
    _list(session, tier=None, region=None, health=None)


@sites_app.command("list")
@connected()
def list_command(
    session: Session,
    tier: TierFilter = None,
    region: RegionFilter = None,
    health: HealthFilter = None,
) -> None:
    """List sites with their health and what they serve."""
    _list(session, tier=tier, region=region, health=health)


@sites_app.command("add")
@connected()
def add_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="NAME")],
    tier: Annotated[str, typer.Option("--tier", help="hyperscale, regional or edge.")],
    region: Annotated[str, typer.Option("--region", help="Region, such as eu-west.")],
    latitude: Annotated[
        float | None, typer.Option("--latitude", min=-90, max=90, help="Degrees north.")
    ] = None,
    longitude: Annotated[
        float | None, typer.Option("--longitude", min=-180, max=180, help="Degrees east.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Label of the site, key=value; repeatable."),
    ] = None,
) -> None:
    """Add a site. Its agent joins with the token that `waypost sites token` makes."""
    site: dict[str, object] = {"name": name, "tier": tier, "region": region}
    if (latitude is None) != (longitude is None):
        raise CliError("only one of --latitude and --longitude is given", cure="give both or none")
    if latitude is not None:
        site.update(latitude=latitude, longitude=longitude)
    labels = parse_labels(label or [])
    if labels:
        site["labels"] = labels
    added = session.api.add_site(site)
    session.output.say(f"site {name} is added; next: waypost sites token {name}")
    if session.output.format is OutputFormat.JSON:
        session.output.document(added)
    else:
        _show(session.output, [added])


@sites_app.command("token")
@connected()
def token_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="NAME")],
) -> None:
    """Make a one-time token and print the one line to paste at the site."""
    made = session.api.make_enrolment_token(name)
    command = made.get("command")
    if not isinstance(command, str) or not command:
        raise CliError("the control plane sent no command for the site")
    session.output.say(
        f"run this line at site {name}; it works once, until {made.get('expires_at')}, and is"
        " not shown again:"
    )
    if session.output.format is OutputFormat.JSON:
        session.output.document(made)
    else:
        session.output.raw(clean(command))


@sites_app.command("new-key")
@connected()
def new_key_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="NAME")],
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="TIME", help="Until when; default: in a week."),
    ] = None,
) -> None:
    """Ask the site's agent for a new key; it makes one when it next logs in, within the hour."""
    agent = session.api.ask_for_new_key(name, by)
    session.output.say(
        f"the agent of {name} is asked for a new key, by {clean(str(agent.get('rotate_by')))}"
    )
    if session.output.format is OutputFormat.JSON:
        session.output.document(agent)


@sites_app.command("unlock")
@connected()
def unlock_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the site.")],
) -> None:
    """Let an agent in again that was locked because two held its key."""
    agent = session.api.unlock_agent(name, reason)
    session.output.say(f"the agent of {name} may log in again")
    if session.output.format is OutputFormat.JSON:
        session.output.document(agent)


@sites_app.command("waive-floor")
@connected()
def waive_floor_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the site.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the site.")] = "",
    take_back: Annotated[
        bool, typer.Option("--take-back", help="The floor holds there again.")
    ] = False,
) -> None:
    """Let versions that run code go to a site whose Triton is below the security floor."""
    if take_back:
        session.api.restore_triton_floor(name, reason)
        session.output.say(f"the security floor holds at {name} again")
        return
    if not reason.strip():
        raise CliError("--reason is missing", cure="say why; it is kept with the site")
    waived = session.api.waive_triton_floor(name, reason)
    session.output.say(f"the security floor of Triton is waived for {name}")
    if session.output.format is OutputFormat.JSON:
        session.output.document(waived)


def _list(session: Session, *, tier: str | None, region: str | None, health: str | None) -> None:
    filters = {"tier": tier, "region": region, "health": health}
    sites = session.api.list_sites({key: value for key, value in filters.items() if value})
    # Health is a verdict made at the moment of reading: a control plane may not filter by it.
    sites = [site for site in sites if health in (None, site.get("health"))]
    if session.output.format is OutputFormat.JSON:
        session.output.document(sites)
    else:
        _show(session.output, sites)


def _show(output: Output, sites: Sequence[Document]) -> None:
    table = make_table("site", "tier", "region", "health", "last seen", "models", "labels")
    for site in sites:
        cells = [site.get(key) for key in ("name", "tier", "region", "health")]
        seen = site.get("last_seen_at") or "never"
        add_row(table, [*cells, seen, _models(site.get("models")), _labels(site.get("labels"))])
    output.table(table)


def _models(models: object) -> str:
    """`vad 2` where desired and reported agree, else `vad 1 (wanted: 2)`."""
    shown = []
    for model in models if isinstance(models, list) else []:
        if not isinstance(model, dict):
            continue
        wanted, has = model.get("desired") or "none", model.get("reported") or "none"
        text = f"{model.get('model')} {has}"
        shown.append(text if wanted == has else f"{text} (wanted: {wanted})")
    return ", ".join(shown)


def _labels(labels: object) -> str:
    pairs = labels.items() if isinstance(labels, dict) else ()
    return ", ".join(f"{key}={value}" for key, value in sorted(pairs))
