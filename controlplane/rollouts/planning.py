"""What a rollout would do: the same plan for a preview and for the run. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.queries import find_version
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.rollout import ACTIVE_ROLLOUT
from controlplane.domain.selection import (
    Candidate,
    Fit,
    Plan,
    StageSpec,
    exclusion,
    plan_seed,
    plan_stages,
)
from controlplane.fleet.queries import free_disk_by_site, sites
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.snapshots import PATIENCE, fresh_within


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """What a rollout would do: computed the same way for a preview and for the run."""

    version: Version
    plan: Plan
    seed: str
    digest: str

    @property
    def bytes_to_move(self) -> int:
        """At most: a site that holds some of the files moves less."""
        return self.version.size_bytes * self.plan.sites


def plan_rollout(
    *, model_name: str, version_number: int, stages: Sequence[StageSpec], now: datetime
) -> RolloutPlan:
    """Which site would go into which stage, and which would be left out and why. Changes nothing.

    Raises `InvalidInput` (`version-unknown`, `version-not-registered`, `site-unknown`,
    `rollout-selects-no-site`) and `Conflict` (`rollout-active`).
    """
    version = _registered_version(model_name, version_number)
    if active := active_rollout(model_name):
        raise already_active(active)
    seed = plan_seed(manifest_digest=version.manifest_digest, specs=stages)
    plan = plan_stages(specs=stages, candidates=_candidates(version, now), seed=seed)
    digest = plan.digest(manifest_digest=version.manifest_digest)
    return RolloutPlan(version=version, plan=plan, seed=seed, digest=digest)


def active_rollout(model_name: str) -> Rollout | None:
    """The one rollout of the model that is not final, if any."""
    states = [state.value for state in ACTIVE_ROLLOUT]
    rows = Rollout.objects.select_related("model")
    return rows.filter(model__name=model_name, state__in=states).first()


def already_active(active: Rollout) -> Conflict:
    """The refusal of a second rollout of a model."""
    return Conflict(
        "rollout-active",
        f"Rollout {active.pk} of {active.model} is not finished ({active.state}); wait for it, "
        "abort it or roll it back.",
        extra={"rollout": active.pk},
    )


def _registered_version(model_name: str, version_number: int) -> Version:
    try:
        version = find_version(model_name, version_number)
    except NotFound as error:
        fault = FieldError(field="version", message=error.detail)
        raise InvalidInput("version-unknown", error.detail, errors=[fault]) from error
    if version.state != VersionState.REGISTERED:
        fault = FieldError(field="version", message=f"is {version.state}; finalise the push first")
        raise InvalidInput(
            "version-not-registered", f"{version} is not registered.", errors=[fault]
        )
    return version


def _candidates(version: Version, now: datetime) -> list[Candidate]:
    free = free_disk_by_site()
    return [
        Candidate(
            name=site.name,
            tier=site.tier,
            labels=site.labels,
            excluded=exclusion(
                Fit(
                    joined=site.agent_id is not None,  # type: ignore[attr-defined]  # annotated
                    silent_for=now - site.last_seen_at if site.last_seen_at else None,  # type: ignore[attr-defined]  # annotated
                    disk_free_bytes=free.get(site.pk),
                ),
                size_bytes=version.size_bytes,
                patience=PATIENCE * fresh_within(),
            ),
        )
        for site in sites()
    ]
