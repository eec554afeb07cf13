"""`waypost keys …`: which public keys may sign versions."""

from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.errors import CliError
from waypost_cli.output import show_one, show_rows
from waypost_cli.session import Session, connected
from waypost_cli.sign_command import shown_key

keys_app = typer.Typer(help="Say which keys may sign versions. Only public halves come here.")

_MAX_KEY_BYTES = 4000
_COLUMNS = {
    "name": "name",
    "state": "state",
    "key_type": "type",
    "fingerprint": "fingerprint (SHA-256)",
    "added_by": "by",
    "added_at": "since",
    "revoked_reason": "revoked because",
}


@keys_app.callback(invoke_without_command=True)
@connected()
def keys_command(session: Session) -> None:
    """List the keys (as `waypost keys list`), add and revoke them."""
    _list(session)


@keys_app.command("list")
@connected()
def list_command(session: Session) -> None:
    """List the keys, revoked ones too."""
    _list(session)


@keys_app.command("add")
@connected()
def add_command(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="Name of the key, such as release-2026.", metavar="NAME")
    ],
    public_key: Annotated[
        Path,
        typer.Argument(
            help="Its public half in PEM: openssl pkey -in KEY -pubout.", metavar="PUBLIC_KEY"
        ),
    ],
) -> None:
    """Let a key sign versions. Sites have a list of their own: [trust] in agent.toml."""
    try:
        text = public_key.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise CliError(f"{public_key} cannot be read as PEM: {error}") from error
    if "PRIVATE KEY" in text:
        raise CliError(
            f"{public_key} holds a private key; nothing was sent",
            cure=f"give its public half: openssl pkey -in {public_key} -pubout -out public.pem",
        )
    if len(text) > _MAX_KEY_BYTES:
        raise CliError(f"{public_key} has {len(text)} characters; that is no public key")
    added = session.api.add_signing_key(name=name, public_key=text)
    session.output.say(f"signatures by {name} count from now on")
    show_one(session.output, shown_key(added), _COLUMNS)


@keys_app.command("revoke")
@connected()
def revoke_command(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of the key.", metavar="NAME")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the key.")],
) -> None:
    """Let a key's signatures count no more. It cannot be taken back."""
    revoked = session.api.revoke_signing_key(name, reason=reason)
    session.output.warn("sites that hold this key go on trusting it: take it out of agent.toml too")
    show_one(session.output, shown_key(revoked), _COLUMNS)


def _list(session: Session) -> None:
    keys = [shown_key(key) for key in session.api.list_signing_keys()]
    show_rows(session.output, keys, _COLUMNS)
