"""What is wished of a model, what is on record and what was seen: all that a decision stands on.

Pure values; decides nothing. Knows no clock, disk or server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waypost_agent.probation import Counts, Probation

READY = "READY"
LOADING = "LOADING"
UNLOADING = "UNLOADING"

# How a version takes over: beside the one before it, in its place, or whichever memory allows.
SURGE = "surge"
REPLACE = "replace"
AUTO = "auto"


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
    switch: str = SURGE
    probation: Probation = Probation()  # noqa: RUF009  # frozen values
    corrects_drift: bool = True  # the site's rule: what was done by hand is undone

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
class Room:
    """What served was, or is about to be, unloaded for `target`: the `count`th time for this wish.

    `since` is when (CLOCK_BOOTTIME of the boot `boot_id`), None once something answers again;
    `away_seconds` how long nothing answered before that, None when nobody can tell any more.
    """

    epoch: int
    generation: int
    target: Target
    count: int
    boot_id: str
    since: float | None
    away_seconds: float | None = 0.0

    def is_over(self, committed: Target | None) -> bool:
        """Whether its version serves for good: what is left says that two did not fit together."""
        return self.since is None and self.target == committed


@dataclass(frozen=True, kw_only=True)
class Trial:
    """`target` answers users on probation since `since` (CLOCK_BOOTTIME of the boot `boot_id`);
    `before` is what the server had counted by then, None when nobody could read it."""

    epoch: int
    generation: int
    target: Target
    boot_id: str
    since: float
    before: Counts | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What cannot be observed: the journal of one model."""

    committed: Target | None = None
    previous: Target | None = None
    proven: frozenset[str] = frozenset()
    failed: Failure | None = None
    attempts: Attempts | None = None
    room: Room | None = None
    trial: Trial | None = None
    config_sha256: str | None = None  # of config.pbtxt in the repository, as this agent wrote it

    def trusts(self, target: Target) -> bool:
        """Whether users may be answered by it: proven here as a candidate, or served before."""
        return target.digest in self.proven or self.has_served(target)

    def has_served(self, target: Target) -> bool:
        """Whether it answered users here, verified, last or before that."""
        return target in (self.committed, self.previous)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The last golden replay on the real model since this agent started."""

    version: str
    passed: bool
    reason_code: str
    reason: str
    note: str = ""  # what an operator should know besides: how long nothing answered


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether this machine and its server can bear the wished version, as far as anybody can tell.

    `reason_code` and `reason` say why not; `is_rule` that it is this site's own rule, which holds
    for what was proven too; `beside` whether it finds its memory while the serving version keeps
    its own, None when that is unknown; `note` is said of a version that serves all the same."""

    reason_code: str = ""
    reason: str = ""
    is_rule: bool = False
    beside: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a probation goes: `breach` says which bound is broken, `is_over` that its time is up,
    `begins_anew` that its requests could not be counted when it began and can be now."""

    sentence: str
    breach: str = ""
    is_over: bool = False
    begins_anew: bool = False


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What server and disk say. `states` are the real model's versions, `unloaded` those of them
    that somebody unloaded (a server that was started anew knows of none). `installed` are the
    versions whose files and recorded manifest are on disk (number to digest), `recorded` every
    version this agent put there, complete or not, `keep_versions` how many of them may stay,
    `damaged` what a scrub found wrong with them, `unmended` those without a sound copy beside,
    `leftovers` unfinished downloads, `config_sha256` that of config.pbtxt. `lease` is the one under
    which a step may begin now or has begun, `watch` how the probation on record goes, None when
    there is none for this wish."""

    triton_live: bool
    triton_reason: str = ""
    states: Mapping[str, str]
    candidate_states: Mapping[str, str]
    candidate_on_disk: bool
    installed: Mapping[str, str]
    recorded: frozenset[str]
    unloaded: frozenset[str] = frozenset()
    config_sha256: str | None = None
    keep_versions: int = 2
    damaged: Mapping[str, str] = field(default_factory=dict)
    unmended: frozenset[str] = frozenset()
    leftovers: frozenset[str] = frozenset()
    verdict: Verdict | None = None
    lease: Lease | None = None
    fit: Fit = Fit()
    watch: Watch | None = None

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(v for v, state in self.states.items() if state == READY)

    @property
    def serving(self) -> str | None:
        """What an unversioned request is answered by: the highest READY version."""
        return max(self.ready, key=int, default=None)

    def holds(self, target: Target) -> bool:
        return self.installed.get(target.version) == target.digest
