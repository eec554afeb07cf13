"""A plan as a page shows it: every stage with its sites, limits and costs, and who is left out.

A thousand sites must stay readable: the first names stand there, all of them behind a fold."""

from dataclasses import dataclass

from django.conf import settings

from controlplane.domain.rollout import OnConflict
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.planning import PlannedStage, RolloutPlan, several_builds
from controlplane.web.words import LeftOut, left_out, spec_selects

FIRST_NAMES = 6
NAMES_SHOWN = 1000  # of one stage, behind its fold


@dataclass(frozen=True, kw_only=True)
class PlanStage:
    """A row of the plan. `names` are what its fold holds, `unlisted` how many it does not; `builds`
    says how many get which, where the version has several."""

    planned: PlannedStage
    selects: str
    builds: str
    first: tuple[str, ...]
    names: tuple[str, ...]
    unlisted: int

    @property
    def folded(self) -> int:
        """How many stand behind the fold alone."""
        return max(0, len(self.planned.sites) - len(self.first))


@dataclass(frozen=True, kw_only=True)
class PlanPage:
    """What is looked at before a rollout is started."""

    planned: RolloutPlan
    stages: tuple[PlanStage, ...]
    left_out: tuple[LeftOut, ...]
    left_out_total: int
    approval: tuple[str, ...]
    begin: str


def plan_page(planned: RolloutPlan, *, active: Rollout | None, on_conflict: OnConflict) -> PlanPage:
    several = several_builds(planned.version)
    return PlanPage(
        planned=planned,
        stages=tuple(_stage(stage, several=several) for stage in planned.stages),
        left_out=left_out(planned.plan.excluded),
        left_out_total=len(planned.plan.excluded),
        approval=tuple(_approval(planned)),
        begin=_begin(active, on_conflict),
    )


def _stage(planned: PlannedStage, *, several: bool) -> PlanStage:
    ranked = sorted(planned.variants.items(), key=lambda each: (-each[1], each[0]))
    first = planned.sites[:FIRST_NAMES]
    folded = planned.sites[:NAMES_SHOWN] if len(planned.sites) > len(first) else ()
    return PlanStage(
        planned=planned,
        selects=spec_selects(planned.spec),
        builds=", ".join(f"{count} {name}" for name, count in ranked) if several else "",
        first=first,
        names=folded,
        unlisted=max(0, len(planned.sites) - NAMES_SHOWN),
    )


def _approval(planned: RolloutPlan) -> list[str]:
    hours = f"{settings.WAYPOST_APPROVAL_HOURS:g} h"
    other = "somebody other than who starts it" if planned.approval_by_other else "anybody who may"
    lines = []
    if planned.approval_required:
        lines.append(
            f"Before it begins, {other} has to approve this plan; a yes counts for {hours}."
        )
    asking = [s.spec.name for s in planned.stages if s.spec.policy.approval and s.sites]
    if asking:
        lines.append(f"{', '.join(asking)}: {other} has to approve going on from there.")
    return lines or ["It needs no approval."]


def _begin(active: Rollout | None, on_conflict: OnConflict) -> str:
    if active is None or on_conflict is OnConflict.REFUSE:
        return ""
    if on_conflict is OnConflict.QUEUE:
        return f"Rollout {active.pk} of {active.model} goes first; this one begins when it is over."
    return (
        f"Rollout {active.pk} of {active.model} is stopped where it stands, as by an abort; this "
        "one begins when its last site is done switching."
    )
