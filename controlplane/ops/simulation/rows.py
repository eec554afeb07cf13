"""What the simulated centre has written down: the tables of rollouts, as plain objects.

Data only; `centre.py` changes it. The words are those of `domain/rollout.py`."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from controlplane.domain.admission import Instant
from controlplane.domain.gates import GateResult
from controlplane.domain.policy import Limits, StagePolicy, resolve
from controlplane.domain.rollout import (
    OUT_OF_STAGE,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.ops.simulation.versions import Version


@dataclass(frozen=True, kw_only=True)
class Said:
    """What an agent says of one model."""

    model: str
    generation: int
    phase: str
    serving: int | None
    healthy: bool | None
    reason_code: str = ""
    lease: int | None = None


class Report(NamedTuple):
    """One report. `session` counts an agent's lives, `seq` its reports in one. `sent_at` is by the
    clock of the site, which may be years off; `boot` and `uptime` by the one that nobody can set.
    `live`: the server answered."""

    site: int
    session: int
    seq: int
    models: tuple[Said, ...]
    sent_at: float
    boot: str
    uptime: float
    live: bool = True


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether a site may begin now with what is wished of a model. `asked` as in a report."""

    site: int
    session: int
    model: str
    generation: int
    asked: Instant


@dataclass(frozen=True, kw_only=True)
class Leave:
    """The answer: a lease, or why not, and when to ask again."""

    lease: int | None
    code: str = ""
    retry_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Wished:
    """What a site is told of one model."""

    model: str
    generation: int
    version: Version | None
    previous: int | None
    lease_required: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Everything a site is told; `generation` is the highest of its wishes."""

    generation: int
    wishes: tuple[Wished, ...]


@dataclass(kw_only=True, slots=True)
class SiteModel:
    """The wish for a model at a site, and what was last said of it: `said` of the present wish,
    the others of any. `offer`: the deployment forward that the wish came with."""

    desired: Version | None = None
    previous: Version | None = None
    generation: int = 0
    offer: "Deployment | None" = None
    said: Said | None = None
    reported_at: float | None = None
    serving: int | None = None
    healthy: bool | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Deployment:
    """One site's part in a rollout, forward or back. `number` is its place in the plan."""

    rollout: "Rollout"
    stage: "Stage"
    site: int
    is_rollback: bool
    to_version: Version | None
    number: int = 0
    from_version: Version | None = None
    state: DeploymentState = DeploymentState.PENDING
    reason_code: str = ""
    generation: int | None = None
    attempt: int = 1
    superseded: bool = False
    failed_before: bool = False
    not_before: float | None = None
    offered_at: float | None = None
    lease: int = 0
    holds_lease: bool = False
    leased_at: float | None = None
    asked: Instant | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Stage:
    """`forward` and `rollback` count the latest attempts by state, `moving` those forward that hold
    a slot, `retrying` those that failed before and are not over; `deployments` are the latest
    forward. `changes` rises with each of their steps: what was worked out at the same number holds
    still (`causes`, `known_limits`, `left`, `served`). `away`: who was unavailable when
    the stage was `looked_at` last, and until when nobody else can have fallen silent."""

    index: int
    name: str
    soak_seconds: float
    policy: StagePolicy = field(default_factory=StagePolicy)
    trailing: bool = False
    state: StageState = StageState.PENDING
    soaked_seconds: float = 0.0
    soak_counted_until: float | None = None
    inconclusive_seconds: float = 0.0
    promoted: bool = False
    approved: bool = False
    gates: dict[str, GateResult] = field(default_factory=dict)
    accepted_at: float | None = None
    accepted_failures: int = 0
    moving: int = 0
    retrying: int = 0
    changes: int = 0
    causes: tuple[int, int, int] = (-1, 0, 0)
    forward: Counter[DeploymentState] = field(default_factory=Counter)
    rollback: Counter[DeploymentState] = field(default_factory=Counter)
    deployments: list[Deployment] = field(default_factory=list)

    known_limits: tuple[int, Limits | None] = (-1, None)
    left: tuple[int, int, int] = (-1, 0, 0)
    served: tuple[int, int, tuple[SiteModel, ...]] = (-1, 0, ())
    away: list[Deployment] = field(default_factory=list)
    looked_at: tuple[int, int] = (-1, 0)
    all_heard_until: float = 0.0

    @property
    def limits(self) -> Limits:
        """For the sites that still count."""
        changes, known = self.known_limits
        if known is None or changes != self.changes:
            out = sum(self.forward[state] for state in OUT_OF_STAGE)
            known = resolve(self.policy, sum(self.forward.values()) - out)
            self.known_limits = (self.changes, known)
        return known


@dataclass(kw_only=True, slots=True, eq=False)
class Rollout:
    """A version on its way over stages of sites. `forward` and `rollback` hold every attempt;
    `welcomes`: sites that join late fit one of its stages."""

    id: int
    version: Version
    created_at: float = 0.0
    barrier: bool = False
    welcomes: bool = False
    approval_required: bool = False
    approved: bool = False
    state: RolloutState = RolloutState.PLANNED
    cause: str = ""
    pause_code: str = ""
    superseded_by: int | None = None
    stages: list[Stage] = field(default_factory=list)
    forward: list[Deployment] = field(default_factory=list)
    rollback: list[Deployment] = field(default_factory=list)

    def __str__(self) -> str:
        return f"rollout {self.id} ({self.version})"
