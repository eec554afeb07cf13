"""Strategies: named ways through the fleet, with the stages and what holds for all of them.

The built-in ones stand here. It must not know rows; `rollouts/strategies.py` keeps people's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.policy import OnSilent, StagePolicy
from controlplane.domain.stages import MAX_STAGES, SLUG, StageSpec, read_stages

MAX_TITLE = 200
STRAGGLERS = "stragglers"
_KEYS = ("name", "version", "title", "stages", "barrier", "late_joiners", "approval")
_APPROVAL_KEYS = ("required", "by_other")


@dataclass(frozen=True, kw_only=True)
class StrategySpec:
    """A strategy of one version. `stages` are as written; a rollout takes `all_stages`.

    `barrier`: every site fetches from the beginning and activates when its stage runs.
    `approval_by_other`: the author's own yes does not count.
    """

    name: str
    version: int
    stages: tuple[StageSpec, ...]
    title: str = ""
    barrier: bool = False
    late_joiners: bool = False
    approval_required: bool = False
    approval_by_other: bool = True
    built_in: bool = False
    retired: bool = False

    @property
    def all_stages(self) -> tuple[StageSpec, ...]:
        """With a trailing stage at the end where late joiners are to be taken and none is."""
        if not self.late_joiners or self.stages[-1].trailing:
            return self.stages
        policy = StagePolicy(failures_tolerated="50%")
        tail = StageSpec(name=STRAGGLERS, soak_seconds=0, trailing=True, policy=policy)
        return (*self.stages, tail)

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "version": self.version,
            "title": self.title,
            "stages": [spec.document() for spec in self.stages],
            "barrier": self.barrier,
            "late_joiners": self.late_joiners,
            "approval": {
                "required": self.approval_required,
                "by_other": self.approval_by_other,
            },
        }


def parse_strategy(document: object) -> StrategySpec:
    """A strategy as written; `version` may be left out (0). Raises `InvalidInput`
    (`strategy-invalid`) with every fault."""
    faults: list[FieldError] = []
    spec = _read(document, faults)
    if faults or spec is None:
        detail = "The strategy cannot be used as given."
        raise InvalidInput("strategy-invalid", detail, errors=faults)
    return spec


def _read(document: object, faults: list[FieldError]) -> StrategySpec | None:
    def fault(field: str, message: str) -> None:
        faults.append(FieldError(field=field, message=message))

    if not isinstance(document, Mapping):
        fault("strategy", f"must be an object with {', '.join(_KEYS)}")
        return None
    for key in sorted(set(map(str, document)) - set(_KEYS)):
        fault(key, f"is not known; a strategy has {', '.join(_KEYS)}")
    name, version = document.get("name"), document.get("version")
    title = document.get("title", "")
    if not isinstance(name, str) or not SLUG.fullmatch(name):
        fault("name", "must be 1 to 40 of a-z 0-9 -, such as night-shift")
    if version is not None and (
        isinstance(version, bool) or not isinstance(version, int) or version < 1
    ):
        fault("version", "must be a whole number from 1, or left out")
    if not isinstance(title, str) or len(title) > MAX_TITLE:
        fault("title", f"must be a text of at most {MAX_TITLE} characters")
    stages = read_stages(document.get("stages"), faults)
    barrier = _flag(document, "barrier", False, faults)
    late_joiners = _flag(document, "late_joiners", False, faults)
    if late_joiners and stages and not stages[-1].trailing:
        if any(spec.name == STRAGGLERS for spec in stages):
            fault("stages", f"the name {STRAGGLERS!r} is that of the stage for late joiners")
        if len(stages) == MAX_STAGES:
            fault("stages", f"has {MAX_STAGES} stages, which leaves no room for late joiners")
    approval = document.get("approval", {})
    if not isinstance(approval, Mapping):
        fault("approval", f"must be an object with {' and '.join(_APPROVAL_KEYS)}")
        return None
    for key in sorted(set(map(str, approval)) - set(_APPROVAL_KEYS)):
        fault(f"approval.{key}", f"is not known; it has {' and '.join(_APPROVAL_KEYS)}")
    required = _flag(approval, "required", False, faults, "approval.")
    by_other = _flag(approval, "by_other", True, faults, "approval.")
    if faults:
        return None
    return StrategySpec(
        name=str(name),
        version=version or 0,
        title=title,
        stages=stages,
        barrier=barrier,
        late_joiners=late_joiners,
        approval_required=required,
        approval_by_other=by_other,
    )


def _flag(
    document: Mapping[str, object],
    key: str,
    default: bool,
    faults: list[FieldError],
    where: str = "",
) -> bool:
    value = document.get(key, default)
    if isinstance(value, bool):
        return value
    faults.append(FieldError(field=where + key, message="must be true or false"))
    return default


# For a thousand sites, of which some are always out of reach: who is silent for half an hour is put
# off to the end instead of holding everybody up, and 1 in 50 may fail once the canary has passed.
_CAREFUL = StagePolicy(progress_deadline_seconds=1800, on_silent=OnSilent.DEFER)
_WIDE = replace(_CAREFUL, failures_tolerated="2%")


def _built_in(
    name: str, title: str, stages: Sequence[StageSpec], *, barrier: bool = False
) -> StrategySpec:
    return StrategySpec(
        name=name,
        version=1,
        title=title,
        stages=tuple(stages),
        barrier=barrier,
        late_joiners=True,
        built_in=True,
    )


_CANARY = StageSpec(name="canary", percent=10, soak_seconds=60, policy=_CAREFUL)
_HALF = StageSpec(name="half", percent=50, soak_seconds=60, policy=_WIDE)
_REST = StageSpec(name="rest", soak_seconds=60, policy=_WIDE)

BUILT_IN = (
    _built_in(
        "canary", "10 % of every kind, then half of the rest, then all", (_CANARY, _HALF, _REST)
    ),
    _built_in(
        "edge-first",
        "Edge, then regional, then hyperscale",
        (
            StageSpec(name="edge", tier="edge", soak_seconds=60, policy=_CAREFUL),
            StageSpec(name="regional", tier="regional", soak_seconds=60, policy=_CAREFUL),
            StageSpec(name="hyperscale", tier="hyperscale", soak_seconds=60, policy=_CAREFUL),
        ),
    ),
    _built_in(
        "one-per-region",
        "One site of each region, then a quarter, then all",
        (
            StageSpec(name="one-each", per="region", count=1, soak_seconds=60, policy=_CAREFUL),
            StageSpec(name="quarter", percent=25, soak_seconds=60, policy=_WIDE),
            _REST,
        ),
    ),
    _built_in(
        "at-once",
        "All sites at once",
        (StageSpec(name="all", soak_seconds=60, policy=replace(_CAREFUL, max_unavailable="100%")),),
    ),
    _built_in(
        "stage-everywhere",
        "The bytes to all sites at once, activated like canary",
        (_CANARY, _HALF, _REST),
        barrier=True,
    ),
)

# What a rollout goes by that names neither stages nor a strategy.
DEFAULT_STRATEGY = BUILT_IN[0]
