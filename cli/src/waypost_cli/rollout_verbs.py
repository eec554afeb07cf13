"""What a person may do to a rollout from the command line. The exit code says whether the order was
taken, not how the rollout ends."""

from enum import StrEnum
from typing import Annotated

import typer

from waypost_cli.durations import parse_seconds
from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels
from waypost_cli.output import show_one
from waypost_cli.rollout import read_rollout
from waypost_cli.rollout_view import show_rollout
from waypost_cli.session import Session, connected

IdArgument = Annotated[str, typer.Argument(help="Number of the rollout.", metavar="ID")]
_VERDICT_KEYS = ("gate", "verdict", "reason", "judged_at", "fresh_until")
_WHY = "Why, for those who read it later."
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help=_WHY)]
NeededReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help=_WHY)]


class Choice(StrEnum):
    """What is to become of that which made the engine pause."""

    RETRY = "retry"
    ACCEPT = "accept"
    ROLLBACK = "rollback"


class Verdict(StrEnum):
    """What a gate may say."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


def add_verbs(app: typer.Typer) -> None:
    """Puts the commands of this module below `waypost rollout`."""
    app.command("pause")(_pause)
    app.command("resume")(_resume)
    app.command("promote")(_promote)
    app.command("retry-failed")(_retry_failed)
    app.command("approve")(_approve)
    app.command("abort")(_abort)
    app.command("stop-waiting")(_stop_waiting)
    app.command("rollback")(_rollback)


@connected()
def _pause(session: Session, rollout_id: IdArgument, reason: ReasonOption = None) -> None:
    """Hold a rollout: what runs is finished, nothing new begins."""
    _tell(session, rollout_id, "pause", reason=reason)


@connected()
def _resume(
    session: Session,
    rollout_id: IdArgument,
    choice: Annotated[
        Choice | None,
        typer.Option(
            "--choice",
            help="Needed after a pause by the engine: try again what failed, accept it as it is, or"
            " roll back.",
        ),
    ] = None,
    reason: ReasonOption = None,
) -> None:
    """Let a paused rollout go on. After a pause by the engine with a --choice and a --reason."""
    _tell(session, rollout_id, "resume", choice=choice and choice.value, reason=reason)


@connected()
def _promote(session: Session, rollout_id: IdArgument, reason: NeededReasonOption) -> None:
    """End the soak of the stage that soaks. It stands for missing evidence, not for an approval."""
    _tell(session, rollout_id, "promote", reason=reason)


@connected()
def _retry_failed(session: Session, rollout_id: IdArgument, reason: ReasonOption = None) -> None:
    """Try every failed site again, at once."""
    _tell(session, rollout_id, "retry-failed", reason=reason)


@connected()
def _approve(
    session: Session,
    rollout_id: IdArgument,
    plan: Annotated[
        str,
        typer.Option(
            "--plan",
            metavar="DIGEST",
            help="Digest of the plan that you looked at; another one is not approved.",
        ),
    ],
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="NAME", help="This stage. Without it: the whole plan."),
    ] = None,
    reason: ReasonOption = None,
) -> None:
    """Say yes to a plan, or to a stage of it. It is never the author's to say."""
    _tell(session, rollout_id, "approve", plan_digest=plan, stage=stage, reason=reason)


@connected()
def _abort(session: Session, rollout_id: IdArgument, reason: NeededReasonOption) -> None:
    """Stop a rollout where it is: who has the version keeps it."""
    _tell(session, rollout_id, "abort", reason=reason)


@connected()
def _stop_waiting(session: Session, rollout_id: IdArgument, reason: NeededReasonOption) -> None:
    """End a rollback or an abort without the sites it waits for; each returns when it can."""
    _tell(session, rollout_id, "stop-waiting", reason=reason)


@connected()
def _rollback(
    session: Session,
    rollout_id: IdArgument,
    reason: NeededReasonOption,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Only the sites of this stage.")
    ] = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="SITE", help="Only this site.")
    ] = None,
) -> None:
    """Return the rollout's sites to the version they served before."""
    _tell(session, rollout_id, "rollback", stage=stage, site=site, reason=reason)


@connected()
def gate_command(
    session: Session,
    rollout_id: IdArgument,
    stage: Annotated[str, typer.Argument(help="Name of the stage.", metavar="STAGE")],
    gate: Annotated[str, typer.Argument(help="Name of the gate.", metavar="GATE")],
    verdict: Annotated[Verdict, typer.Argument(help="What it says.", metavar="VERDICT")],
    reason: ReasonOption = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option("--evidence", metavar="KEY=VALUE", help="What it saw; repeatable."),
    ] = None,
    fresh: Annotated[
        str | None,
        typer.Option(
            "--fresh", metavar="DURATION", help="Counts for so long. Without it: for good."
        ),
    ] = None,
) -> None:
    """Say what a gate makes of a stage: pass, fail, inconclusive or error. The newest word counts,
    and a failing one stops the rollout."""
    if verdict is Verdict.FAIL and not reason:
        raise CliError("a failing gate says why", cure="add --reason")
    body: dict[str, object] = {"verdict": verdict.value}
    if reason:
        body["reason"] = reason
    if evidence:
        body["evidence"] = parse_labels(evidence)
    if fresh is not None:
        body["fresh_seconds"] = parse_seconds(fresh)
    told = session.api.set_verdict(rollout_id, stage=stage, gate=gate, verdict=body)
    columns = {key: key.replace("_", " ") for key in _VERDICT_KEYS}
    show_one(session.output, told, columns)


def _tell(session: Session, rollout_id: str, verb: str, **asked: str | None) -> None:
    body = {key: value for key, value in asked.items() if value}
    document = session.api.tell_rollout(rollout_id, verb=verb, body=body)
    show_rollout(session.output, read_rollout(document))
