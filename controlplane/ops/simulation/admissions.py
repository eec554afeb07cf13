"""The centre's leave to begin, in memory: freezes, the budget, redundancy groups and leases.

Follows `rollouts/leases.py` line by line; `domain/admission.py` says yes or no."""

from collections.abc import Sequence

from controlplane.domain.admission import Granted, Instant, LeaseFacts, Refused, admit
from controlplane.domain.gates import held_against
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, STAGE_FAILURES, STARTED_STAGE
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.soaking import what_holds_later
from controlplane.domain.views import StageView
from controlplane.domain.windows import Window
from controlplane.domain.windows import is_open as is_open_window
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.book import Book, has_begun, in_transition
from controlplane.ops.simulation.clock import moment
from controlplane.ops.simulation.rows import Deployment, Leave, Question, Rollout, SiteModel, Stage
from controlplane.ops.simulation.versions import Version

BUDGET_SECONDS = 3600.0


class Admissions(Book):
    """`fresh_seconds`: how old a report may be and still count. A freeze holds the sites in it, all
    of them if it is None; `groups` are the other sites of each one's redundancy group;
    `windows` in which a site may activate, always if it has none; `pins` hold a model at a site."""

    def __init__(self, *, sites: int, fresh_seconds: float, retry_seconds: float) -> None:
        super().__init__(sites=sites)
        self.fresh_seconds = fresh_seconds
        self.retry_seconds = retry_seconds
        self.freezes: dict[int, frozenset[int] | None] = {}
        self.quarantined: set[Version] = set()
        self.retired: set[int] = set()
        self.joined_at: dict[int, float] = {}
        self.groups: dict[int, tuple[int, ...]] = {}
        self.windows: dict[int, tuple[Window, ...]] = {}
        self.pins: set[tuple[int, str]] = set()
        self.changing_percent: int | None = None
        self.changed_at: dict[int, float] = {}

    def in_service(self) -> int:
        return len(self.rows) - len(self.retired)

    def is_frozen(self, site: int) -> bool:
        if not self.freezes:
            return False
        return any(sites is None or site in sites for sites in self.freezes.values())

    def is_held(self, site: int, model: str) -> bool:
        """Not to be offered the model now."""
        return (site, model) in self.pins or self.is_frozen(site)

    def is_closed(self, site: int, now: float) -> bool:
        windows = self.windows.get(site)
        return windows is not None and not is_open_window(windows, moment(now))

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
        self.settle((site, question.model), row.generation)
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
        self.note_change(deployment.site, now)
        self._hold_slot(deployment, True)

    def note_change(self, site: int, now: float) -> None:
        """`changed_at` has the oldest first."""
        self.changed_at.pop(site, None)
        self.changed_at[site] = now

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
            gate_fails=gate_that_fails(rollout),
            earlier_unwell="" if hopeless else self.earlier_unwell(rollout, stage, now),
            frozen="frozen" if self.is_frozen(site) else "",
            closed=False if hopeless else self.is_closed(site, now),
            changing=0 if hopeless else self.changing(site, now),
            changing_limit=self.changing_limit(),
            peer_unavailable="" if hopeless else self.unavailable_peer(site, now),
            busy_with=self.busy_with(deployment),
            untried=not deployment.failed_before and not has_begun(deployment),
            unproven=sum(stage.forward[state] for state in STAGE_FAILURES) + stage.retrying,
            failures_tolerated=max(limits.failures_tolerated, stage.accepted_failures),
            retries_blocked=stage.retrying > 0 and self.retries_blocked(stage),
        )

    def retries_blocked(self, stage: Stage) -> bool:
        """None of them is under way, nor can be offered, since others take every place."""
        active = [d for d in stage.deployments if d.state in ACTIVE_DEPLOYMENT]
        return len(active) >= stage.limits.max_concurrent and not any(
            d.failed_before for d in active
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
        away = self._away(asking.rollout, stage, now)
        return min(limit, count + sum(other is not asking for other in away))

    def _away(self, rollout: Rollout, stage: Stage, now: float) -> Sequence[Deployment]:
        """Who is unavailable and holds no slot. The whole stage is looked at only when somebody can
        have come to be: every site asks, some many times."""
        model, rows = rollout.version.model, self.rows
        returning = {
            back.site for back in rollout.rollback if back.stage is stage and is_open(back)
        }
        odd = returning | {site for site, of in self.at_large if of == model}
        oldest = now - self.fresh_seconds

        def is_away(other: Deployment) -> bool:
            site = other.site
            if in_transition(other) or site in self.retired:
                return False
            if site in odd:
                return True
            row = rows[site].get(model)
            is_in = other.state not in (D.DEFERRED, D.REJECTED)
            return row is not None and is_in and self.is_unwell(row, now)

        mark = (stage.changes, self.worse[model])
        if stage.looked_at == mark and now <= stage.all_heard_until:
            return [other for other in stage.away if is_away(other)]
        stage.away, earliest = [], now
        for other in stage.deployments:
            row = rows[other.site].get(model)
            if row is None or not is_well(row, oldest):
                if is_away(other):
                    stage.away.append(other)
                continue
            earliest = min(earliest, row.reported_at or 0.0)
            if other.site in odd and is_away(other):
                stage.away.append(other)
        stage.looked_at, stage.all_heard_until = mark, earliest + self.fresh_seconds
        return stage.away

    def is_unwell(self, row: SiteModel, now: float) -> bool:
        """What should be served is not served well, as far as anybody knows. Where a first version
        has not come to be used yet, nothing can be missing."""
        if row.desired is None:
            return False
        if is_well(row, now - self.fresh_seconds):
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
        changed, oldest = self.changed_at, now - BUDGET_SECONDS
        while changed and next(iter(changed.values())) <= oldest:
            del changed[next(iter(changed))]
        return len(changed) - (site in changed)

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

    def earlier_unwell(self, rollout: Rollout, stage: Stage, now: float) -> str:
        for each in rollout.stages[: stage.index]:
            if each.state is not S.PASSED:
                continue
            stale, unhealthy = self.ailing(rollout, each, now)
            if not stale and not unhealthy:
                continue
            view = StageView(
                index=each.index,
                name=each.name,
                state=each.state,
                soak_seconds=each.soak_seconds,
                soaked_seconds=each.soaked_seconds,
                soak_counted_until=None,
                forward=each.forward,
                rollback={},
                stale_count=stale,
                unhealthy_count=unhealthy,
                policy=each.policy,
                accepted_at=None if each.accepted_at is None else moment(each.accepted_at),
                accepted_failures=each.accepted_failures,
            )
            if holds := what_holds_later(view):
                return f"in stage {each.name}, {holds}"
        return ""

    def ailing(self, rollout: Rollout, stage: Stage, now: float) -> tuple[int, int]:
        """Of the sites that succeeded: without a fresh report, and reporting that they are not
        well."""
        number, limit = rollout.version.number, now - self.fresh_seconds
        stale = unhealthy = 0
        for row in self._served(rollout, stage):
            if row.reported_at is None or row.reported_at < limit:
                stale += 1
            elif row.serving != number or row.healthy is not True:
                unhealthy += 1
        return stale, unhealthy

    def _served(self, rollout: Rollout, stage: Stage) -> tuple[SiteModel, ...]:
        """What is known of the sites that succeeded and are still there."""
        now = (stage.changes, len(self.retired))
        if stage.served[:2] != now:
            model, rows, retired = rollout.version.model, self.rows, self.retired
            served = tuple(
                rows[d.site][model]
                for d in stage.deployments
                if d.state is D.SUCCEEDED and d.site not in retired
            )
            stage.served = (*now, served)
        return stage.served[2]

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


def gate_that_fails(rollout: Rollout) -> str:
    """Of a stage that has begun, and not accepted."""
    for stage in rollout.stages:
        if stage.gates and stage.state in STARTED_STAGE:
            accepted = None if stage.accepted_at is None else moment(stage.accepted_at)
            for result in stage.gates.values():
                if against := held_against(result, accepted):
                    return against
    return ""


def is_well(row: SiteModel, oldest: float) -> bool:
    """By a report that is not older."""
    return row.healthy is True and row.reported_at is not None and row.reported_at >= oldest


def is_open(deployment: Deployment) -> bool:
    return deployment.state in ACTIVE_DEPLOYMENT
