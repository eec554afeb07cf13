"""`waypost rollout …`: plan, start, watch and list; which exit code each ends with."""

from typing import Annotated

import typer

from waypost_cli.durations import format_seconds, parse_seconds
from waypost_cli.errors import CliError, ExitCode, Finished
from waypost_cli.output import OutputFormat, show_rows
from waypost_cli.plan_view import show_plan
from waypost_cli.rollout import Rollout, read_rollout
from waypost_cli.rollout_options import (
    BarrierOption,
    ExcludeLabelOption,
    ExcludeSiteOption,
    ModelArgument,
    OnConflict,
    OnConflictOption,
    StageOption,
    StagesOption,
    StartAtOption,
    StrategyOption,
    VersionArgument,
    asked_rollout,
)
from waypost_cli.rollout_verbs import IdArgument, add_verbs
from waypost_cli.rollout_view import WaitView, show_rollout, show_rollouts
from waypost_cli.session import Session, connected
from waypost_cli.watch import SystemClock, watch

rollout_app = typer.Typer(no_args_is_help=True, help="Plan, start, watch and steer rollouts.")

TimeoutOption = Annotated[
    str,
    typer.Option(
        "--timeout", metavar="DURATION", help="Longest wait: 90s, 30m, 1h30m. The rollout goes on."
    ),
]


@rollout_app.command("plan")
@connected()
def plan_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    strategy: StrategyOption = None,
    stage: StageOption = None,
    stages: StagesOption = None,
    exclude_site: ExcludeSiteOption = None,
    exclude_label: ExcludeLabelOption = None,
    barrier: BarrierOption = None,
    start_at: StartAtOption = None,
    on_conflict: OnConflictOption = OnConflict.REFUSE,
) -> None:
    """Show what a rollout would do: every site's stage, who is left out and why. Starts nothing."""
    asked = asked_rollout(
        model=model,
        version=version,
        strategy=strategy,
        stage=stage,
        stages=stages,
        exclude_site=exclude_site,
        exclude_label=exclude_label,
        barrier=barrier,
        start_at=start_at,
        on_conflict=on_conflict,
    )
    show_plan(session.output, session.api.plan_rollout(asked))


@rollout_app.command("start")
@connected(junit=True)
def start_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    strategy: StrategyOption = None,
    stage: StageOption = None,
    stages: StagesOption = None,
    exclude_site: ExcludeSiteOption = None,
    exclude_label: ExcludeLabelOption = None,
    barrier: BarrierOption = None,
    start_at: StartAtOption = None,
    on_conflict: OnConflictOption = OnConflict.REFUSE,
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
    """Roll a version out over sites, in stages. With --wait it ends with exit code 4 as soon as
    only a person can let it go on: a pause, or an approval."""
    timeout_seconds = parse_seconds(timeout)
    if session.output.format is OutputFormat.JUNIT and not wait:
        raise CliError("--output junit needs an outcome", cure="add --wait")
    asked = asked_rollout(
        model=model,
        version=version,
        strategy=strategy,
        stage=stage,
        stages=stages,
        exclude_site=exclude_site,
        exclude_label=exclude_label,
        barrier=barrier,
        start_at=start_at,
        on_conflict=on_conflict,
    )
    for key, value in (("note", note or None), ("expect_plan", expect_plan)):
        if value is not None:
            asked[key] = value
    rollout = read_rollout(session.api.start_rollout(asked))
    session.output.say(
        f"rollout {rollout.id} of {model} version {version} {_begun(rollout, start_at)}"
    )
    if wait:
        _wait(session, rollout.id, timeout_seconds)
    else:
        show_rollout(session.output, rollout)


@rollout_app.command("status")
@connected(junit=True)
def status_command(session: Session, rollout_id: IdArgument) -> None:
    """Show a rollout, and why it stands where it stands. Exit code 2 when it turned back or ended
    unserved, 4 when it waits for a person (a pause, an approval), else 0."""
    watched = session.api.get_rollout(rollout_id)
    rollout = read_rollout(watched.rollout or {})
    show_rollout(session.output, rollout)
    _end_with(rollout.exit_code)


@rollout_app.command("wait")
@connected(junit=True)
def wait_command(session: Session, rollout_id: IdArgument, timeout: TimeoutOption = "30m") -> None:
    """Wait until a rollout ends or waits for a person. Exit code 0, 2, 3 (timed out) or 4."""
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


@rollout_app.command("events")
@connected()
def events_command(
    session: Session,
    rollout_id: IdArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
) -> None:
    """Show what happened to a rollout, newest first: who did what, when and why."""
    events = session.api.list_events(rollout_id, limit=limit)
    columns = {"at": "at", "actor": "who", "action": "what", "reason": "reason"}
    show_rows(session.output, events, columns)


add_verbs(rollout_app)


def _begun(rollout: Rollout, start_at: str | None) -> str:
    if rollout.state == "queued":
        return "waits in the queue"
    return f"starts at {start_at}" if start_at else "has started"


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
