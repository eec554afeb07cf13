"""Which site goes into which stage: a plan from frozen facts; the same facts give the same plan.

It must not know rows, rollouts in progress or the clock."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from controlplane.domain.cautions import NAMED, cautions
from controlplane.domain.draw import draw, draw_per
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.fit_facts import size_text
from controlplane.domain.policy import span
from controlplane.domain.selector import SiteSelector, SiteTraits
from controlplane.domain.stages import StageSpec


@dataclass(frozen=True, kw_only=True)
class Candidate(SiteTraits):
    """A site as the planner sees it. `excluded` is why it cannot take part, or None.

    `downlink_mbit_per_s` None: nobody stated it. `variant` is the build it would get, with its
    `size_bytes`; `only_by_replace`: there is no room for it beside the version before.
    """

    excluded: str | None = None
    downlink_mbit_per_s: float | None = None
    variant: str = ""
    size_bytes: int = 0
    only_by_replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Each included site in exactly one stage; every other site in `excluded` with the reason.

    `hardware` of each included site is what it was planned with, `variants` the build it is to get.
    """

    stages: tuple[tuple[StageSpec, tuple[str, ...]], ...]
    excluded: tuple[tuple[str, str], ...]
    hardware: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def sites(self) -> int:
        return sum(len(names) for _, names in self.stages)

    @property
    def soak_seconds(self) -> float:
        """The least time the rollout takes, transfer and loading left out."""
        return sum(spec.soak_seconds for spec, names in self.stages if names)

    def digest(self, *, manifest_digest: str, terms: Mapping[str, object] | None = None) -> str:
        """`sha256:` and hex over what is agreed to when a plan is: the bytes, the stages in order,
        each stage's sites, soak and policy, and the `terms` of the whole (strategy, barrier, ...).
        Who is left out, and why, may change without harm."""
        document = {
            "manifest": manifest_digest,
            "stages": [
                [spec.name, spec.soak_seconds, list(names), spec.policy.document(), spec.trailing]
                for spec, names in self.stages
                if names or spec.trailing
            ],
            "terms": dict(terms or {}),
        }
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What decides whether a site can take part at all. None: not known, or nothing against it.

    `pinned`, `busy` and `incompatible` are sentences: held at a version by whom and why, taking
    part in which rollout of the same model, not able to run the version for what reason.
    """

    joined: bool
    silent_for: timedelta | None
    disk_free_bytes: int | None
    pinned: str | None = None
    busy: str | None = None
    incompatible: str | None = None


def exclusion(fit: Fit, *, size_bytes: int, patience: timedelta) -> str | None:
    """Why the site cannot take part, as a sentence for the plan, or None.

    What a person decided comes first, then what only a person can change. A site silent for a while
    may come back and is waited for; one silent for longer than `patience` would hold its stage up
    for nothing.
    """
    if fit.pinned:
        return fit.pinned
    if not fit.joined:
        return "no agent has joined"
    if fit.incompatible:
        return fit.incompatible
    if fit.silent_for is not None and fit.silent_for > patience:
        return f"not heard of for {span(fit.silent_for.total_seconds())}"
    if fit.disk_free_bytes is not None and fit.disk_free_bytes < size_bytes:
        free = size_text(fit.disk_free_bytes)
        return f"needs {size_text(size_bytes)} of disk, {free} are free"
    return fit.busy


def plan_seed(*, manifest_digest: str, specs: Sequence[StageSpec]) -> str:
    """From what is asked for, not from chance: the preview and the run pick the same sites."""
    asked = [[spec.name, spec.soak_seconds, spec.select_document()] for spec in specs]
    canonical = json.dumps([manifest_digest, asked], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def plan_stages(
    *,
    specs: Sequence[StageSpec],
    candidates: Sequence[Candidate],
    seed: str,
    exclude: SiteSelector | None = None,
) -> Plan:
    """Puts every candidate into the first stage that selects it.

    A share is of the candidates the other conditions leave and no earlier stage took: rounded down,
    at least 1. Which ones is drawn by `seed`, so that the preview and the run agree. A stage that
    takes nobody stays in the plan, empty; the engine skips it. Sites that any one condition of
    `exclude` fits take no part, since leaving out too many is the harmless mistake. Raises
    `InvalidInput` (`site-unknown`, `rollout-selects-no-site`).
    """
    _refuse_unknown_sites(specs, exclude, candidates)
    unwanted = exclude.conditions() if exclude else ()
    excluded = {
        c.name: reason for c in candidates if (reason := _left_out(c, unwanted)) is not None
    }
    left = {c.name: c for c in candidates if c.name not in excluded}
    stages: list[tuple[StageSpec, tuple[str, ...]]] = []
    for spec in specs:
        chosen = _chosen(spec, left.values(), seed)
        for name in chosen:
            del left[name]
        stages.append((spec, tuple(chosen)))
    if not any(names for _, names in stages):
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(excluded.items())[:NAMED])
        detail = "The stages select no site." + (f" Excluded: {why}." if why else "")
        raise InvalidInput("rollout-selects-no-site", detail)
    found = cautions(stages, candidates, excluded)
    for name in left:
        excluded[name] = "no stage selects it"
    placed = {name for _, names in stages for name in names}
    return Plan(
        stages=tuple(stages),
        excluded=tuple(sorted(excluded.items())),
        hardware={c.name: c.hardware for c in candidates if c.name in placed},
        variants={c.name: c.variant for c in candidates if c.name in placed and c.variant},
        warnings=tuple(found),
    )


def _left_out(candidate: Candidate, unwanted: Sequence[SiteSelector]) -> str | None:
    if any(condition.matches(candidate) for condition in unwanted):
        return "excluded by the request"
    return candidate.excluded


def _chosen(spec: StageSpec, left: Iterable[Candidate], seed: str) -> list[str]:
    """Of those left, the ones the stage takes, by name. A trailing stage that names no condition
    waits for sites that are not there yet."""
    if spec.trailing and not spec.select_document():
        return []
    matching = [c for c in left if spec.matches(c)]
    if not matching:
        return []
    if spec.per is not None:
        return draw_per(matching, spec.per, spec.count or 1, seed)
    if spec.count is not None:
        return draw(matching, spec.count, seed)
    if spec.percent is not None:
        return draw(matching, max(1, len(matching) * spec.percent // 100), seed)
    return sorted(c.name for c in matching)


def _refuse_unknown_sites(
    specs: Sequence[StageSpec], exclude: SiteSelector | None, candidates: Sequence[Candidate]
) -> None:
    """A mistyped name would quietly leave a site out, or, in a list of exclusions, let it in."""
    known = {candidate.name for candidate in candidates}
    asked = [
        (f"stages[{i}].select.{key}", name)
        for i, spec in enumerate(specs)
        for key, names in (("sites", spec.sites or ()), ("exclude", spec.exclude))
        for name in sorted(names)
    ]
    if exclude is not None:
        asked += [("exclude.sites", name) for name in sorted(exclude.sites or ())]
    unknown = [(field, name) for field, name in asked if name not in known]
    if unknown:
        names = sorted({name for _, name in unknown})
        raise InvalidInput(
            "site-unknown",
            f"No site in service is called {', '.join(names[:NAMED])}.",
            errors=[FieldError(field=f, message=f"unknown site {n!r}") for f, n in unknown[:20]],
        )
