"""`waypost quarantine`, `release`, `drift`, `pin` and `unpin`: versions out of use, and sites that
serve something else than is desired."""

from enum import StrEnum
from typing import Annotated

import typer

from waypost_cli.output import show_one, show_rows
from waypost_cli.rollout_options import ModelArgument, VersionArgument
from waypost_cli.rollout_verbs import NeededReasonOption, ReasonOption
from waypost_cli.session import Session, connected

drift_app = typer.Typer(help="Sites that serve something else than is desired.")

SiteArgument = Annotated[str, typer.Argument(help="Name of the site.", metavar="SITE")]
_VERSION = {"model": "model", "version": "version", "state": "state", "state_reason": "reason"}
_PIN = {
    "site": "site",
    "model": "model",
    "desired": "version",
    "pinned_by": "pinned by",
    "pinned_reason": "reason",
}
_DRIFT = {
    "site": "site",
    "model": "model",
    "desired": "desired",
    "reported": "reported",
    "since": "since",
    "drift_policy": "policy",
    "hold": "not acted on now",
}


class DriftPolicy(StrEnum):
    """What is done about a site that serves something else."""

    CORRECT = "correct"
    HOLD = "hold"
    ADOPT = "adopt"


@connected()
def quarantine_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    reason: NeededReasonOption,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Its rollout turns back as well.")
    ] = False,
) -> None:
    """Take a version out of use: it is offered and activated nowhere any more."""
    body = {"reason": reason, "roll_back": roll_back}
    told = session.api.tell_version(model, version, verb="quarantine", body=body)
    session.output.say(f"{model} version {version} is quarantined")
    show_one(session.output, told, _VERSION)


@connected()
def release_command(
    session: Session, model: ModelArgument, version: VersionArgument, reason: NeededReasonOption
) -> None:
    """Let a quarantined version be used again."""
    told = session.api.tell_version(model, version, verb="release", body={"reason": reason})
    session.output.say(f"{model} version {version} may be used again")
    show_one(session.output, told, _VERSION)


@connected()
def pin_command(
    session: Session, site: SiteArgument, model: ModelArgument, reason: NeededReasonOption
) -> None:
    """Hold a model at a site as it is: rollouts leave the site out."""
    told = session.api.tell_site_model(site, model, verb="pin", reason=reason)
    show_one(session.output, told, _PIN)


@connected()
def unpin_command(
    session: Session, site: SiteArgument, model: ModelArgument, reason: ReasonOption = None
) -> None:
    """Let rollouts of a model reach a site again."""
    told = session.api.tell_site_model(site, model, verb="unpin", reason=reason)
    show_one(session.output, told, _PIN)


@drift_app.callback(invoke_without_command=True)
@connected()
def drift_command(
    session: Session,
    site: Annotated[str | None, typer.Option("--site", help="Of this site only.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of this model only.")] = None,
) -> None:
    """List the sites that serve another version than is desired, and since when."""
    filters = {key: value for key, value in (("site", site), ("model", model)) if value}
    show_rows(session.output, session.api.list_drift(filters), _DRIFT)


@drift_app.command("policy")
@connected()
def policy_command(
    session: Session,
    model: ModelArgument,
    policy: Annotated[DriftPolicy, typer.Argument(help="What to do.", metavar="POLICY")],
    reason: ReasonOption = None,
) -> None:
    """Say what is done about a site that serves another version of a model: correct it, hold (leave
    it and show it), or adopt what it serves."""
    body = {"drift_policy": policy.value, **({"reason": reason} if reason else {})}
    told = session.api.set_drift_policy(model, body)
    show_one(session.output, told, {"name": "model", "drift_policy": "policy"})
