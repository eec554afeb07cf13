"""Sites that came after the plan: they go into the trailing stage, never into one already begun.

Late is a site whose agent joined after the rollout was planned; what the stages left out on purpose
stays out."""

from collections.abc import Sequence
from datetime import datetime

from controlplane.domain.rollout import DeploymentState, RolloutState, StageState
from controlplane.domain.selector import SiteSelector, parse_selector
from controlplane.domain.stages import parse_exclude
from controlplane.fleet.models import Site
from controlplane.rollouts.candidates import candidates
from controlplane.rollouts.history import move_of, record
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage

_DRAWN = ("percent", "count", "per")


def add_late_joiners(rollout: Rollout, stages: Sequence[Stage], now: datetime) -> None:
    """Fills the trailing stage when it is the next to run or runs; else asks nothing."""
    if rollout.state != RolloutState.RUNNING:
        return
    last = stages[-1]
    over = (StageState.PASSED, StageState.SKIPPED)
    if not last.trailing or last.state not in (StageState.PENDING, StageState.RUNNING):
        return
    if any(stage.state not in over for stage in stages[:-1]):
        return
    came = Site.objects.filter(
        agents__enrolled_at__gt=rollout.created_at,
        agents__revoked_at=None,
        retired_at=None,
    ).exclude(deployments__rollout=rollout)
    names = set(came.values_list("name", flat=True))
    if not names:
        return
    exclude = parse_exclude(rollout.exclude)
    selectors = [_selector(stage) for stage in stages if not stage.trailing]
    fits = {
        site.name: site
        for site in candidates(rollout.version, now, while_active=True)
        if site.name in names
        and not site.excluded
        and not (exclude and any(condition.matches(site) for condition in exclude.conditions()))
        and any(selector.matches(site) for selector in selectors)
    }
    rows = [
        Deployment(
            rollout=rollout,
            stage=last,
            site=site,
            model_id=rollout.model_id,
            kind=DeploymentKind.FORWARD,
            to_version=rollout.version,
            state=DeploymentState.PENDING,
            hardware=fits[site.name].hardware,
            variant=fits[site.name].variant,
            reason="joined after the plan was made",
        )
        for site in came.filter(name__in=list(fits)).order_by("name").distinct()
    ]
    if not rows:
        return
    Deployment.objects.bulk_create(rows, batch_size=500)
    moves = [move_of(row, before="", after=row.state) for row in rows]
    reason = f"stage {last.name}: {len(rows)} joined after the plan was made"
    record(rollout, "sites_joined", now=now, before=rollout.state, reason=reason, deployments=moves)


def _selector(stage: Stage) -> SiteSelector:
    """Whom the stage speaks of, whatever share of them it drew."""
    document = {key: value for key, value in stage.select.items() if key not in _DRAWN}
    return parse_selector(document, "select", []) or SiteSelector()
