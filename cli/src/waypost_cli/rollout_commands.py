"""`waypost rollout …`: options of each command and which exit code it ends with."""

from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.durations import format_seconds, parse_seconds
from waypost_cli.errors import CliError, ExitCode, Finished
from waypost_cli.output import OutputFormat
from waypost_cli.plan_view import show_plan
from waypost_cli.rollout import read_rollout
from waypost_cli.rollout_view import WaitView, show_rollout, show_rollouts
from waypost_cli.session import Session, connected
from waypost_cli.stages import plan_from_options
from waypost_cli.watch import SystemClock, watch

rollout_app = typer.Typer(no_args_is_help=True, help="Start, watch and steer rollouts.")

IdArgument = Annotated[str, typer.Argument(help="Number of the rollout.", metavar="ID")]
TimeoutOption = Annotated[
    str,
    typer.Option(
        "--timeout", metavar="DURATION", help="Longest wait: 90s, 30m, 1h30m. The rollout goes on."
    ),
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why, for those who read it later.")
]
NeededReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why, for those who read it later.")
]


ModelArgument = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
VersionArgument = Annotated[str, typer.Argument(help="Number of the version.", metavar="VERSION")]
StageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        metavar="STAGE",
        help='One stage, in order, repeatable: "canary tier=edge percent=10 soak=30s". A name,'
        " then any of tier=TIER, label.KEY=VALUE, sites=A,B, percent=N, soak=DURATION (60s);"
        " conditions narrow each other, none means all sites that are left."
        " Without any --stage: 10 %, 50 %, the rest.",
    ),
]
StagesOption = Annotated[
    Path | None, typer.Option("--stages", metavar="FILE", help="The stages as a JSON list.")
]


@rollout_app.command("plan")
@connected()
def plan_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    stage: StageOption = None,
    stages: StagesOption = None,
) -> None:
    """Show what a rollout would do: every site's stage, who is left out and why. Starts nothing."""
    asked = plan_from_options(stage or [], stages)
    show_plan(session.output, session.api.plan_rollout(model=model, version=version, stages=asked))


@rollout_app.command("start")
@connected(junit=True)
def start_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    stage: StageOption = None,
    stages: StagesOption = None,
    note: Annotated[
        str | None, typer.Option("--note", metavar="TEXT", help="What this rollout is for.")
    ] = None,
    expect_plan: Annotated[
        str | None,
        typer.Option(
            "--expect-plan",
            metavar="DIGEST",
            help="Start only if the plan is still the one that `rollout plan` showed.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; the exit code is the outcome.")
    ] = False,
    timeout: TimeoutOption = "30m",
) -> None:
    """Roll a version out over sites, in stages."""
    timeout_seconds = parse_seconds(timeout)
    if session.output.format is OutputFormat.JUNIT and not wait:
        raise CliError("--output junit needs an outcome", cure="add --wait")
    plan = plan_from_options(stage or [], stages)
    document = session.api.start_rollout(
        model=model, version=version, stages=plan, note=note or None, expect_plan=expect_plan
    )
    rollout = read_rollout(document)
    session.output.say(f"rollout {rollout.id} of {model} version {version} has started")
    if wait:
        _wait(session, rollout.id, timeout_seconds)
    else:
        show_rollout(session.output, rollout)


@rollout_app.command("status")
@connected(junit=True)
def status_command(session: Session, rollout_id: IdArgument) -> None:
    """Show a rollout. Exit code 2 when it turned back or ended unserved, 4 when it waits for a
    person, else 0."""
    watched = session.api.get_rollout(rollout_id)
    rollout = read_rollout(watched.rollout or {})
    show_rollout(session.output, rollout)
    _end_with(rollout.exit_code)


@rollout_app.command("wait")
@connected(junit=True)
def wait_command(session: Session, rollout_id: IdArgument, timeout: TimeoutOption = "30m") -> None:
    """Wait until a rollout ends or asks for a choice. Exit code 0, 2, 3 (timed out) or 4."""
    _wait(session, rollout_id, parse_seconds(timeout))


@rollout_app.command("list")
@connected()
def list_command(
    session: Session,
    model: Annotated[str | None, typer.Option("--model", help="Of this model only.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="In this state only.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
) -> None:
    """List rollouts, newest first."""
    filters = {"model": model, "state": state}
    given = {key: value for key, value in filters.items() if value}
    show_rollouts(session.output, session.api.list_rollouts(given, limit=limit))


@rollout_app.command("pause")
@connected()
def pause_command(session: Session, rollout_id: IdArgument, reason: ReasonOption = None) -> None:
    """Hold a rollout: what runs is finished, nothing new begins."""
    _tell(session, rollout_id, "pause", reason)


@rollout_app.command("resume")
@connected()
def resume_command(session: Session, rollout_id: IdArgument, reason: ReasonOption = None) -> None:
    """Let a paused rollout go on."""
    _tell(session, rollout_id, "resume", reason)


@rollout_app.command("abort")
@connected()
def abort_command(session: Session, rollout_id: IdArgument, reason: NeededReasonOption) -> None:
    """Stop a rollout where it is."""
    _tell(session, rollout_id, "abort", reason)


@rollout_app.command("rollback")
@connected()
def rollback_command(session: Session, rollout_id: IdArgument, reason: NeededReasonOption) -> None:
    """Return the rollout's sites to the version they served before."""
    _tell(session, rollout_id, "rollback", reason)


def _tell(session: Session, rollout_id: str, verb: str, reason: str | None) -> None:
    """The exit code says whether the order was taken, not how the rollout ends."""
    document = session.api.tell_rollout(rollout_id, verb=verb, reason=reason)
    show_rollout(session.output, read_rollout(document))


def _wait(session: Session, rollout_id: str, timeout_seconds: int) -> None:
    output = session.output
    try:
        with WaitView(output) as view:
            watched = watch(
                session.api,
                rollout_id,
                timeout_seconds=timeout_seconds,
                observer=view,
                clock=SystemClock(),
            )
    except KeyboardInterrupt:
        output.say(f"no longer watching; the rollout goes on: waypost rollout wait {rollout_id}")
        raise
    show_rollout(output, watched.rollout, timed_out=watched.timed_out)
    if watched.timed_out:
        output.say(
            f"not ended within {format_seconds(timeout_seconds)}; the rollout goes on:"
            f" waypost rollout wait {rollout_id}"
        )
    _end_with(watched.exit_code)


def _end_with(exit_code: ExitCode) -> None:
    if exit_code is not ExitCode.OK:
        raise Finished(exit_code)
