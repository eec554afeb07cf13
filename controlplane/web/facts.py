"""What the page of one rollout shows beyond its own row: counts, attempts, waits, verdicts and
approvals. Each is one query or a fixed few, however many sites there are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Count

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    FINAL_ROLLOUT,
    DeploymentState,
    RolloutState,
)
from controlplane.rollouts.models import (
    Approval,
    Deployment,
    DeploymentKind,
    GateVerdict,
    Rollout,
)
from controlplane.rollouts.queries import DeploymentCounts, deployment_counts
from controlplane.rollouts.waits import Waiting, waiting_of

Totals = Mapping[DeploymentState, int]
HELD_SHOWN = 3  # sites named of those that a freeze or a window holds


@dataclass(frozen=True, kw_only=True)
class RolloutFacts:
    """`earlier` counts, by stage id, the attempts that no longer count, by how they ended."""

    counts: DeploymentCounts
    earlier: Mapping[int, Totals] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)
    verdicts: Mapping[int, Sequence[GateVerdict]] = field(default_factory=dict)
    approvals: Sequence[Approval] = ()

    @property
    def shown(self) -> tuple[object, ...]:
        """For the tag of a page that shows all of it."""
        waiting = self.waiting
        return (
            sorted(self.counts.items()),
            sorted(self.earlier.items()),
            sorted(waiting.resting.items()),
            sorted(waiting.until.items()),
            sorted(
                (stage, len(notes), notes[:HELD_SHOWN]) for stage, notes in waiting.held.items()
            ),
            [(row.pk, row.judged_at) for rows in self.verdicts.values() for row in rows],
            [row.pk for row in self.approvals],
        )

    @property
    def under_way(self) -> int:
        """Sites on their way, there or back."""
        return sum(
            count
            for counts in self.counts.values()
            for state, count in counts.items()
            if state in ACTIVE_DEPLOYMENT
        )

    def totals(self, stage_id: int | None = None) -> Totals:
        """Sites by state on the way forward, of the whole rollout or of one stage."""
        found: dict[DeploymentState, int] = defaultdict(int)
        for (of_stage, kind), counts in self.counts.items():
            if kind == DeploymentKind.FORWARD and stage_id in (None, of_stage):
                for state, count in counts.items():
                    found[state] += count
        return found


def rollout_facts(rollout: Rollout, now: datetime) -> RolloutFacts:
    counts = deployment_counts([rollout.pk])
    pending = any(DeploymentState.PENDING in of_stage for of_stage in counts.values())
    over = RolloutState(rollout.state) in FINAL_ROLLOUT
    return RolloutFacts(
        counts=counts,
        earlier=_earlier(rollout),
        waiting=waiting_of(rollout, now) if pending and not over else Waiting(),
        verdicts=_verdicts(rollout),
        approvals=list(rollout.approvals.select_related("stage").order_by("-at", "-pk")),
    )


def _earlier(rollout: Rollout) -> dict[int, Totals]:
    rows = Deployment.objects.filter(
        rollout=rollout, kind=DeploymentKind.FORWARD, superseded=True
    ).order_by()
    found: dict[int, dict[DeploymentState, int]] = defaultdict(dict)
    for stage_id, state, count in rows.values_list("stage_id", "state").annotate(count=Count("pk")):
        found[stage_id][DeploymentState(state)] = count
    return dict(found)


def _verdicts(rollout: Rollout) -> dict[int, list[GateVerdict]]:
    found: dict[int, list[GateVerdict]] = defaultdict(list)
    for row in GateVerdict.objects.filter(stage__rollout=rollout).order_by("stage", "gate"):
        found[row.stage_id].append(row)
    return dict(found)
