"""How a plan is shown. Decides nothing; the plan is the control plane's."""

from rich.table import Table

from waypost_cli.api import Document
from waypost_cli.durations import format_seconds
from waypost_cli.output import Output, OutputFormat, add_row, make_table

_SITES_SHOWN = 8


def show_plan(output: Output, plan: Document) -> None:
    """The plan on stdout; what it comes to, what to beware of and its digest on stderr."""
    if output.format is OutputFormat.JSON:
        output.document(plan)
        return
    output.table(_stages(plan))
    excluded = _documents(plan, "excluded")
    if excluded:
        left_out = make_table("left out", "why")
        for entry in excluded:
            add_row(left_out, (entry.get("site"), entry.get("reason")))
        output.table(left_out)
    for warning in _texts(plan, "warnings"):
        output.warn(warning)
    mebibytes = _number(plan, "bytes_to_move") / (1 << 20)
    output.say(
        f"{plan.get('sites')} sites, at most {mebibytes:.1f} MiB to move, at least "
        f"{format_seconds(_number(plan, 'soak_seconds'))} of soak"
    )
    if plan.get("expected_end"):
        seconds = format_seconds(_number(plan, "expected_seconds"))
        rests_on = "; ".join(_texts(plan, "assumptions"))
        output.say(f"expected end {plan['expected_end']}, after {seconds} ({rests_on})")
    approval = plan.get("approval")
    if isinstance(approval, dict) and approval.get("required"):
        by = " by somebody else than who starts it" if approval.get("by_other") else ""
        output.say(f"it waits for an approval{by}")
    output.say(f"to start just this: --expect-plan {plan.get('plan_digest')}")


def _stages(plan: Document) -> Table:
    title = f"plan: {plan.get('model')} version {plan.get('version')}"
    title += f", by {plan['strategy']}" if plan.get("strategy") else ""
    title += ", bytes to all sites at once" if plan.get("barrier") else ""
    table = make_table("stage", "sites", "soak", "takes", "which", "what holds", title=title)
    for stage in _documents(plan, "stages"):
        names = _texts(stage, "sites")
        name = f"{stage.get('name')}{' (trailing)' if stage.get('trailing') else ''}"
        soak = format_seconds(_number(stage, "soak_seconds"))
        takes = format_seconds(_number(stage, "expected_seconds"))
        holds = "; ".join([*_builds(stage), *_texts(stage, "limit_sentences")])
        add_row(table, (name, len(names), soak, takes, _listed(names), holds))
    return table


def _builds(stage: Document) -> list[str]:
    """How many sites get which build, where there are several."""
    variants = stage.get("variants")
    if not isinstance(variants, dict) or not set(variants) - {"default"}:
        return []
    return ["variants: " + ", ".join(f"{n} {count}" for n, count in sorted(variants.items()))]


def _documents(plan: Document, key: str) -> list[Document]:
    entries = plan.get(key)
    return (
        [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    )


def _texts(document: Document, key: str) -> list[str]:
    entries = document.get(key)
    return [str(entry) for entry in entries] if isinstance(entries, list) else []


def _number(document: Document, key: str) -> float:
    value = document.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SITES_SHOWN])
    more = len(names) - _SITES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
