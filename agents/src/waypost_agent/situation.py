"""What is wished of a model, what is on record and what was seen: all that a decision stands on.

Pure values; decides nothing. Knows no clock, disk or server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

READY = "READY"
LOADING = "LOADING"
UNLOADING = "UNLOADING"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A version by its number at this server and by the digest of its manifest."""

    version: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the centre wishes for one model; `target` None means: serve nothing."""

    model: str
    epoch: int
    generation: int
    target: Target | None
    previous: str | None = None
    lease_required: bool = False

    @property
    def pair(self) -> tuple[int, int]:
        return (self.epoch, self.generation)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The centre's leave to begin with one version for one wish of a model."""

    number: int
    epoch: int
    generation: int
    target: Target

    def covers(self, wish: Wish) -> bool:
        """Whether it was given for this very wish; any newer one voids it."""
        return (self.epoch, self.generation, self.target) == (*wish.pair, wish.target)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A version that failed for a wish; it is not tried again until a newer one."""

    epoch: int
    generation: int
    target: Target
    reason_code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Proofs and switches begun for a wish and not yet judged."""

    epoch: int
    generation: int
    target: Target
    count: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """What cannot be observed: the journal of one model."""

    committed: Target | None = None
    previous: Target | None = None
    proven: frozenset[str] = frozenset()
    failed: Failure | None = None
    attempts: Attempts | None = None

    def trusts(self, target: Target) -> bool:
        """Whether users may be answered by it: proven here as a candidate, or served before."""
        return target.digest in self.proven or target in (self.committed, self.previous)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The last golden replay on the real model since this agent started."""

    version: str
    passed: bool
    reason_code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What server and disk say. `states` are the real model's versions, `installed` the versions
    whose files and recorded manifest are on disk (number to digest), `recorded` every version this
    agent put there, complete or not, `keep_versions` how many of them may stay, `damaged` what a
    scrub found wrong with them, `unmended` those without a sound copy beside, `leftovers`
    unfinished downloads, `lease` the one under which a step may begin now or has begun."""

    triton_live: bool
    triton_reason: str = ""
    states: Mapping[str, str]
    candidate_states: Mapping[str, str]
    candidate_on_disk: bool
    installed: Mapping[str, str]
    recorded: frozenset[str]
    keep_versions: int = 2
    damaged: Mapping[str, str] = field(default_factory=dict)
    unmended: frozenset[str] = frozenset()
    leftovers: frozenset[str] = frozenset()
    verdict: Verdict | None = None
    lease: Lease | None = None

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(v for v, state in self.states.items() if state == READY)

    @property
    def serving(self) -> str | None:
        """What an unversioned request is answered by: the highest READY version."""
        return max(self.ready, key=int, default=None)

    def holds(self, target: Target) -> bool:
        return self.installed.get(target.version) == target.digest
