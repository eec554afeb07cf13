"""What a rollout would do: the same plan for a preview and for the run. Reads only; a constant
number of queries, however many sites there are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from controlplane.catalog.models import ContentClass, Version, VersionState
from controlplane.catalog.queries import find_version
from controlplane.catalog.signatures import require_standing
from controlplane.catalog.versions import lock_version, standing_of
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.estimate import Effort, assumptions, stage_effort, stage_seconds
from controlplane.domain.policy import Limits, Switch, limit_sentences, resolve
from controlplane.domain.rollout import ACTIVE_ROLLOUT, RolloutState
from controlplane.domain.selection import Candidate, Plan, plan_seed, plan_stages
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import DEFAULT_STRATEGY, StrategySpec
from controlplane.fleet.queries import window_warnings
from controlplane.rollouts.candidates import candidates
from controlplane.rollouts.models import BadVersion, Rollout

_NAMED = 5  # sites named in one sentence


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage with its sites, and what its policy comes to for so many; how many of them get which
    build is in `variants`."""

    spec: StageSpec
    sites: tuple[str, ...]
    limits: Limits
    limit_sentences: tuple[str, ...]
    bytes_to_move: int
    expected_seconds: float
    variants: Mapping[str, int]


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

    Raises `InvalidInput` (`version-unknown`, `version-not-registered`, `version-not-approved`,
    `version-quarantined`, `version-retired`, `stages-and-strategy`, `site-unknown`,
    `rollout-selects-no-site`) and `Conflict` (`rollout-active`, `strategy-retired`,
    `signature-required`).
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
    efforts = _efforts(plan, found)
    seconds = stage_seconds(efforts, barrier=barrier)
    terms = {
        "strategy": [strategy.name, strategy.version] if strategy else None,
        "barrier": barrier,
        "exclude": exclude.document() if exclude else {},
    }
    if several_builds(version):  # who gets which build is agreed to with the plan
        terms["variants"] = dict(plan.variants)
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
                variants=Counter(plan.variants[name] for name in names if name in plan.variants),
            )
            for (spec, names), effort, expected in zip(plan.stages, efforts, seconds, strict=True)
        ),
        warnings=(
            *plan.warnings,
            *_of_builds(plan, found),
            *_failed_before(version, plan),
            *window_warnings(),
        ),
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
    require_usable(version)
    return version


def require_usable(version: Version) -> None:
    """Whether a rollout may bring the version anywhere: it is approved, and signed where its model
    asks for that. A version stays approved when the key that signed it is revoked, and starts no
    rollout from then on. Raises `InvalidInput` and `Conflict` (`signature-required`)."""
    _require_approved(version)
    require_standing(version)
    _require_people(version)


def _require_people(version: Version) -> None:
    """Machine code that only its builder can vouch for was approved as data while a key vouched;
    with that key revoked it takes the people that code takes."""
    if version.content_class != ContentClass.OPAQUE:
        return
    people = standing_of(version)
    if not people.met:
        detail = f"{version} was approved while it was signed, and is not signed any more."
        cure = f"{people.sentence}; or sign it by a key that counts"
        raise InvalidInput(
            "version-not-approved", detail, errors=[FieldError(field="version", message=cure)]
        )


def _require_approved(version: Version) -> None:
    state, said = VersionState(version.state), version.state_reason or "no reason was given"
    if state is VersionState.APPROVED:
        return
    if state is VersionState.QUARANTINED:
        code, why = "version-quarantined", f"{version} is quarantined: {said}."
        cure = "is quarantined; release it or take another"
    elif state is VersionState.RETIRED:
        code, why = "version-retired", f"{version} is retired: {said}."
        cure = "is retired; take it back into use, or take another"
    elif state is VersionState.UPLOADING:
        code, why = "version-not-registered", f"{version} is not registered."
        cure = "is uploading; finalise the push first"
    else:
        code, why = "version-not-approved", f"{version} is {state.value}, not approved: {said}."
        cure = f"is not approved: {said}"
    raise InvalidInput(code, why, errors=[FieldError(field="version", message=cure)])


def require_still_usable(version: Version) -> None:
    """Once more and for good, at the end of the transaction that starts a rollout: from here on an
    approval of it cannot be taken back, nor can it be retired. Raises as `require_usable`."""
    require_usable(lock_version(version))


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


def several_builds(version: Version) -> bool:
    return "variants" in version.manifest


def _failed_before(version: Version, plan: Plan) -> list[str]:
    """Sites of the plan where this very version failed already."""
    rows = BadVersion.objects.filter(version=version).order_by()
    bad = set(rows.values_list("site__name", flat=True))
    hit = sorted(bad.intersection(name for _, names in plan.stages for name in names))
    if not hit:
        return []
    more = f" and {len(hit) - _NAMED} more" if len(hit) > _NAMED else ""
    return [f"{version} failed before at {', '.join(hit[:_NAMED])}{more}"]


def _of_builds(plan: Plan, candidates: Sequence[Candidate]) -> list[str]:
    """Builds that later stages are given and the first shows nothing of; and sites that cannot hold
    both versions, in a stage that asks for just that."""
    found = []
    in_stages = [
        (spec, {plan.variants.get(name, "") for name in names}) for spec, names in plan.stages
    ]
    with_sites = [(spec, builds) for spec, builds in in_stages if builds]
    if with_sites:
        (first, shown), later = with_sites[0], with_sites[1:]
        unseen = sorted({name for _, builds in later for name in builds} - shown - {""})
        if unseen:
            some = ", ".join(unseen[:_NAMED])
            found.append(
                f"stage {first.name} has no site with variant {some}, which later stages have"
            )
    for spec, names in plan.stages:
        count = Counter(plan.variants[name] for name in names if name in plan.variants)
        alone = (
            sorted(name for name, sites in count.items() if sites == 1) if len(names) > 1 else []
        )
        if alone and len(count) > 1:
            found.append(
                f"stage {spec.name} has one site alone with variant {', '.join(alone[:_NAMED])}: "
                "if it fails, all sites of that variant have failed, which no policy bears"
            )
    tight = {candidate.name for candidate in candidates if candidate.only_by_replace}
    for spec, names in plan.stages:
        hit = sorted(tight.intersection(names)) if spec.policy.switch is Switch.SURGE else []
        if hit:
            more = f" and {len(hit) - _NAMED} more" if len(hit) > _NAMED else ""
            found.append(
                f"stage {spec.name}: {', '.join(hit[:_NAMED])}{more} cannot hold both versions in "
                "memory; they need switch replace or auto"
            )
    return found


def _efforts(plan: Plan, candidates: Sequence[Candidate]) -> list[Effort]:
    """Of several builds a stage takes as long as with the largest of them."""
    sites = {candidate.name: candidate for candidate in candidates}
    return [
        replace(
            stage_effort(
                limits=resolve(spec.policy, len(names)),
                size_bytes=max((sites[name].size_bytes for name in names), default=0),
                downlinks_mbit_per_s=[sites[name].downlink_mbit_per_s for name in names],
                soak_seconds=spec.soak_seconds,
            ),
            bytes_to_move=sum(sites[name].size_bytes for name in names),
        )
        for spec, names in plan.stages
    ]
