"""`waypost tokens …` and `waypost publishers …`: what CI jobs prove themselves with."""

from collections.abc import Mapping
from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.labels import parse_labels
from waypost_cli.output import OutputFormat, show_one, show_rows
from waypost_cli.rollout_verbs import ReasonOption
from waypost_cli.session import Session, connected

tokens_app = typer.Typer(no_args_is_help=True, help="Make, list and end API tokens.")
publishers_app = typer.Typer(
    no_args_is_help=True, help="CI jobs that may trade their identity for a short token."
)

ScopeOption = Annotated[
    list[str],
    typer.Option("--scope", metavar="SCOPE", help="What it may do, such as push; repeatable."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="MODEL", help="Writes to this model alone; repeatable."),
]
_TOKENS = {
    "id": "id",
    "name": "name",
    "hint": "begins with",
    "scopes": "scopes",
    "models": "models",
    "expires_at": "expires",
    "last_used_at": "last used",
    "revoked_at": "revoked",
}
_PUBLISHERS = {
    "name": "name",
    "issuer": "issuer",
    "audience": "audience",
    "claims": "claims",
    "scopes": "scopes",
    "models": "models",
    "last_used_at": "last used",
    "revoked_at": "revoked",
}


@tokens_app.command("create")
@connected()
def create_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it is for.", metavar="NAME")],
    scope: ScopeOption,
    model: ModelOption = None,
    days: Annotated[
        float | None,
        typer.Option("--days", min=0.001, max=365, help="Its life; 90 when left out."),
    ] = None,
) -> None:
    """Make a token with no more than this one may do. Its secret is alone on stdout, once."""
    asked: dict[str, object] = {"name": name, "scopes": scope}
    if model:
        asked["models"] = model
    if days is not None:
        asked["days"] = days
    made = session.api.create_token(asked)
    if session.output.format is OutputFormat.JSON:
        session.output.document(made)
        return
    session.output.say(f"token {made.get('id')} lives until {made.get('expires_at')}; shown once:")
    session.output.raw(str(made.get("token")))


@tokens_app.command("list")
@connected()
def list_command(
    session: Session,
    all_: Annotated[bool, typer.Option("--all", help="Also those that work no more.")] = False,
) -> None:
    """List the tokens of the person behind this one."""
    tokens = session.api.list_tokens({} if all_ else {"live": "true"})
    shown = tokens if session.output.format is OutputFormat.JSON else map(_shown, tokens)
    show_rows(session.output, list(shown), _TOKENS)


@tokens_app.command("revoke")
@connected()
def revoke_command(
    session: Session,
    token_id: Annotated[str, typer.Argument(help="Number of the token.", metavar="ID")],
    reason: ReasonOption = None,
) -> None:
    """End a token: its next request is refused."""
    ended = session.api.revoke_token(token_id, reason=reason)
    session.output.say(f"token {token_id} is revoked")
    show_one(session.output, _as_shown(session, ended), _TOKENS)


@publishers_app.command("list")
@connected()
def list_publishers_command(session: Session) -> None:
    """List whose identities are traded for tokens."""
    found = session.api.list_publishers()
    shown = found if session.output.format is OutputFormat.JSON else map(_shown, found)
    show_rows(session.output, list(shown), _PUBLISHERS)


@publishers_app.command("add")
@connected()
def add_publisher_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="A name for it, for ever.", metavar="NAME")],
    issuer: Annotated[str, typer.Option("--issuer", help="The claim iss: an https URL.")],
    claim: Annotated[
        list[str],
        typer.Option("--claim", metavar="NAME=VALUE", help="Must be exactly so; repeatable."),
    ],
    scope: ScopeOption,
    audience: Annotated[str, typer.Option("--audience", help="The claim aud.")] = "waypost",
    model: ModelOption = None,
    minutes: Annotated[
        int, typer.Option("--minutes", min=1, max=60, help="Life of its tokens.")
    ] = 15,
) -> None:
    """Trust the jobs of an issuer whose identities have these claims."""
    asked: dict[str, object] = {
        "name": name,
        "issuer": issuer,
        "audience": audience,
        "claims": parse_labels(claim),
        "scopes": scope,
        "models": model or [],
        "minutes": minutes,
    }
    added = session.api.add_publisher(asked)
    session.output.say(f"jobs of {name} may trade their identity at /api/v1/tokens/exchange")
    show_one(session.output, _as_shown(session, added), _PUBLISHERS)


@publishers_app.command("revoke")
@connected()
def revoke_publisher_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the publisher.", metavar="NAME")],
    reason: ReasonOption = None,
) -> None:
    """Trust its jobs no more. Tokens that were given live on for minutes."""
    ended = session.api.revoke_publisher(name, reason=reason)
    session.output.say(f"publisher {name} is trusted no more")
    show_one(session.output, _as_shown(session, ended), _PUBLISHERS)


def _as_shown(session: Session, document: Document) -> Document:
    return document if session.output.format is OutputFormat.JSON else _shown(document)


def _shown(document: Document) -> Document:
    """Lists and objects in words, for the table."""
    return {key: _words(value) for key, value in document.items()}


def _words(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
