"""`waypost approve`, `retire`, `unretire` and `waypost version …`: what people say of a version,
and where it stands on its way to be used."""

from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels
from waypost_cli.output import show_one, show_rows
from waypost_cli.rollout_options import ModelArgument, VersionArgument
from waypost_cli.rollout_verbs import NeededReasonOption, ReasonOption
from waypost_cli.session import Session, connected

version_app = typer.Typer(no_args_is_help=True, help="Show and describe versions of a model.")

_COLUMNS = {
    "model": "model",
    "version": "version",
    "state": "state",
    "waits": "waits for",
    "class": "class",
    "author": "author",
    "approved": "approved by",
    "in": "channels",
    "manifest_digest": "digest",
}
_SHORT = {
    "version": "version",
    "state": "state",
    "class": "class",
    "in": "channels",
    "said": "labels",
}


@connected()
def approve_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest",
            metavar="sha256:…",
            help="Of the version that you looked at; it is refused if its bytes are others. "
            "Without it: the bytes that the control plane has now.",
        ),
    ] = None,
    reason: ReasonOption = None,
) -> None:
    """Say yes to the bytes of a version, as the person behind the token. One that runs code needs
    two people, none of them its author."""
    if digest is None:
        found = session.api.get_version(model, version).get("manifest_digest")
        if not isinstance(found, str):
            raise CliError("the control plane did not say what the version's digest is")
        digest = found
    body = {"manifest_digest": digest, **({"reason": reason} if reason else {})}
    told = session.api.tell_version(model, version, verb="approve", body=body)
    session.output.say(f"approved {model} version {version}, {digest}")
    show_one(session.output, _shown(told), _COLUMNS)


@version_app.command("withdraw")
@connected()
def withdraw_command(
    session: Session, model: ModelArgument, version: VersionArgument, reason: NeededReasonOption
) -> None:
    """Take your approval of a version back; possible until a rollout of it is started."""
    _tell(session, model, version, "withdraw-approval", reason)


@connected()
def retire_command(
    session: Session, model: ModelArgument, version: VersionArgument, reason: NeededReasonOption
) -> None:
    """Take a version out of the choice: no new rollout brings it anywhere; sites that serve it go
    on, and a rollback to it stays possible."""
    _tell(session, model, version, "retire", reason)


@connected()
def unretire_command(
    session: Session, model: ModelArgument, version: VersionArgument, reason: NeededReasonOption
) -> None:
    """Take a retired version back into use."""
    _tell(session, model, version, "unretire", reason)


@version_app.command("show")
@connected()
def show_command(session: Session, model: ModelArgument, version: VersionArgument) -> None:
    """Show a version: its state, and what it waits for."""
    found = session.api.get_version(model, version)
    show_one(session.output, _shown(found), _COLUMNS)
    warnings = found.get("warnings")
    for sentence in warnings if isinstance(warnings, list) else ():
        session.output.warn(str(sentence))


@version_app.command("list")
@connected()
def list_command(session: Session, model: ModelArgument) -> None:
    """List the versions of a model, newest first."""
    rows = [_shown(row) for row in session.api.list_versions(model)]
    show_rows(session.output, rows, _SHORT)


@version_app.command("label")
@connected()
def label_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    labels: Annotated[
        list[str], typer.Argument(help="KEY=VALUE sets one, KEY- removes it.", metavar="LABEL...")
    ],
) -> None:
    """Set and remove labels of a version; the others stay."""
    removed = [text.removesuffix("-") for text in labels if "=" not in text and text.endswith("-")]
    given = parse_labels([text for text in labels if "=" in text or not text.endswith("-")])
    held = session.api.get_version(model, version).get("labels")
    kept = dict(held) if isinstance(held, dict) else {}
    for name in removed:
        kept.pop(name, None)
    changed = session.api.change_version(model, version, {"labels": {**kept, **given}})
    show_one(session.output, _shown(changed), {"version": "version", "said": "labels"})


@version_app.command("note")
@connected()
def note_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    text: Annotated[str, typer.Argument(help="In place of what stood there.", metavar="TEXT")],
) -> None:
    """Keep notes with a version."""
    changed = session.api.change_version(model, version, {"notes": text})
    show_one(session.output, _shown(changed), {"version": "version", "notes": "notes"})


def _tell(session: Session, model: str, version: str, verb: str, reason: str) -> None:
    told = session.api.tell_version(model, version, verb=verb, body={"reason": reason})
    show_one(session.output, _shown(told), _COLUMNS)


def _shown(version: Document) -> Document:
    """With what it waits for in words, for the table; JSON keeps all of it."""
    approval = version.get("approval")
    approval = approval if isinstance(approval, dict) else {}
    labels, channels = version.get("labels"), version.get("channels")
    counted = approval.get("counted")
    return {
        **version,
        "class": version.get("content_class", ""),
        "waits": version.get("state_reason", ""),
        "approved": ", ".join(map(str, counted)) if isinstance(counted, list) else "",
        "in": ", ".join(map(str, channels)) if isinstance(channels, list) else "",
        "said": ", ".join(f"{k}={v}" for k, v in labels.items())
        if isinstance(labels, dict)
        else "",
    }
