"""Who may be down because of us, by the truth at the sites: leases, switches, freezes and groups.

Counts what agents hold and do, apart from what the centre believes. Changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from waypost_agent import situation as sit

from controlplane.domain.admission import BEGIN_WITHIN_SECONDS
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, OUT_OF_STAGE, STAGE_FAILURES
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.invariants import Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Deployment, Rollout, Stage
from controlplane.ops.simulation.truth import Truth
from controlplane.ops.simulation.versions import Version

_HOUR = 3600.0
_Key = tuple[int, str]


@dataclass(kw_only=True)
class _Lease:
    """One that an agent holds: `until` it may begin, unless it has."""

    deployment: Deployment
    until: float
    begun: bool = False


class Slots(Truth):
    """Is told what agents do with their leases, and what people froze."""

    def __init__(self, *, options: Options, clock: Clock) -> None:
        super().__init__(options=options, clock=clock)
        self.leases: dict[_Key, _Lease] = {}
        self.groups: Mapping[int, tuple[int, ...]] = {}
        self.changing_percent: int | None = None
        self._offers: dict[tuple[int, str, int], Deployment] = {}
        self._limits: dict[Deployment, int] = {}
        self._leased: dict[Stage, set[_Key]] = defaultdict(set)
        self._down: dict[str, dict[int, Deployment]] = defaultdict(dict)
        self._stopped: dict[int, float] = {}
        self._frozen: dict[int, tuple[frozenset[int] | None, float]] = {}
        self._withdrawn: dict[Version, float] = {}
        self.ever_withdrawn: set[Version] = set()
        self._retired: set[int] = set()
        self._granted_at: dict[int, float] = {}

    # What people did

    def froze(self, number: int, sites: frozenset[int] | None) -> None:
        self._frozen[number] = (sites, self._clock.now)

    def lifted(self, number: int) -> None:
        del self._frozen[number]

    def withdrew(self, version: Version, *, withdrawn: bool) -> None:
        if withdrawn:
            self._withdrawn[version] = self._clock.now
            self.ever_withdrawn.add(version)
        else:
            self._withdrawn.pop(version, None)

    def retired(self, site: int) -> None:
        """Nobody counts it any more."""
        self._retired.add(site)
        for key in [key for key in self.leases if key[0] == site]:
            self.lease_is_over(*key)
        for down in self._down.values():
            down.pop(site, None)

    # What the centre committed

    def offered(self, note: n.WishChanged) -> None:
        site, model, offer = note.site, note.rollout.version.model, note.offer
        assert offer is not None  # it is one
        self._offers[site, model, note.generation] = offer
        self._check(Invariant.FROZEN, not self._frozen_since(site), "site {} is offered", site)
        self._check(Invariant.GONE, site not in self._retired, "site {} is offered", site)
        usable = note.rollout.version not in self._withdrawn
        self._check(Invariant.WITHDRAWN, usable, "{} offered to site {}", note.rollout, site)
        rested = offer.not_before is None or self._clock.now >= offer.not_before
        self._check(Invariant.CAP, rested, "{}: site {} rests", note.rollout, site)
        limit = offer.stage.limits.max_concurrent
        active = sum(offer.stage.forward[state] for state in ACTIVE_DEPLOYMENT)
        self._check(Invariant.CAP, active <= limit, "{} of {} active", active, limit)

    def granted(self, note: n.Granted) -> None:
        self._limits[note.deployment] = note.max_unavailable
        now, percent = self._clock.now, self.changing_percent
        self._granted_at[note.deployment.site] = now
        if percent is not None:
            limit = max(1, (self._options.sites - len(self._retired)) * percent // 100)
            recent = sum(at > now - _HOUR for at in self._granted_at.values())
            self._check(Invariant.BUDGET, recent <= limit, "{} of {} in an hour", recent, limit)

        if note.deployment.lease == 1:
            self._check_bearable(note.deployment)

    def _check_bearable(self, deployment: Deployment) -> None:
        """Of every attempt there ever was, not of what the centre counts."""
        rollout, stage = deployment.rollout, deployment.stage
        failed = {d.site for d in rollout.forward if d.state in STAGE_FAILURES}
        left = (D.SUCCEEDED, *OUT_OF_STAGE)
        unproven = [d for d in stage.deployments if d.site in failed and d.state not in left]
        active = [d for d in stage.deployments if d.state in ACTIVE_DEPLOYMENT]
        limit = max(stage.limits.failures_tolerated, stage.accepted_failures)
        again = [d for d in unproven if d.state not in STAGE_FAILURES]
        full = len(active) >= stage.limits.max_concurrent and not set(again) & set(active)
        bearable = len(unproven) <= limit or deployment.site in failed or bool(again and full)
        self._check(
            Invariant.BEARABLE,
            bearable,
            "{}, {}: {} unproven, {} borne, and site {} begins",
            rollout,
            stage.name,
            len(unproven),
            limit,
            deployment.site,
        )

    def ended(self, note: n.Ended) -> None:
        """The centre does not count on it any more; what the site has begun is still down."""
        key = (note.deployment.site, note.deployment.rollout.version.model)
        lease = self.leases.get(key)
        if lease is not None and lease.deployment is note.deployment:
            self.lease_is_over(*key)

    def moved(self, rollout: Rollout, state: R) -> None:
        if state is R.RUNNING:
            self._stopped.pop(rollout.id, None)
        else:
            self._stopped.setdefault(rollout.id, self._clock.now)

    # What agents do

    def leased(self, site: int, wish: sit.Wish, until: float) -> None:
        """The agent was told that it may begin, and believes so until then."""
        deployment = self._offers[site, wish.model, wish.generation]
        if deployment.state not in ACTIVE_DEPLOYMENT or site in self._retired:
            return  # to mend itself; or its part was over before the answer was there
        key, before = (site, wish.model), self.leases.get((site, wish.model))
        begun = before is not None and before.deployment is deployment and before.begun
        self.lease_is_over(*key)
        self.leases[key] = _Lease(deployment=deployment, until=until, begun=begun)
        self._leased[deployment.stage].add(key)
        self._check_leases(deployment)

    def begins(self, site: int, wish: sit.Wish) -> None:
        """It touches its server with what is wished."""
        deployment = self._offers[site, wish.model, wish.generation]
        rollout, now = deployment.rollout, self._clock.now
        if site in self._retired:
            return  # nobody counts it
        latest = now - BEGIN_WITHIN_SECONDS
        since = self._frozen_since(site)
        self._check(Invariant.FROZEN, since is None or since >= latest, "site {} begins", site)
        since = self._withdrawn.get(rollout.version, now)
        self._check(Invariant.WITHDRAWN, since >= latest, "{} begins at site {}", rollout, site)
        if deployment.state in (D.SUCCEEDED, D.FAILED):
            return  # it mends itself
        is_its_turn = deployment.stage.state is not S.PENDING
        self._check(Invariant.STAGES, is_its_turn, "{} begins at site {}", rollout, site)
        since = self._stopped.get(rollout.id, now)
        self._check(Invariant.HELD, since >= latest, "{} begins at site {}", rollout, site)
        lease = self.leases.get((site, wish.model))
        if lease is None:
            return  # ended meanwhile: what was granted may still begin
        lease.begun = True
        self._check_leases(deployment)
        for peer in self.groups.get(site, ()):
            for (other, model), held in self.leases.items():
                both = other == peer and held.begun
                self._check(Invariant.GROUP, not both, "sites {} and {}: {}", site, peer, model)

    def lease_is_over(self, site: int, model: str) -> None:
        lease = self.leases.pop((site, model), None)
        if lease is not None:
            self._leased[lease.deployment.stage].discard((site, model))

    def forgot(self, site: int) -> None:
        """The agent died: what it had not begun it cannot begin any more."""
        for key in [key for key, lease in self.leases.items() if key[0] == site]:
            if not self.leases[key].begun:
                self.lease_is_over(*key)

    def switches(self, site: int, wish: sit.Wish) -> None:
        """From now on until it is verified, or something verified is back, its users are not served
        as they should be. Who never served cannot be missing."""
        deployment = self._offers.get((site, wish.model, wish.generation))
        if deployment is None or (site, wish.model) not in self._last_good:
            return
        if site in self._retired or deployment.state is D.SUCCEEDED:
            return
        down = self._down[wish.model]
        down[site] = deployment
        here = [d.site for d in deployment.stage.deployments if d.site in down]
        limit = max(self._limits.get(down[other], 0) for other in {site, *here})
        self._check(
            Invariant.UNAVAILABLE,
            len(here) <= limit,
            "{}, {}: sites {} are down, {} may be",
            deployment.rollout,
            deployment.stage.name,
            here,
            limit,
        )

    def is_up(self, site: int, model: str) -> None:
        """It serves something verified, or what is wished: nothing."""
        self._down[model].pop(site, None)

    def _check_leases(self, deployment: Deployment) -> None:
        now = self._clock.now
        out = [
            self.leases[key]
            for key in self._leased[deployment.stage]
            if self.leases[key].begun or self.leases[key].until > now
        ]
        limit = max((self._limits[lease.deployment] for lease in out), default=0)
        self._check(
            Invariant.LEASES,
            len(out) <= limit,
            "{}, {}: {} leases at sites {}, {} may be",
            deployment.rollout,
            deployment.stage.name,
            len(out),
            sorted(lease.deployment.site for lease in out),
            limit,
        )

    def _frozen_since(self, site: int) -> float | None:
        moments = [at for sites, at in self._frozen.values() if sites is None or site in sites]
        return min(moments, default=None)
