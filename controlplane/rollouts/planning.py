"""What a rollout would do: the same plan for a preview and for the run. Reads only; a constant
number of queries, however many sites there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.queries import find_version
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.estimate import Effort, assumptions, stage_effort, stage_seconds
from controlplane.domain.policy import Limits, limit_sentences, resolve
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, ACTIVE_ROLLOUT, RolloutState
from controlplane.domain.selection import Candidate, Fit, Plan, exclusion, plan_seed, plan_stages
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import DEFAULT_STRATEGY, StrategySpec
from controlplane.fleet.queries import (
    free_disk_by_site,
    sites,
    stale_limits,
    traits_by_site,
    window_warnings,
)
from controlplane.rollouts.evidence import PATIENCE, fresh_within
from controlplane.rollouts.models import BadVersion, Deployment, Rollout, SiteModel

_NAMED = 5  # sites named in one sentence


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage with its sites, and what its policy comes to for so many."""

    spec: StageSpec
    sites: tuple[str, ...]
    limits: Limits
    limit_sentences: tuple[str, ...]
    bytes_to_move: int
    expected_seconds: float


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """What a rollout would do: computed the same way for a preview and for the run.

    `assumptions` are what the expected times rest on.
    """

    version: Version
    plan: Plan
    seed: str
    digest: str
    stages: tuple[PlannedStage, ...]
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]
    expected_end: datetime
    strategy_name: str
    strategy_version: int | None
    barrier: bool
    approval_required: bool
    approval_by_other: bool

    @property
    def bytes_to_move(self) -> int:
        """At most: a site that holds some of the files moves less."""
        return sum(stage.bytes_to_move for stage in self.stages)

    def excluded_document(self) -> list[dict[str, str]]:
        return [{"site": name, "reason": reason} for name, reason in self.plan.excluded]

    @property
    def expected_seconds(self) -> float:
        return sum(stage.expected_seconds for stage in self.stages)


def plan_rollout(
    *,
    model_name: str,
    version_number: int,
    stages: Sequence[StageSpec] | None = None,
    strategy: StrategySpec | None = None,
    exclude: SiteSelector | None = None,
    barrier: bool | None = None,
    while_active: bool = False,
    start_at: datetime | None = None,
    now: datetime,
) -> RolloutPlan:
    """Which site would go into which stage, and which would be left out and why. Changes nothing.

    By `stages`, or by a strategy; by neither, the strategy `canary`. `barrier` None: as it says.
    `while_active` plans though a rollout of the model is under way, for one that will wait
    for it or take its place: what that one does at the sites is then no reason to leave them out.

    Raises `InvalidInput` (`version-unknown`, `version-not-registered`, `version-quarantined`,
    `stages-and-strategy`, `site-unknown`, `rollout-selects-no-site`) and `Conflict`
    (`rollout-active`, `strategy-retired`).
    """
    version = _usable_version(model_name, version_number)
    if stages is None and strategy is None:
        strategy = DEFAULT_STRATEGY
    specs = _specs(stages, strategy)
    if not while_active and (ahead := rollout_ahead(model_name)):
        raise already_active(ahead)
    seed = plan_seed(manifest_digest=version.manifest_digest, specs=specs)
    found = candidates(version, now, while_active=while_active)
    plan = plan_stages(specs=specs, candidates=found, seed=seed, exclude=exclude)
    if barrier is None:
        barrier = bool(strategy and strategy.barrier)
    efforts = _efforts(plan, found, version.size_bytes)
    seconds = stage_seconds(efforts, barrier=barrier)
    terms = {
        "strategy": [strategy.name, strategy.version] if strategy else None,
        "barrier": barrier,
        "exclude": exclude.document() if exclude else {},
    }
    begin = max(now, start_at) if start_at else now
    return RolloutPlan(
        version=version,
        plan=plan,
        seed=seed,
        digest=plan.digest(manifest_digest=version.manifest_digest, terms=terms),
        stages=tuple(
            PlannedStage(
                spec=spec,
                sites=names,
                limits=resolve(spec.policy, len(names)),
                limit_sentences=tuple(limit_sentences(spec.policy, len(names))),
                bytes_to_move=effort.bytes_to_move,
                expected_seconds=expected,
            )
            for (spec, names), effort, expected in zip(plan.stages, efforts, seconds, strict=True)
        ),
        warnings=(*plan.warnings, *_failed_before(version, plan), *window_warnings()),
        assumptions=tuple(assumptions(efforts)),
        expected_end=begin + timedelta(seconds=sum(seconds)),
        strategy_name=strategy.name if strategy else "",
        strategy_version=strategy.version if strategy else None,
        barrier=barrier,
        approval_required=bool(strategy and strategy.approval_required),
        approval_by_other=strategy.approval_by_other if strategy else True,
    )


def active_rollout(model_name: str) -> Rollout | None:
    """The one rollout of the model that is not final, if any."""
    states = [state.value for state in ACTIVE_ROLLOUT]
    rows = Rollout.objects.select_related("model")
    return rows.filter(model__name=model_name, state__in=states).first()


