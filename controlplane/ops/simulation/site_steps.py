"""What the simulated centre does with single sites of a rollout.

Follows `rollouts/site_effects.py`, `waits.py` and `late_joiners.py` line by line where those change
rows; decides nothing."""

from collections.abc import Iterable, Sequence

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    NOTHING_SOUND,
    OPEN_STAGE,
    STAGE_FAILURES,
    STARTED_STAGE,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation.admissions import Admissions, is_open
from controlplane.ops.simulation.book import has_begun
from controlplane.ops.simulation.rows import Deployment, Rollout, Stage
from controlplane.ops.simulation.versions import Version

TRAILING_DEADLINE_SECONDS = 1800.0
_REACHED = ACTIVE_DEPLOYMENT | STAGE_FAILURES | {D.SUCCEEDED}


class SiteSteps(Admissions):
    """Each changes deployments and wishes together."""

    def offerable(
        self, stage: Stage, now: float, *, retries_only: bool = False
    ) -> list[Deployment]:
        """In the order of the plan: first tries before second ones."""
        rows = [d for d in stage.deployments if d.state is D.PENDING and is_rested(d, now)]
        if self.freezes or self.pins:
            rows = [d for d in rows if not self.is_held(d.site, d.rollout.version.model)]
        if retries_only:
            rows = [d for d in rows if d.failed_before]
        return sorted(rows, key=lambda d: (d.attempt, d.number))

    def offer(
        self,
        rollout: Rollout,
        stage: Stage,
        count: int,
        now: float,
        *,
        retries_only: bool = False,
    ) -> None:
        offered = self.offerable(stage, now, retries_only=retries_only)[:count]
        changes = self.change_wishes(
            rollout,
            [(d.site, rollout.version) for d in offered],
            keep_previous=True,
            offers={d.site: d for d in offered},
        )
        for deployment in offered:
            before, deployment.generation = changes[deployment.site]
            if deployment.attempt == 1:
                deployment.from_version = before
            deployment.offered_at = now
            self._move(deployment, D.OFFERED)

    def end(self, rows: Iterable[Deployment], state: D) -> None:
        for deployment in rows:
            begun = deployment.is_rollback or has_begun(deployment)
            if begun and is_open(deployment):
                assert deployment.generation is not None  # it was offered
                model = deployment.rollout.version.model
                self.at_large[deployment.site, model] = deployment.generation
                self.worse[model] += 1
            self._hold_slot(deployment, False)
            self._move(deployment, state)
            self.notes.append(n.Ended(deployment))

    def way_back(self, deployment: Deployment) -> Version | None:
        """What a site returns to."""
        return deployment.from_version

    def can_return(self, deployment: Deployment) -> bool:
        """Whether what was recorded for the site may still be wished of it."""
        return self.way_back(deployment) not in self.quarantined

    def call_back(self, rollout: Rollout, rows: Iterable[Deployment]) -> None:
        """Returns sites to the version they had, where this rollout's wish still stands."""
        model, version = rollout.version.model, rollout.version
        wishes = [
            (d.site, self.way_back(d))
            for d in rows
            if model in self.rows[d.site]
            and self.rows[d.site][model].desired is version
            and self.can_return(d)
        ]
        self.change_wishes(rollout, wishes, keep_previous=False)

    def next_attempt(
        self,
        rows: Sequence[Deployment],
        state: D,
        *,
        stage: Stage | None = None,
        not_before: float | None = None,
    ) -> None:
        for old in rows:
            self._leave(old)
            self._enter(
                Deployment(
                    rollout=old.rollout,
                    stage=stage or old.stage,
                    site=old.site,
                    is_rollback=False,
                    from_version=old.from_version,
                    to_version=old.to_version,
                    state=state,
                    attempt=old.attempt + 1,
                    failed_before=old.failed_before or old.state in STAGE_FAILURES,
                    not_before=not_before,
                )
            )

    def try_again(
        self, rollout: Rollout, now: float, *, stage_index: int | None, forced: bool
    ) -> bool:
        """Another attempt for those that failed; whether there were any."""
        found = False
        for stage in rollout.stages:
            if stage_index not in (None, stage.index):
                continue
            if stage.state not in (*OPEN_STAGE, S.PASSED):
                continue
            chosen = [
                d
                for d in stage.deployments
                if (forced and d.state in STAGE_FAILURES) or is_retryable(d)
            ]
            found = found or bool(chosen)
            self.call_back(rollout, chosen)
            rest = None if forced else now + stage.policy.retry_after_seconds
            self.next_attempt(chosen, D.PENDING, not_before=rest)
        return found

    def overdue(self, stage: Stage, now: float) -> list[Deployment]:
        """Offered, with no end and no sign of life, for longer than the deadline."""
        seconds = stage.policy.progress_deadline_seconds
        if seconds is None and stage.trailing:
            seconds = TRAILING_DEADLINE_SECONDS
        if seconds is None or stage.state not in STARTED_STAGE:
            return []
        heard_since = now - self.fresh_seconds
        return [
            d
            for d in stage.deployments
            if d.state in ACTIVE_DEPLOYMENT
            and d.offered_at is not None
            and max(d.offered_at, self.last_seen[d.site]) < now - seconds
            and not self.heard_of(d.site, heard_since)
        ]

    def heard_of(self, site: int, since: float) -> bool:
        """Whether its agent, which must not have been sent away, has called since."""
        return site not in self.retired and self.last_seen[site] >= since

    def end_overdue(self, rollout: Rollout, stage: Stage, defer: bool, now: float) -> None:
        rows = self.overdue(stage, now)
        begun = [d for d in rows if has_begun(d) or d.failed_before]
        idle = [d for d in rows if d not in begun]
        self.call_back(rollout, rows)
        self.end(begun, D.TIMED_OUT)
        self.end(idle, D.DEFERRED if defer else D.TIMED_OUT)
        later = rollout.stages[stage.index + 1 :]
        trailing = [s for s in later if s.trailing and s.state in OPEN_STAGE]
        if defer and trailing:
            self.next_attempt(idle, D.PENDING, stage=trailing[0])

    def remove_retired(self, rollout: Rollout, stage: Stage) -> None:
        there = [d for d in stage.deployments if self.is_left_behind(d)]
        back = [d for d in rollout.rollback if d.stage is stage and self.is_left_behind(d)]
        self.call_back(rollout, [d for d in there if d.state in ACTIVE_DEPLOYMENT])
        self.end(there + back, D.REMOVED)

    def is_left_behind(self, deployment: Deployment) -> bool:
        is_open = deployment.state is D.PENDING or deployment.state in ACTIVE_DEPLOYMENT
        return is_open and deployment.site in self.retired

    def reached(self, rollout: Rollout) -> list[Deployment]:
        """But for those that were sent back by themselves already."""
        away = {d.site for d in rollout.rollback}
        return [d for d in latest(rollout) if d.state in _REACHED and d.site not in away]

    def return_sites(self, rollout: Rollout, leaving: Sequence[Deployment], now: float) -> None:
        ways_back = [(d.site, self.way_back(d)) for d in leaving if self.can_return(d)]
        changes = self.change_wishes(rollout, ways_back, keep_previous=False)
        self.end_forward(leaving)
        for old in leaving:
            change = changes.get(old.site)
            back = Deployment(
                rollout=rollout,
                stage=old.stage,
                site=old.site,
                is_rollback=True,
                to_version=self.way_back(old),
                from_version=old.to_version,
                generation=change and change[1],
                offered_at=now if change else None,
                reason_code="" if change else NOTHING_SOUND,
            )
            self._enter(back)
            if change is not None:
                self.note_change(old.site, now)
            self._move(back, D.OFFERED if change else D.ROLLBACK_FAILED)

    def end_forward(self, leaving: Sequence[Deployment]) -> None:
        self.end([d for d in leaving if d.state in ACTIVE_DEPLOYMENT], D.CANCELLED)

    def cancel_open(self, rollout: Rollout) -> None:
        """Calls back who has not begun to switch, and ends what was never offered."""
        rows = [d for d in latest(rollout) if d.state in BEFORE_SWITCH]
        self.call_back(rollout, rows)
        self.end(rows + [d for d in latest(rollout) if d.state is D.PENDING], D.CANCELLED)

    def add_late_joiners(self, rollout: Rollout) -> None:
        """Fills the trailing stage when it is the next to run or runs."""
        if rollout.state is not R.RUNNING or not rollout.welcomes or not self.joined_at:
            return
        last = rollout.stages[-1]
        if not last.trailing or last.state not in (S.PENDING, S.RUNNING):
            return
        if any(stage.state not in (S.PASSED, S.SKIPPED) for stage in rollout.stages[:-1]):
            return
        known = {d.site for d in rollout.forward}
        for site, at in sorted(self.joined_at.items()):
            if at > rollout.created_at and site not in known and site not in self.retired:
                self._enter(
                    Deployment(
                        rollout=rollout,
                        stage=last,
                        site=site,
                        is_rollback=False,
                        to_version=rollout.version,
                    )
                )


def latest(rollout: Rollout) -> list[Deployment]:
    """The attempts forward that count."""
    return [d for d in rollout.forward if not d.superseded]


def is_rested(deployment: Deployment, now: float) -> bool:
    return deployment.not_before is None or deployment.not_before <= now


def is_retryable(deployment: Deployment) -> bool:
    """Failed with attempts left; who timed out is not tried again."""
    if deployment.state is not D.FAILED:
        return False
    return deployment.attempt <= deployment.stage.policy.retries
