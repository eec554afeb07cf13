"""How a rollout is shown: tables, JSON, JUnit, and the lines or the moving picture while waiting.

It must not decide what a state means or when waiting ends."""

from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.table import Table

from waypost_cli.api import Document
from waypost_cli.durations import format_seconds
from waypost_cli.errors import UnavailableError
from waypost_cli.junit import junit_xml
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.rollout import Rollout, Stage, read_rollout

_WHOM = {
    "person": "a person",
    "sites": "its sites",
    "time": "a time to come",
    "engine": "the engine",
}


class WaitView:
    """Writes a line for each change on stderr; on a terminal the stages stand below, live."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live = Live(console=output.stderr, transient=True, auto_refresh=False)

    def __enter__(self) -> "WaitView":
        if self._output.live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def changed(self, rollout: Rollout, lines: list[str], *, elapsed_seconds: float) -> None:
        for line in lines:
            self._say(line, elapsed_seconds)
        if self._live.is_started:
            self._live.update(rollout_group(rollout), refresh=True)

    def unavailable(self, error: UnavailableError, *, elapsed_seconds: float) -> None:
        self._say(f"{error.message}; asking again", elapsed_seconds)

    def _say(self, line: str, elapsed_seconds: float) -> None:
        self._output.say(f"[{format_seconds(elapsed_seconds):>6}] {line}")


def show_rollout(output: Output, rollout: Rollout, *, timed_out: bool = False) -> None:
    """The result on stdout, in the form that was asked for."""
    if output.format is OutputFormat.JSON:
        output.document(rollout.document)
    elif output.format is OutputFormat.JUNIT:
        output.raw(junit_xml(rollout, timed_out=timed_out))
    else:
        for table in _tables(rollout):
            output.table(table)
        if not rollout.final:
            output.say(standing(rollout))
    if rollout.superseded_by:
        output.say(f"rollout {rollout.superseded_by} takes the place of rollout {rollout.id}")
    if rollout.state == "succeeded_with_exceptions":
        output.warn(f"rollout {rollout.id} has succeeded with exceptions: {rollout.reason}")


def standing(rollout: Rollout) -> str:
    """One sentence: for whom it waits, since when, why not yet, and what would release it."""
    whom = _WHOM.get("person" if rollout.needs_person else rollout.waits_for, "the next turn")
    since = f" since {rollout.since:%Y-%m-%d %H:%M} UTC" if rollout.since else ""
    said = f"rollout {rollout.id} waits for {whom}{since}: {rollout.reason or rollout.state}"
    if not rollout.needs_person:
        return said
    if rollout.reason_code == "approval-pending":
        return f"{said}; waypost rollout approve {rollout.id} --plan {rollout.plan_digest}"
    verbs = ", ".join(rollout.allowed_verbs) or "resume, abort, rollback"
    choices = f"; resume wants --choice {', '.join(rollout.choices)}" if rollout.choices else ""
    return f"{said}; allowed now: {verbs}{choices}"


def show_rollouts(output: Output, documents: Sequence[Document]) -> None:
    if output.format is OutputFormat.JSON:
        output.document(list(documents))
        return
    table = make_table("id", "model", "version", "state", "created", "reason")
    for document in documents:
        rollout = read_rollout(document)
        created = document.get("created_at")
        identity = (rollout.id, rollout.model, rollout.version)
        add_row(table, (*identity, rollout.state, created, rollout.reason))
    output.table(table)


def rollout_group(rollout: Rollout) -> Group:
    """Everything about a rollout as one picture."""
    return Group(*_tables(rollout))


def _tables(rollout: Rollout) -> list[Table]:
    head = f"rollout {rollout.id}: {rollout.model} version {rollout.version}"
    stages = make_table("stage", "state", "sites", "soak", "reason", title=head)
    for stage in rollout.stages:
        add_row(stages, (stage.name, stage.state, _progress(stage), _soak(stage), stage.why))
    add_row(stages, ("= rollout", rollout.state, "", "", rollout.reason))
    sites = make_table("site", "stage", "state", "from", "to", "since", "took", "reason")
    for stage in rollout.stages:
        for d in stage.deployments:
            step = "rollback" if d.kind == "rollback" else d.phase
            state = f"{d.state} ({step})" if step and step != d.state else d.state
            state += f", try {d.attempt}" if d.attempt > 1 else ""
            since = f"{d.since:%m-%d %H:%M}" if d.since else ""
            took = "" if d.seconds is None else format_seconds(d.seconds)
            versions = (d.from_version or "-", d.to_version or "-")
            add_row(sites, (d.site, stage.name, state, *versions, since, took, d.why))
    for site, reason in rollout.excluded:
        add_row(sites, (site, "", "excluded", "", "", "", "", reason))
    return [stages, sites] if sites.row_count else [stages]


def _progress(stage: Stage) -> str:
    forward = [d for d in stage.deployments if d.kind != "rollback"]
    done = {d.site for d in forward if d.state == "succeeded"}
    return f"{len(done)}/{stage.site_count}"


def _soak(stage: Stage) -> str:
    return f"{format_seconds(stage.soaked_seconds)}/{format_seconds(stage.soak_seconds)}"