def rollout_ahead(model_name: str) -> Rollout | None:
    """What a new rollout of the model would have to wait for: the active one, else who queues."""
    queue = Rollout.objects.filter(model__name=model_name, state=RolloutState.QUEUED)
    return active_rollout(model_name) or queue.select_related("model").order_by("pk").first()


def already_active(active: Rollout) -> Conflict:
    """The refusal of a second rollout of a model."""
    return Conflict(
        "rollout-active",
        f"Rollout {active.pk} of {active.model} is not finished ({active.state}); wait for it, "
        "abort it or roll it back.",
        extra={"rollout": active.pk},
    )


def _usable_version(model_name: str, version_number: int) -> Version:
    try:
        version = find_version(model_name, version_number)
    except NotFound as error:
        fault = FieldError(field="version", message=error.detail)
        raise InvalidInput("version-unknown", error.detail, errors=[fault]) from error
    if version.state == VersionState.QUARANTINED:
        why = f"{version} is quarantined: {version.state_reason or 'no reason was given'}."
        fault = FieldError(field="version", message="is quarantined; release it or take another")
        raise InvalidInput("version-quarantined", why, errors=[fault])
    if version.state != VersionState.REGISTERED:
        fault = FieldError(field="version", message=f"is {version.state}; finalise the push first")
        raise InvalidInput(
            "version-not-registered", f"{version} is not registered.", errors=[fault]
        )
    return version


def _specs(
    stages: Sequence[StageSpec] | None, strategy: StrategySpec | None
) -> Sequence[StageSpec]:
    if strategy is None:
        assert stages is not None  # by neither is by the default strategy
        return stages
    if stages is not None:
        fault = FieldError(field="stages", message="cannot stand beside strategy; give one of them")
        detail = "A rollout goes by its own stages or by a strategy, not by both."
        raise InvalidInput("stages-and-strategy", detail, errors=[fault])
    if strategy.retired:
        raise Conflict(
            "strategy-retired",
            f"Version {strategy.version} of strategy {strategy.name!r} was retired; take another "
            "strategy, or keep a new version of it.",
        )
    return strategy.all_stages


def candidates(version: Version, now: datetime, *, while_active: bool) -> list[Candidate]:
    """Every site in service with what speaks against it."""
    traits, free, limits = traits_by_site(), free_disk_by_site(), stale_limits()
    pinned = _pins(version)
    busy = {} if while_active else _busy(version)
    fleet_limit = fresh_within()
    found = []
    rows = sites().values_list("pk", "agent_id", "last_seen_at", "downlink_mbit_per_s")  # type: ignore[misc]  # annotated
    for pk, agent_id, last_seen_at, downlink in rows:
        site = traits.get(pk)
        if site is None:  # came between two queries; the next plan has it
            continue
        limit = timedelta(seconds=limits[pk]) if pk in limits else fleet_limit
        fit = Fit(
            joined=agent_id is not None,
            silent_for=now - last_seen_at if last_seen_at else None,
            disk_free_bytes=free.get(pk),
            pinned=pinned.get(pk),
            busy=busy.get(pk),
        )
        found.append(
            Candidate(
                **vars(site),
                downlink_mbit_per_s=downlink,
                excluded=exclusion(fit, size_bytes=version.size_bytes, patience=PATIENCE * limit),
            )
        )
    return found


def _pins(version: Version) -> dict[int, str]:
    """By site id, what the site's model is held at, by whom and why."""
    rows = SiteModel.objects.filter(model=version.model_id).exclude(pinned_by="").order_by()
    found = {}
    for pk, number, who, why in rows.values_list(
        "site_id", "desired__number", "pinned_by", "pinned_reason"
    ):
        held = f"version {number}" if number else "no version"
        found[pk] = f"pinned to {held} by {who}" + (f": {why}" if why else "")
    return found


def _busy(version: Version) -> dict[int, str]:
    """By site id, the rollout whose part at the site is not over yet."""
    rows = Deployment.objects.filter(
        model=version.model_id, state__in=[state.value for state in ACTIVE_DEPLOYMENT]
    ).order_by()
    parts = rows.values_list("site_id", "rollout_id")
    return {pk: f"its part in rollout {rollout_id} is not over" for pk, rollout_id in parts}


def _failed_before(version: Version, plan: Plan) -> list[str]:
    """Sites of the plan where this very version failed already."""
    rows = BadVersion.objects.filter(version=version).order_by()
    bad = set(rows.values_list("site__name", flat=True))
    hit = sorted(bad.intersection(name for _, names in plan.stages for name in names))
    if not hit:
        return []
    more = f" and {len(hit) - _NAMED} more" if len(hit) > _NAMED else ""
    return [f"{version} failed before at {', '.join(hit[:_NAMED])}{more}"]


def _efforts(plan: Plan, candidates: Sequence[Candidate], size_bytes: int) -> list[Effort]:
    links = {candidate.name: candidate.downlink_mbit_per_s for candidate in candidates}
    return [
        stage_effort(
            limits=resolve(spec.policy, len(names)),
            size_bytes=size_bytes,
            downlinks_mbit_per_s=[links[name] for name in names],
            soak_seconds=spec.soak_seconds,
        )
        for spec, names in plan.stages
    ]
