"""What the simulated centre has written down: the tables of rollouts, as plain objects.

Data only; `centre.py` changes it. The words are those of `domain/rollout.py`."""

from collections import Counter
from dataclasses import dataclass, field

from controlplane.domain.rollout import DeploymentState, RolloutState, StageState
from controlplane.ops.simulation.versions import Version


@dataclass(frozen=True, kw_only=True)
class Said:
    """What an agent says of one model."""

    model: str
    generation: int
    phase: str
    serving: int | None
    healthy: bool | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report. `session` counts an agent's lives, `seq` its reports in one. `sent_at` is by the
    clock of the site, which may be years off."""

    site: int
    session: int
    seq: int
    models: tuple[Said, ...]
    sent_at: float


@dataclass(frozen=True, kw_only=True)
class Wished:
    """What a site is told of one model."""

    model: str
    generation: int
    version: Version | None
    previous: int | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Everything a site is told; `generation` is the highest of its wishes."""

    generation: int
    wishes: tuple[Wished, ...]


@dataclass(kw_only=True, slots=True)
class SiteModel:
    """The wish for a model at a site, and what was last said of it."""

    desired: Version | None = None
    previous: Version | None = None
    generation: int = 0
    said: Said | None = None
    reported_at: float | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Deployment:
    """One site's part in a rollout, forward or back."""

    rollout: "Rollout"
    stage: "Stage"
    site: int
    is_rollback: bool
    to_version: Version | None
    from_version: Version | None = None
    state: DeploymentState = DeploymentState.PENDING
    generation: int | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Stage:
    """`forward` and `rollback` count the deployments by state."""

    index: int
    name: str
    soak_seconds: float
    state: StageState = StageState.PENDING
    soaked_seconds: float = 0.0
    soak_counted_until: float | None = None
    forward: Counter[DeploymentState] = field(default_factory=Counter)
    rollback: Counter[DeploymentState] = field(default_factory=Counter)
    deployments: list[Deployment] = field(default_factory=list)


@dataclass(kw_only=True, slots=True, eq=False)
class Rollout:
    """A version on its way over stages of sites."""

    id: int
    version: Version
    state: RolloutState = RolloutState.PLANNED
    cause: str = ""
    stages: list[Stage] = field(default_factory=list)
    forward: list[Deployment] = field(default_factory=list)
    rollback: list[Deployment] = field(default_factory=list)

    def __str__(self) -> str:
        return f"rollout {self.id} ({self.version})"
