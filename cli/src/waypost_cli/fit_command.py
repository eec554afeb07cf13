"""`waypost fit MODEL VERSION`: which sites can take a version, in which build, and why not."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from waypost_cli.api import Document
from waypost_cli.output import Output, OutputFormat, add_row, make_table
from waypost_cli.rollout_options import ModelArgument, VersionArgument
from waypost_cli.session import Session, connected

_MOST = 1000


class Verdict(StrEnum):
    """What is asked for: sites that can take it, that cannot, or of which too little is known."""

    OK = "ok"
    NO = "no"
    UNKNOWN = "unknown"


@connected()
def fit_command(
    session: Session,
    model: ModelArgument,
    version: VersionArgument,
    selector: Annotated[
        str | None,
        typer.Option("--selector", help='Sites by label, such as "region=eu,tier!=edge".'),
    ] = None,
    verdict: Annotated[
        Verdict | None, typer.Option("--verdict", help="Only sites with this answer.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, max=_MOST, help="How many sites to list.")
    ] = 100,
) -> None:
    """Which sites can take a version, in which build, and why not; nothing is changed."""
    query = {"limit": str(limit)}
    if selector:
        query["selector"] = selector
    if verdict is not None:
        query["verdict"] = verdict.value
    found = session.api.fit(model, version, query)
    if session.output.format is OutputFormat.JSON:
        session.output.document(found)
    else:
        _show(session.output, found)


def _show(output: Output, found: Document) -> None:
    summary = found.get("summary")
    if isinstance(summary, Mapping):
        output.say(_sentence(found, summary))
    table = make_table("site", "fits", "variant", "why")
    results = found.get("results")
    for site in results if isinstance(results, list) else []:
        fits = "by replace" if site.get("only_by_replace") else site.get("verdict")
        add_row(table, [site.get("site"), fits, site.get("variant") or "none", site.get("why")])
    output.table(table)


def _sentence(found: Document, summary: Mapping[str, object]) -> str:
    """`of 40 sites 30 can take it (trt-8.9 20, onnx 10), 8 may (too little is known), 2 cannot`."""
    variants = summary.get("variants")
    builds = (
        ", ".join(f"{name} {count}" for name, count in sorted(variants.items()))
        if isinstance(variants, Mapping)
        else ""
    )
    which = f" ({builds})" if builds else ""
    return (
        f"of {found.get('sites')} sites {summary.get('ok')} can take it, {summary.get('unknown')} "
        f"may (too little is known){which}, {summary.get('no')} cannot"
    )
