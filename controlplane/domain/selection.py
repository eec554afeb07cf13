"""Which site goes into which stage: a plan from frozen facts; the same facts give the same plan.

It must not know rows, rollouts in progress or the clock."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from controlplane.domain.errors import FieldError, InvalidInput

TIERS = ("hyperscale", "regional", "edge")
MAX_STAGES = 50
MAX_SOAK_SECONDS = 30 * 24 * 3600
_STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_SELECT_KEYS = ("tier", "labels", "percent", "sites")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A site as the planner sees it. `excluded` is why it cannot take part, or None."""

    name: str
    tier: str
    labels: Mapping[str, str]
    excluded: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage as asked for. Conditions narrow each other; `percent` is taken of what is left."""

    name: str
    soak_seconds: float
    tier: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    sites: frozenset[str] | None = None
    percent: int | None = None

    def document(self) -> dict[str, object]:
        """The selection in the form the API takes it."""
        select: dict[str, object] = {}
        if self.tier:
            select["tier"] = self.tier
        if self.labels:
            select["labels"] = dict(self.labels)
        if self.sites is not None:
            select["sites"] = sorted(self.sites)
        if self.percent is not None:
            select["percent"] = self.percent
        return select


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Each included site in exactly one stage; every other site in `excluded` with the reason."""

    stages: tuple[tuple[StageSpec, tuple[str, ...]], ...]
    excluded: tuple[tuple[str, str], ...]

    @property
    def sites(self) -> int:
        return sum(len(names) for _, names in self.stages)

    @property
    def soak_seconds(self) -> float:
        """The least time the rollout takes, transfer and loading left out."""
        return sum(spec.soak_seconds for spec, names in self.stages if names)

    def digest(self, *, manifest_digest: str) -> str:
        """`sha256:` and hex over what is agreed to when a plan is: the bytes, the stages in order,
        and each stage's sites and soak. Who is left out, and why, may change without harm."""
        document = {
            "manifest": manifest_digest,
            "stages": [
                [spec.name, spec.soak_seconds, list(names)] for spec, names in self.stages if names
            ],
        }
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What decides whether a site can take part at all. None: not known, which excludes nobody."""

    joined: bool
    silent_for: timedelta | None
    disk_free_bytes: int | None


def exclusion(fit: Fit, *, size_bytes: int, patience: timedelta) -> str | None:
    """Why the site cannot take part, as a sentence for the plan, or None.

    A site silent for a while may come back and is waited for; one silent for longer than
    `patience` would hold its stage up for nothing.
    """
    if not fit.joined:
        return "no agent has joined"
    if fit.silent_for is not None and fit.silent_for > patience:
        return f"not heard of for {_span(fit.silent_for)}"
    if fit.disk_free_bytes is not None and fit.disk_free_bytes < size_bytes:
        return f"needs {_size(size_bytes)} of disk, {_size(fit.disk_free_bytes)} are free"
    return None


def plan_seed(*, manifest_digest: str, specs: Sequence[StageSpec]) -> str:
    """From what is asked for, not from chance: the preview and the run pick the same sites."""
    asked = [[spec.name, spec.soak_seconds, spec.document()] for spec in specs]
    canonical = json.dumps([manifest_digest, asked], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


DEFAULT_STAGES = (
    StageSpec(name="canary", percent=10, soak_seconds=60),
    StageSpec(name="half", percent=50, soak_seconds=60),
    StageSpec(name="rest", percent=100, soak_seconds=60),
)


def parse_stages(document: object) -> tuple[StageSpec, ...]:
    """Stages as asked for; None asks for the default. Raises `InvalidInput` (`stage-invalid`)."""
    if document is None:
        return DEFAULT_STAGES
    if not isinstance(document, list) or not document:
        raise _invalid(
            [FieldError(field="stages", message="must be a list with at least one stage")]
        )
    if len(document) > MAX_STAGES:
        message = f"has {len(document)} stages; at most {MAX_STAGES} are allowed"
        raise _invalid([FieldError(field="stages", message=message)])
    faults: list[FieldError] = []
    specs = [_parse_stage(f"stages[{i}]", entry, faults) for i, entry in enumerate(document)]
    names = [spec.name for spec in specs if spec]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(FieldError(field="stages", message=f"the name {name!r} is there twice"))
    if faults:
        raise _invalid(faults)
    return tuple(spec for spec in specs if spec)


def _parse_stage(where: str, entry: object, faults: list[FieldError]) -> StageSpec | None:
    if not isinstance(entry, Mapping):
        faults.append(FieldError(field=where, message="must be an object with name and select"))
        return None
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}.{key}", message=message))

    for key in sorted(set(map(str, entry)) - {"name", "select", "soak_seconds"}):
        fault(key, "is not known; a stage has name, select and soak_seconds")
    name, soak, select = entry.get("name"), entry.get("soak_seconds", 60), entry.get("select", {})
    if not isinstance(name, str) or not _STAGE_NAME.fullmatch(name):
        fault("name", "must be 1 to 40 of a-z 0-9 -, such as canary")
    if (
        isinstance(soak, bool)
        or not isinstance(soak, int | float)
        or not 0 <= soak <= MAX_SOAK_SECONDS
    ):
        fault("soak_seconds", f"must be a number from 0 to {MAX_SOAK_SECONDS}")
    if not isinstance(select, Mapping):
        fault("select", f"must be an object with some of {', '.join(_SELECT_KEYS)}")
        return None
    for key in sorted(set(map(str, select)) - set(_SELECT_KEYS)):
        fault(f"select.{key}", f"is not known; allowed are {', '.join(_SELECT_KEYS)}")
    tier, labels = select.get("tier"), select.get("labels", {})
    percent, sites = select.get("percent"), select.get("sites")
    if tier is not None and tier not in TIERS:
        fault("select.tier", f"must be one of {', '.join(TIERS)}")
    if not isinstance(labels, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in labels.items()
    ):
        fault("select.labels", 'must map names to values, such as {"ring": "0"}')
    if percent is not None and (
        isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= 100
    ):
        fault("select.percent", "must be a whole number from 1 to 100")
    if sites is not None and not (
        isinstance(sites, list) and sites and all(isinstance(s, str) for s in sites)
    ):
        fault("select.sites", "must be a list of site names")
    if len(faults) > before:
        return None
    assert isinstance(name, str)
    return StageSpec(
        name=name,
        soak_seconds=float(soak),
        tier=tier,
        labels=dict(labels),
        sites=frozenset(sites) if sites is not None else None,
        percent=percent,
    )


def plan_stages(*, specs: Sequence[StageSpec], candidates: Sequence[Candidate], seed: str) -> Plan:
    """Puts every candidate into the first stage that selects it.

    A percentage is of the candidates the other conditions leave and no earlier stage took:
    rounded down, at least 1. Which ones is decided by SHA-256 of seed and name, so that the
    preview and the run agree. Raises `InvalidInput` (`site-unknown`, `rollout-selects-no-site`).
    """
    _refuse_unknown_sites(specs, candidates)
    excluded = {c.name: c.excluded for c in candidates if c.excluded}
    left = {c.name: c for c in candidates if not c.excluded}
    stages = []
    for spec in specs:
        matching = sorted(c.name for c in left.values() if _selects(spec, c))
        chosen = matching if spec.percent is None else _sample(matching, spec.percent, seed)
        for name in chosen:
            del left[name]
        stages.append((spec, tuple(chosen)))
    if not any(names for _, names in stages):
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(excluded.items())[:5])
        detail = "The stages select no site." + (f" Excluded: {why}." if why else "")
        raise InvalidInput("rollout-selects-no-site", detail)
    for name in left:
        excluded[name] = "no stage selects it"
    return Plan(stages=tuple(stages), excluded=tuple(sorted(excluded.items())))


def _selects(spec: StageSpec, candidate: Candidate) -> bool:
    return (
        (spec.tier is None or candidate.tier == spec.tier)
        and (spec.sites is None or candidate.name in spec.sites)
        and all(candidate.labels.get(key) == value for key, value in spec.labels.items())
    )


def _sample(names: list[str], percent: int, seed: str) -> list[str]:
    if not names:
        return []
    count = max(1, len(names) * percent // 100)
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return sorted(ranked[:count])


def _refuse_unknown_sites(specs: Sequence[StageSpec], candidates: Sequence[Candidate]) -> None:
    known = {candidate.name for candidate in candidates}
    named = {name for spec in specs for name in spec.sites or ()}
    unknown = sorted(named - known)
    if unknown:
        raise InvalidInput(
            "site-unknown",
            f"No site is called {', '.join(unknown[:5])}.",
            errors=[
                FieldError(field="stages", message=f"unknown site {n!r}") for n in unknown[:20]
            ],
        )


def _invalid(faults: list[FieldError]) -> InvalidInput:
    return InvalidInput("stage-invalid", "The stages cannot be used as given.", errors=faults)
