"""Where the sites of a rollout stand, as numbers: one pass over what counts of its deployments.

Reads only; one query, however many sites there are, and however they do."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import BooleanField, Count, ExpressionWrapper, FilteredRelation, Q

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    OPEN_STAGE,
    DeploymentState,
)
from controlplane.rollouts.evidence import own_limits, serves_well
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage

_OPEN = ACTIVE_DEPLOYMENT | {DeploymentState.PENDING}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The latest attempts by (stage id, kind) and state. By stage id: how many failed before and
    are not over (`retrying`), and how many still count though their site is no more (`retired`):
    those that are not over, or succeeded in a stage that is not. `ailing`: some site that succeeded
    has no fresh report, or does not serve the version well. `builds` by stage id are the forward
    ones by variant, and `builds_retrying` of these the same as `retrying`; a stage whose sites all
    get one build is left out of both."""

    states: Mapping[tuple[int, str], Mapping[DeploymentState, int]]
    retrying: Mapping[int, int]
    retired: Mapping[int, int]
    ailing: bool
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
    ailing = False
    is_well = serves_well(rollout.version, now, own_limits(), report="report__", site="site__")
    rows = (
        Deployment.objects.filter(rollout=rollout, superseded=False)
        .order_by()
        .annotate(
            report=FilteredRelation(
                "site__models", condition=Q(site__models__model=rollout.model_id)
            ),
            stands=ExpressionWrapper(Q(site__retired_at=None), output_field=BooleanField()),
            well=ExpressionWrapper(is_well, output_field=BooleanField()),  # null: never reported
        )
        .values_list("stage_id", "kind", "state", "variant", "failed_before", "stands", "well")
        .annotate(count=Count("pk"))
    )
    for stage_id, kind, text, variant, failed_before, stands, well, count in rows:
        state = DeploymentState(text)
        of_stage = states[stage_id, kind]
        of_stage[state] = of_stage.get(state, 0) + count
        if kind == DeploymentKind.FORWARD and variant:
            of_build = builds[stage_id].setdefault(variant, {})
            of_build[state] = of_build.get(state, 0) + count
        if state in _OPEN and failed_before:
            retrying[stage_id] += count
            builds_retrying[stage_id, variant] += count
        succeeded = state is DeploymentState.SUCCEEDED and kind == DeploymentKind.FORWARD
        if not stands and (state in _OPEN or (succeeded and stage_id in open_stages)):
            retired[stage_id] += count
        ailing = ailing or (succeeded and stands and not well)
    return Counts(
        states=states,
        retrying=retrying,
        retired=retired,
        ailing=ailing,
        builds={stage_id: found for stage_id, found in builds.items() if len(found) > 1},
        builds_retrying=builds_retrying,
    )
