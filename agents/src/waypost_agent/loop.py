"""The reconcile loop: look, decide, do one step, say so; again from the start.

Decides which model's step comes first and how long a failed step rests. What a step is, `decide`
says; how it is done, `act`. Owns no thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from waypost_agent import decide as d
from waypost_agent import protocol as p
from waypost_agent import situation as sit
from waypost_agent.act import Actor
from waypost_agent.board import Seat, TritonStatus
from waypost_agent.bundles import Bundles
from waypost_agent.errors import (
    LEASE_LAPSED,
    STOPPING,
    WORKING,
    LeaseRefused,
    Paused,
    Retryable,
    WindowClosed,
)
from waypost_agent.fitting import Fitting
from waypost_agent.journal import Held
from waypost_agent.leases import Leases
from waypost_agent.manifest import Manifest
from waypost_agent.observe import ServerView, observe_model, observe_server
from waypost_agent.parts import Parts
from waypost_agent.phases import Plan, report_of
from waypost_agent.ports import Checkpoint
from waypost_agent.preflight import Learned
from waypost_agent.protocol import ModelReport, ModelWish
from waypost_agent.rests import Rests, step_of
from waypost_agent.rollback import RollbackDesk
from waypost_agent.trial import Watcher
from waypost_agent.wanted import changed_since, to_wish, wishes_of

_log = logging.getLogger(__name__)

# What keeps users answered comes before what prepares the next version.
_URGENCY: dict[type[d.Action], int] = {
    d.Switch: 0,
    d.Verify: 0,
    d.GiveUp: 0,
    d.Unload: 1,
    d.MakeRoom: 1,
    d.UnloadCandidate: 1,
    d.Retire: 1,
    d.Prove: 2,
    d.AskLease: 3,  # after every Prove: what has its lease begins before another model asks
    d.Fetch: 4,
    d.Mend: 4,
    d.Prune: 5,
}
_PREPARING = 2
_GLANCE_SECONDS = 5.0  # how often a long download looks whether something more urgent waits
_RECHECK_SECONDS = 60.0  # after this a failed replay on a serving version is tried again


class Loop:
    """`uniform(a, b)` gives a random number between; `belongs_to` names centre and site; `said`
    is called with the states of the models whenever they changed, `retried` with the model and the
    code of each step that will be tried again; `orders` are those of an operator at this site."""

    def __init__(
        self,
        parts: Parts,
        *,
        board: Seat,
        belongs_to: str,
        uniform: Callable[[float, float], float],
        checkpoint: Checkpoint = lambda name: None,
        said: Callable[[tuple[ModelReport, ...]], None] = lambda reports: None,
        retried: Callable[[str, str], None] = lambda model, code: None,
        orders: RollbackDesk | None = None,
    ) -> None:
        self._parts = parts
        self._retried = retried
        self._orders = orders
        self._board = board
        self._belongs_to = belongs_to
        self._stopping = False
        self._held: Held | None = None
        self._server: ServerView | None = None
        self._rests = Rests(parts.clock, parts.timeouts, uniform)
        self._reports: dict[str, ModelReport] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._glanced = 0.0
        self._said = said
        self._leases = Leases(parts.leases, parts.clock)
        bundles = Bundles(
            parts.store,
            parts.codec,
            allow_executable=parts.allow_executable,
            is_signed=parts.trust.is_signed,
        )
        self._fitting = Fitting(parts.machine, parts.learned, bundles, parts.trust)
        self._watcher = Watcher(
            parts.scrape, parts.clock, tell_seconds=parts.limits.progress_seconds
        )
        self._actor = Actor(
            parts,
            bundles,
            should_pause=self._should_pause,
            is_stopping=lambda: self._stopping,
            checkpoint=checkpoint,
            progress=self._show_progress,
        )

    def prepare(self) -> None:
        """Read what was kept, so that a start without the centre converges too."""
        self._parts.store.prepare()
        self._parts.journal.prepare()
        if self._orders is not None:
            self._orders.prepare()
        self._held = self._parts.journal.load_held(self._belongs_to)
        if self._held is not None:
            self._board.offer_kept(self._held.desired)

    def stop(self) -> None:
        """Ask to end at the next safe point. May be called by a signal handler: takes no lock."""
        self._stopping = True

    def run(self) -> None:
        """Reconcile until asked to stop."""
        while not self._stopping:
            rest_seconds = self._cycle_or_rest()
            deadline = self._parts.clock.monotonic() + rest_seconds
            while not self._stopping and not self._has_cause():
                left = deadline - self._parts.clock.monotonic()
                if left <= 0:
                    break
                # In slices, since a signal handler may not take the lock that would wake this.
                self._board.wait_until(self._has_news, min(left, 0.25))

    def _cycle_or_rest(self) -> float:
        try:
            return self.cycle()
        except OSError as error:
            # A look at a disk, say; a step that fails has its own, better words.
            _log.error("a look failed: %s", error)
            return self._parts.timeouts.observe_seconds

    def cycle(self) -> float:
        """One look and at most one step; returns the seconds until the next look."""
        self._adopt_news()
        if self._orders is not None and self._orders.waiting():
            self._orders.obey(self.wishes())
        plans = self.plan()
        self._show(plans)
        for plan in plans:
            if isinstance(plan.action, d.Settled | d.Mend):
                self._leases.settle(plan.entry.model)
        now = self._parts.clock.monotonic()
        todo = [plan for plan in plans if self._may_act(plan, now)]
        if not todo:
            self._actor.scrub()
            return self._seconds_to_rest(plans, now)
        self._take_turn(todo)
        return 0.0

    def plan(self) -> list[Plan]:
        """Look at everything and decide for each model. Changes nothing."""
        self._server = observe_server(self._parts.triton)
        self._forget_verdicts(self._server)
        return [
            self._plan_one(epoch, entry, spoken, self._server)
            for epoch, entry, spoken in self._wishes()
        ]

    def plan_wished(self) -> list[Plan]:
        """The same with the newest wishes, without keeping them: for a dry run."""
        offered = self._board.desired()
        if offered is not None and self._has_news():
            held = self._held
            self._held = Held(desired=offered) if held is None else held.followed_by(offered)
        return self.plan()

    def wishes(self) -> list[sit.Wish]:
        """The wishes in force, also for models that the newest answer does not name."""
        return [self._to_wish(epoch, entry) for epoch, entry, _ in self._wishes()]

    def reports(self) -> tuple[ModelReport, ...]:
        """The states of the last cycle, by model."""
        return tuple(self._reports[model] for model in sorted(self._reports))

    def _plan_one(self, epoch: int, entry: ModelWish, spoken: bool, server: ServerView) -> Plan:
        noted = self._actor.verdicts.get(entry.model)
        wish = self._to_wish(epoch, entry)
        record = self._parts.journal.load(entry.model)
        seen = observe_model(
            entry.model,
            server,
            self._parts.store,
            None if noted is None else noted[0],
            self._leases.held_for(wish),
            fit=self._fitting.look(wish, entry, record, server),
            watch=self._watcher.look(wish, record),
        )
        action = d.decide(wish, record, seen)
        learned = Learned()
        if wish.target is not None:
            learned = self._parts.learned.of(wish.target.digest)
        return Plan(
            entry=entry,
            wish=wish,
            record=record,
            seen=seen,
            action=action,
            spoken=spoken,
            learned=learned,
        )

    def _wishes(self) -> list[tuple[int, ModelWish, bool]]:
        """The wishes for the models of this server, each with whether it is spoken of now."""
        return [each for each in wishes_of(self._held) if self._board.takes(each[1].model)]

    def _to_wish(self, epoch: int, entry: ModelWish) -> sit.Wish:
        parts = self._parts
        return to_wish(epoch, entry, parts.probation, corrects_drift=parts.corrects_drift)

    def _take_turn(self, todo: list[Plan]) -> None:
        """Carry out the most urgent of these steps; among equals the model that waited longest."""
        chosen = min(todo, key=self._order)
        self._turn += 1
        self._turns[chosen.entry.model] = self._turn
        self._perform(chosen)

    def _perform(self, plan: Plan) -> None:
        action, model = plan.action, plan.entry.model
        _log.info(
            "%s %s: %s", type(action).__name__, model, action.reason,
            extra={"fields": {"model": model, "step": type(action).__name__}},
        )  # fmt: skip
        manifest: Manifest | None = plan.entry.manifest
        try:
            if isinstance(action, d.AskLease):
                self._ask_lease(action, plan)
                return
            if not self._may_begin(plan):
                return
            self._actor.perform(action, plan.wish, manifest)
        except Paused:
            return
        except Retryable as error:
            if error.code == STOPPING:
                return
            self._let_rest(action, error)
            return
        self._rests.end(step_of(action))
        if isinstance(action, d.Fetch) and model in self._reports:
            self._reports[model] = replace(self._reports[model], phase=p.STAGED)
            self._show_reports()

    def _ask_lease(self, action: d.AskLease, plan: Plan) -> None:
        self._leases.ask(plan.wish, action.target, plan.entry.deployment)
        # Should it lapse before its step begins, asking again is one more attempt, later and later.
        lapsed = Retryable(LEASE_LAPSED, "the lease ran out before its step could begin")
        self._rests.begin(action, lapsed)

    def _may_begin(self, plan: Plan) -> bool:
        """Asked at the last moment: a lease may have run out since the look."""
        if not d.needs_lease(plan.action, plan.wish, plan.record, plan.seen):
            return True
        if not self._leases.begin(plan.wish):
            return False
        self._rests.end((plan.entry.model, d.AskLease, plan.wish.target))
        return True

    def _let_rest(self, action: d.Action, error: Retryable) -> None:
        seconds = self._rests.begin(action, error)
        self._retried(action.model, error.code)
        expected = isinstance(error, LeaseRefused | WindowClosed)
        level = logging.INFO if expected else logging.WARNING
        _log.log(level, "%s: %s; again in %.1f s", action.model, error.reason, seconds)

    def _may_act(self, plan: Plan, now: float) -> bool:
        return type(plan.action) in _URGENCY and self._rests.of(plan.action, now) is None

    def _order(self, plan: Plan) -> tuple[int, int]:
        return (_URGENCY[type(plan.action)], self._turns.get(plan.entry.model, 0))

    def _seconds_to_rest(self, plans: list[Plan], now: float) -> float:
        timeouts = self._parts.timeouts
        seconds = timeouts.observe_seconds
        for plan in plans:
            if isinstance(plan.action, d.Wait):
                soon = plan.action.reason_code == WORKING
                seconds = min(seconds, timeouts.busy_poll_seconds if soon else 1.0)
            rest = self._rests.of(plan.action, now)
            if rest is not None:
                seconds = min(seconds, rest.until - now)
        return max(seconds, 0.01)

    def _should_pause(self) -> bool:
        """Asked by a download between two pieces: does anything more urgent wait?"""
        if self._stopping or self._has_cause():
            return True
        now = self._parts.clock.monotonic()
        if now - self._glanced < _GLANCE_SECONDS:
            return False
        self._glanced = now
        plans = self.plan()
        asking = [
            plan
            for plan in plans
            if isinstance(plan.action, d.AskLease) and self._may_act(plan, now)
        ]
        if asking:
            # Asked between two pieces: a refusal costs the download nothing.
            self._take_turn(asking)
            plans, now = self.plan(), self._parts.clock.monotonic()
            self._show(plans)
        return any(
            self._may_act(plan, now) and _URGENCY[type(plan.action)] <= _PREPARING for plan in plans
        )

    # Wishes

    def _has_news(self) -> bool:
        offered = self._board.desired()
        if offered is None:
            return False
        return self._held is None or offered.pair > self._held.pair

    def _has_cause(self) -> bool:
        """Whether there is more to do than the last look knew: a newer wish, an order here."""
        return self._has_news() or (self._orders is not None and self._orders.waiting())

    def _adopt_news(self) -> None:
        offered = self._board.desired()
        if offered is None or not self._has_news():
            return
        before = self._held
        held = Held(desired=offered) if before is None else before.followed_by(offered)
        try:
            # Kept before anything follows from it: a start without the centre must know it.
            self._parts.journal.save_held(held, self._belongs_to)
        except Retryable as error:
            _log.error("%s; the wish is followed, a restart may have to ask for it", error.reason)
        self._held = held
        self._rests.end_all_of(changed_since(before, offered))
        _log.info("generation %d of epoch %d is wished now", offered.generation, offered.epoch)

    def _forget_verdicts(self, server: ServerView) -> None:
        """A replay says nothing about a server that went away, nor for ever about a bad one."""
        now = self._parts.clock.monotonic()
        for model, (verdict, at) in list(self._actor.verdicts.items()):
            entry = server.index.get(model, {}).get(verdict.version)
            gone = entry is None or entry.state != sit.READY
            if gone or (not verdict.passed and now - at > _RECHECK_SECONDS):
                del self._actor.verdicts[model]

    # Reports

    def _show(self, plans: list[Plan]) -> None:
        now = self._parts.clock.monotonic()
        reports = {
            plan.entry.model: report_of(
                plan, self._rests.of(plan.action, now), self._reports.get(plan.entry.model)
            )
            for plan in plans
            if plan.spoken
        }
        self._reports, before = reports, self._reports
        if reports != before:
            self._said(self.reports())
        self._show_reports()

    def _show_progress(self, model: str, reason: str) -> None:
        """How far a download is, in the report of a model that waits for it."""
        report = self._reports.get(model)
        if report is not None and report.phase == p.DOWNLOADING:
            self._reports[model] = replace(report, reason=reason)
            self._show_reports()

    def _show_reports(self) -> None:
        server = self._server
        self._board.show(
            observed=None if self._held is None else self._held.pair,
            triton=TritonStatus(
                live=server is not None and server.live,
                version=None if server is None else server.version,
                extensions=server.extensions if server is not None and server.live else None,
            ),
            models=self.reports(),
        )
