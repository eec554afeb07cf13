"""The centre's leave to begin, in memory: freezes, the budget, redundancy groups and leases.

Follows `rollouts/leases.py` line by line; `domain/admission.py` says yes or no."""

from controlplane.domain.admission import Granted, Instant, LeaseFacts, Refused, admit
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, STARTED_STAGE
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.book import Book, in_transition
from controlplane.ops.simulation.rows import Deployment, Leave, Question, SiteModel, Stage
from controlplane.ops.simulation.versions import Version

BUDGET_SECONDS = 3600.0


class Admissions(Book):
    """`fresh_seconds`: how old a report may be and still count. A freeze holds the sites in it, all
    of them if it is None; `groups` are the other sites of each one's redundancy group."""

    def __init__(self, *, sites: int, fresh_seconds: float, retry_seconds: float) -> None:
        super().__init__(sites=sites)
        self.fresh_seconds = fresh_seconds
        self.retry_seconds = retry_seconds
        self.freezes: dict[int, frozenset[int] | None] = {}
        self.quarantined: set[Version] = set()
        self.retired: set[int] = set()
        self.joined_at: dict[int, float] = {}
        self.groups: dict[int, tuple[int, ...]] = {}
        self.changing_percent: int | None = None
        self.changed_at: dict[int, float] = {}

    def in_service(self) -> int:
        return len(self.rows) - len(self.retired)

    def is_frozen(self, site: int) -> bool:
        if not self.freezes:
            return False
        return any(sites is None or site in sites for sites in self.freezes.values())

    def request_lease(self, question: Question, now: float) -> Leave | None:
        """None: that wish is not the present one."""
        site = question.site
        row = self.rows[site].get(question.model)
        if row is None or row.offer is None or row.generation != question.generation:
            return None
        deployment = row.offer
        if deployment.superseded:
            return None
        version = deployment.rollout.version
        if deployment.state not in ACTIVE_DEPLOYMENT:
            if deployment.state is not D.SUCCEEDED:
                return Leave(lease=None, code="failed-here", retry_seconds=self.retry_seconds)
            if version in self.quarantined or self.is_frozen(site):
                return Leave(lease=None, code="held", retry_seconds=self.retry_seconds)
            return Leave(lease=deployment.lease + 1)
        self.at_large.discard((site, question.model))
        facts = self.facts(deployment, now)
        answer = self.admit(facts)
        if isinstance(answer, Refused):
            return Leave(lease=None, code=answer.code, retry_seconds=self.retry_seconds)
        if not self.is_overtaken(deployment, question.asked):
            self.grant(deployment, question.asked, now)
            self.notes.append(n.Granted(deployment, facts.max_unavailable))
        return Leave(lease=deployment.lease)

    def is_overtaken(self, deployment: Deployment, asked: Instant) -> bool:
        """A copy of the question that the lease answers, or an older one that came late."""
        known = deployment.asked
        if not deployment.holds_lease or known is None or known.boot != asked.boot:
            return False
        return asked.uptime <= known.uptime

    def admit(self, facts: LeaseFacts) -> Granted | Refused:
        return admit(facts)

    def grant(self, deployment: Deployment, asked: Instant, now: float) -> None:
        deployment.lease += 1
        deployment.leased_at, deployment.asked = now, asked
        self.changed_at[deployment.site] = now
        self._hold_slot(deployment, True)

    def facts(self, deployment: Deployment, now: float) -> LeaseFacts:
        rollout, stage, site = deployment.rollout, deployment.stage, deployment.site
        limits, hopeless = stage.limits, self.is_hopeless(deployment)
        return LeaseFacts(
            rollout_state=rollout.state,
            cause=rollout.cause,
            stage=stage.name,
            stage_state=stage.state,
            stage_sites=limits.sites,
            unavailable=0
            if hopeless
            else self.unavailable(deployment, stage, limits.max_unavailable, now),
            max_unavailable=limits.max_unavailable,
            withdrawn="quarantined" if rollout.version in self.quarantined else "",
            frozen="frozen" if self.is_frozen(site) else "",
            changing=0 if hopeless else self.changing(site, now),
            changing_limit=self.changing_limit(),
            peer_unavailable="" if hopeless else self.unavailable_peer(site, now),
            busy_with=self.busy_with(deployment),
        )

    def is_hopeless(self, deployment: Deployment) -> bool:
        """Refused whatever else is so; what is costly to count is not counted then."""
        if deployment.rollout.state is not R.RUNNING:
            return True
        return deployment.stage.state not in STARTED_STAGE or self.is_frozen(deployment.site)

    def unavailable(self, asking: Deployment, stage: Stage, limit: int, now: float) -> int:
        """Counted no further than to the limit, beyond which every number says the same."""
        count = stage.moving - in_transition(asking)
        if count >= limit:
            return count
        model, retired = asking.rollout.version.model, self.retired
        returning = {
            back.site for back in asking.rollout.rollback if back.stage is stage and is_open(back)
        }
        for other in stage.deployments:
            if other is asking or in_transition(other) or other.site in retired:
                continue
            if (other.site, model) in self.at_large:
                count += 1
                continue
            row = self.rows[other.site].get(model)
            is_in = other.state not in (D.DEFERRED, D.REJECTED)
            if other.site in returning or (row is not None and is_in and self.is_unwell(row, now)):
                count += 1
                if count == limit:
                    break
        return count

    def is_unwell(self, row: SiteModel, now: float) -> bool:
        """What should be served is not served well, as far as anybody knows. Where a first version
        has not come to be used yet, nothing can be missing."""
        if row.desired is None:
            return False
        fresh = row.reported_at is not None and row.reported_at >= now - self.fresh_seconds
        if fresh and row.healthy is True:
            return False
        offer = row.offer
        is_first = (
            offer is not None
            and not offer.superseded
            and offer.from_version is None
            and offer.state is not D.SUCCEEDED
        )
        return not (is_first and row.serving is None and row.healthy is None)

    def changing(self, site: int, now: float) -> int:
        if self.changing_percent is None:
            return 0
        oldest = now - BUDGET_SECONDS
        return sum(at > oldest for other, at in self.changed_at.items() if other != site)

    def changing_limit(self) -> int | None:
        if self.changing_percent is None:
            return None
        return max(1, self.in_service() * self.changing_percent // 100)

    def unavailable_peer(self, site: int, now: float) -> str:
        for peer in self.groups.get(site, ()):
            if peer in self.retired:
                continue
            if any(in_transition(d) for d in self._active_at(peer)) or any(
                site == peer for site, _ in self.at_large
            ):
                return f"site {peer}"
            if any(self.is_unwell(row, now) for row in self.rows[peer].values()):
                return f"site {peer}"
        return ""

    def busy_with(self, asking: Deployment) -> str:
        for site, model in self.at_large:
            if site == asking.site and model != asking.rollout.version.model:
                return model
        for other in self._active_at(asking.site):
            if other is not asking and in_transition(other):
                return other.rollout.version.model
        return ""

    def _active_at(self, site: int) -> list[Deployment]:
        return [d for model in self.rows[site] for d in self.active.get((site, model), ())]


def is_open(deployment: Deployment) -> bool:
    return deployment.state in ACTIVE_DEPLOYMENT
