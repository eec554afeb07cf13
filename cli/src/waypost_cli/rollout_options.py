"""The options that `waypost rollout plan` and `start` share, and the request they make together.

It must not send anything."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.errors import CliError
from waypost_cli.selectors import exclusion_of
from waypost_cli.stages import plan_from_options


class OnConflict(StrEnum):
    """What becomes of a rollout while another one of the model is not over."""

    REFUSE = "refuse"
    QUEUE = "queue"
    SUPERSEDE = "supersede"


ModelArgument = Annotated[str, typer.Argument(help="Name of the model.", metavar="MODEL")]
VersionArgument = Annotated[str, typer.Argument(help="Number of the version.", metavar="VERSION")]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME[@VERSION]",
        help="A kept way through the fleet, see `waypost strategy list`.",
    ),
]
StageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--stage",
        metavar="STAGE",
        help='One stage, in order, repeatable: "canary tier=edge percent=10 soak=30s". A name,'
        " then any of tier=TIER, region=REGION, hardware=NAME, label.KEY=VALUE, sites=A,B,"
        " percent=N, count=N, per=region, soak=DURATION (60s); conditions narrow each other, none"
        " means all sites that are left. Without any --stage: 10 %, 50 %, the rest.",
    ),
]
StagesOption = Annotated[
    Path | None,
    typer.Option(
        "--stages-file",
        "--stages",
        metavar="FILE",
        help="The stages as a JSON list, with policies and whatever else the API takes.",
    ),
]
ExcludeSiteOption = Annotated[
    list[str] | None,
    typer.Option("--exclude-site", metavar="SITE", help="Leave this site out; repeatable."),
]
ExcludeLabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-label",
        metavar="KEY=VALUE",
        help="Leave out the sites with this label; given more than once, those with all of them.",
    ),
]
BarrierOption = Annotated[
    bool | None,
    typer.Option(
        "--barrier/--no-barrier",
        help="The bytes to all sites at once, activation stage by stage. Without it: as the"
        " strategy says.",
    ),
]
StartAtOption = Annotated[
    str | None,
    typer.Option(
        "--start-at",
        metavar="TIME",
        help="Begin then, not now: 2026-12-01T22:00:00+01:00.",
    ),
]
OnConflictOption = Annotated[
    OnConflict,
    typer.Option(
        "--on-conflict",
        help="While another rollout of the model is not over: refuse this one, queue it behind, or"
        " let it take over.",
    ),
]


def asked_rollout(
    *,
    model: str,
    version: str,
    strategy: str | None,
    stage: list[str] | None,
    stages: Path | None,
    exclude_site: list[str] | None,
    exclude_label: list[str] | None,
    barrier: bool | None,
    start_at: str | None,
    on_conflict: OnConflict,
) -> dict[str, object]:
    """The body of the request: only what was asked for."""
    plan = plan_from_options(stage or [], stages)
    if strategy and plan:
        raise CliError(
            "--strategy and stages are both given", cure="go by a strategy or by stages of your own"
        )
    asked: dict[str, object] = {"model": model, "version": version}
    for key, value in (
        ("strategy", strategy),
        ("stages", plan),
        ("exclude", exclusion_of(exclude_site, exclude_label)),
        ("barrier", barrier),
        ("start_at", start_at),
    ):
        if value is not None:
            asked[key] = value
    if on_conflict is not OnConflict.REFUSE:
        asked["on_conflict"] = on_conflict.value
    return asked
