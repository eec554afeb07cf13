"""What the sites of the stages before hold against a later one: asked for with each lease, so that
only those few stages are looked at. Whether it is enough to hold it stands in `domain/soaking.py`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
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

from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import DeploymentState, StageState
from controlplane.domain.soaking import what_holds_later
from controlplane.domain.views import SiteNote, StageView, VariantView
from controlplane.rollouts.evidence import limit_of, says_well
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage
from controlplane.rollouts.prepared import Slot, prepared
from controlplane.rollouts.sightings import EXAMPLES, ailing_notes


def earlier_unwell(rollout: Rollout, stage: Stage, now: datetime) -> str:
    """Which sites, by stage; nothing if none, or if they are accepted or tolerated."""
    said = _said(
        rollout=rollout.pk,
        index=stage.index,
        model=rollout.model_id,
        number=rollout.version.number,
    )
    if all(well and now - reported_at <= limit_of(poll) for poll, well, reported_at in said):
        return ""
    passed = rollout.stages.filter(index__lt=stage.index, state=StageState.PASSED)
    earlier = list(passed.order_by("index"))
    stale, unhealthy = ailing_notes(rollout, now)
    for each in earlier:
        silent, unwell = stale.get(each.pk, []), unhealthy.get(each.pk, [])
        if not silent and not unwell:
            continue
        forward, builds = _states(each)
        view = StageView(
            index=each.index,
            name=each.name,
            state=StageState(each.state),
            soak_seconds=each.soak_seconds,
            soaked_seconds=each.soaked_seconds,
            soak_counted_until=each.soak_counted_until,
            forward=forward,
            rollback={},
            stale=tuple(silent[:EXAMPLES]),
            stale_count=len(silent),
            unhealthy=tuple(unwell[:EXAMPLES]),
            unhealthy_count=len(unwell),
            policy=policy_of(each.policy),
            accepted_at=each.accepted_at,
            accepted_failures=each.accepted_failures,
            variants=_variants(builds, unwell),
        )
        if holds := what_holds_later(view):
            return f"in stage {each.name}, {holds}"
    return ""


@prepared
def _said() -> QuerySet[Deployment, Any]:
    """What the sites that succeeded in the stages that passed before say, with the oldest of these
    reports: nearly always that all is well, and then nothing else is asked."""
    model = Slot("model", BigIntegerField())
    well = says_well("report__", Slot("number", IntegerField()))
    rows = Deployment.objects.filter(
        rollout=Slot("rollout", BigIntegerField()),
        stage__index__lt=Slot("index", IntegerField()),
        stage__state=StageState.PASSED,
        kind=DeploymentKind.FORWARD,
        superseded=False,
        state=DeploymentState.SUCCEEDED,
        site__retired_at=None,
    ).annotate(
        report=FilteredRelation("site__models", condition=Q(site__models__model=model)),
        well=ExpressionWrapper(well, output_field=BooleanField()),
    )
    said = rows.order_by().values_list("site__poll_seconds", "well")
    return said.annotate(reported_at=Min("report__reported_at"))


States = dict[DeploymentState, int]


def _states(stage: Stage) -> tuple[States, dict[str, States]]:
    """How many are in which state, of all and by the build they were given."""
    rows = Deployment.objects.filter(
        stage=stage, kind=DeploymentKind.FORWARD, superseded=False
    ).values_list("state", "variant")
    together: States = {}
    builds: dict[str, States] = {}
    for text, variant, count in rows.annotate(Count("pk")).order_by():
        state = DeploymentState(text)
        together[state] = together.get(state, 0) + count
        if variant:
            builds.setdefault(variant, {})[state] = count
    return together, builds


def _variants(builds: Mapping[str, States], unwell: Iterable[SiteNote]) -> tuple[VariantView, ...]:
    """None where all sites of the stage get the same build."""
    if len(builds) < 2:
        return ()
    count = Counter(note.variant for note in unwell)
    return tuple(
        VariantView(name=name, forward=forward, unhealthy_count=count[name])
        for name, forward in sorted(builds.items())
    )
