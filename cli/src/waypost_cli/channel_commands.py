"""`waypost channel …`: names such as `stable` that move from version to version."""

from typing import Annotated

import typer

from waypost_cli.output import show_one, show_rows
from waypost_cli.rollout_options import ModelArgument, VersionArgument
from waypost_cli.rollout_verbs import NeededReasonOption
from waypost_cli.session import Session, connected

channel_app = typer.Typer(
    no_args_is_help=True, help="Names that move from version to version of a model."
)

ChannelArgument = Annotated[str, typer.Argument(help="Such as stable.", metavar="CHANNEL")]
_COLUMNS = {
    "model": "model",
    "name": "channel",
    "version": "version",
    "strategy": "rolled out by",
    "person": "moved by",
    "moved_at": "at",
    "outcome": "outcome",
}


@channel_app.command("list")
@connected()
def list_command(session: Session, model: ModelArgument) -> None:
    """List a model's channels, and what came of their last moves."""
    show_rows(session.output, session.api.list_channels(model), _COLUMNS)


@channel_app.command("move")
@connected()
def move_command(
    session: Session,
    model: ModelArgument,
    channel: ChannelArgument,
    version: VersionArgument,
    reason: NeededReasonOption,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            metavar="NAME",
            help="Roll this move and later ones out by it; none: a move starts nothing. "
            "Without it: as it is stored.",
        ),
    ] = None,
) -> None:
    """Point a channel at an approved version; with a strategy the engine rolls it out."""
    body: dict[str, object] = {"version": version, "reason": reason}
    if strategy is not None:
        body["strategy"] = "" if strategy == "none" else strategy
    moved = session.api.move_channel(model, channel, body)
    session.output.say(f"{model}@{channel} points at version {version}")
    show_one(session.output, moved, _COLUMNS)


@channel_app.command("remove")
@connected()
def remove_command(session: Session, model: ModelArgument, channel: ChannelArgument) -> None:
    """Remove a channel. What it started goes on."""
    session.api.remove_channel(model, channel)
    session.output.say(f"{model}@{channel} is removed")
