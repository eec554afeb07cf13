"""How a plan is shown. Decides nothing; the plan is the control plane's."""

from waypost_cli.api import Document
from waypost_cli.durations import format_seconds
from waypost_cli.output import Output, OutputFormat, add_row, make_table

_SITES_SHOWN = 8


def show_plan(output: Output, plan: Document) -> None:
    """The plan on stdout; its size and digest on stderr for a person."""
    if output.format is OutputFormat.JSON:
        output.document(plan)
        return
    title = f"plan: {plan.get('model')} version {plan.get('version')}"
    stages = make_table("stage", "sites", "soak", "which", title=title)
    for stage in _documents(plan, "stages"):
        sites = stage.get("sites")
        names = [str(name) for name in sites] if isinstance(sites, list) else []
        soak = format_seconds(_number(stage, "soak_seconds"))
        add_row(stages, (stage.get("name"), len(names), soak, _listed(names)))
    output.table(stages)
    excluded = _documents(plan, "excluded")
    if excluded:
        left_out = make_table("left out", "why")
        for entry in excluded:
            add_row(left_out, (entry.get("site"), entry.get("reason")))
        output.table(left_out)
    mebibytes = _number(plan, "bytes_to_move") / (1 << 20)
    output.say(
        f"{plan.get('sites')} sites, at most {mebibytes:.1f} MiB to move, at least "
        f"{format_seconds(_number(plan, 'soak_seconds'))} of soak"
    )
    output.say(f"to start just this: --expect-plan {plan.get('plan_digest')}")


def _documents(plan: Document, key: str) -> list[Document]:
    entries = plan.get(key)
    return (
        [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    )


def _number(document: Document, key: str) -> float:
    value = document.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SITES_SHOWN])
    more = len(names) - _SITES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
