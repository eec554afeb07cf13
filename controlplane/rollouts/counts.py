"""Where the sites of a rollout stand, as numbers: one pass over what counts of its deployments.

Reads only; one query, however many sites there are, and however they do."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import (
    BigIntegerField,
    BooleanField,
    Count,
    ExpressionWrapper,
    FilteredRelation,
    IntegerField,
    Min,
    Q,
    QuerySet,
)

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    OPEN_STAGE,
    DeploymentState,
)
from controlplane.rollouts.evidence import limit_of, says_well
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage
from controlplane.rollouts.prepared import Slot, prepared

_OPEN = ACTIVE_DEPLOYMENT | {DeploymentState.PENDING}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The latest attempts by (stage id, kind) and state. By stage id: how many failed before and
    are not over (`retrying`), and how many still count though their site is no more (`retired`):
    those that are not over, or succeeded in a stage that is not. `ailing`: some site that succeeded
    has no fresh report, or does not serve the version well. `held_back`: some pending site was
    tried before, rests or is pinned. `builds` by stage id are the forward
    ones by variant, and `builds_retrying` of these the same as `retrying`; a stage whose sites all
    get one build is left out of both."""

    states: Mapping[tuple[int, str], Mapping[DeploymentState, int]]
    retrying: Mapping[int, int]
    retired: Mapping[int, int]
    ailing: bool
    held_back: bool
    builds: Mapping[int, Mapping[str, Mapping[DeploymentState, int]]]
    builds_retrying: Mapping[tuple[int, str], int]

    def any_in(self, states: Iterable[DeploymentState], *, kind: str | None = None) -> bool:
        wanted = frozenset(states)
        return any(
            not wanted.isdisjoint(of_stage)
            for (_, its_kind), of_stage in self.states.items()
            if kind in (None, its_kind)
        )


def counts_of(rollout: Rollout, stages: Iterable[Stage], now: datetime) -> Counts:
    open_stages = {stage.pk for stage in stages if stage.state in OPEN_STAGE}
    states: dict[tuple[int, str], dict[DeploymentState, int]] = defaultdict(dict)
    retrying: dict[int, int] = defaultdict(int)
    retired: dict[int, int] = defaultdict(int)
    builds: dict[int, dict[str, dict[DeploymentState, int]]] = defaultdict(dict)
    builds_retrying: dict[tuple[int, str], int] = defaultdict(int)
    ailing = held_back = False
    rows = _groups(rollout=rollout.pk, model=rollout.model_id, number=rollout.version.number)
    for stage_id, kind, text, variant, failed_before, stands, poll, well, pinned, *figures in rows:
        count, resting, reported_at = figures
        state = DeploymentState(text)
        of_stage = states[stage_id, kind]
        of_stage[state] = of_stage.get(state, 0) + count
        if kind == DeploymentKind.FORWARD and variant:
            of_build = builds[stage_id].setdefault(variant, {})
            of_build[state] = of_build.get(state, 0) + count
        if state in _OPEN and failed_before:
            retrying[stage_id] += count
            builds_retrying[stage_id, variant] += count
        if state is DeploymentState.PENDING and (failed_before or resting or pinned):
            held_back = True
        succeeded = state is DeploymentState.SUCCEEDED and kind == DeploymentKind.FORWARD
        if not stands and (state in _OPEN or (succeeded and stage_id in open_stages)):
            retired[stage_id] += count
        if succeeded and stands and not (well and now - reported_at <= limit_of(poll)):
            ailing = True
    return Counts(
        states=states,
        retrying=retrying,
        retired=retired,
        ailing=ailing,
        held_back=held_back,
        builds={stage_id: found for stage_id, found in builds.items() if len(found) > 1},
        builds_retrying=builds_retrying,
    )


@prepared
def _groups() -> QuerySet[Deployment, Any]:
    """How many there are of each sort, how many of them have rested or do, and when of their sites
    that reported longest ago did so. `well` and `pinned` are null where nothing was reported."""
    well = says_well("report__", Slot("number", IntegerField()))
    model = Slot("model", BigIntegerField())
    return (
        Deployment.objects.filter(rollout=Slot("rollout", BigIntegerField()), superseded=False)
        .order_by()
        .annotate(
            report=FilteredRelation("site__models", condition=Q(site__models__model=model)),
            stands=ExpressionWrapper(Q(site__retired_at=None), output_field=BooleanField()),
            well=ExpressionWrapper(well, output_field=BooleanField()),
            pinned=ExpressionWrapper(Q(report__pinned_by__gt=""), output_field=BooleanField()),
        )
        .values_list(
            "stage_id",
            "kind",
            "state",
            "variant",
            "failed_before",
            "stands",
            "site__poll_seconds",
            "well",
            "pinned",
        )
        .annotate(
            count=Count("pk"),
            resting=Count("not_before"),
            reported_at=Min("report__reported_at"),
        )
    )
