"""One simulated agent: looks, asks the agent's own `decide`, carries out one step, says so.

Follows the agent's `loop.py`. Its memory goes with a crash, its disk stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.domain.admission import BEGIN_WITHIN_SECONDS
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.link import Link
from controlplane.ops.simulation.looks import Held, Look, Step, step_of
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Leave, Question, Said
from controlplane.ops.simulation.steps import Paused, Refused, Retry, Steps, perform
from controlplane.ops.simulation.triton import CANDIDATE_SUFFIX, Triton
from controlplane.ops.simulation.versions import Catalogue
from controlplane.ops.simulation.voice import speak

if TYPE_CHECKING:
    from controlplane.ops.simulation.network import Network

AgentDecide = Callable[[sit.Wish, sit.Record, sit.Observed], d.Action]

_NO_REST = (0, 0.0)
_LOOK_SECONDS = 5.0
_RECHECK_SECONDS = 60.0
_LONGEST_REST_SECONDS = 60.0
_LONGEST_START_SECONDS = 300.0


class Agent(Link):
    """The whole agent of a site, beside its server."""

    def __init__(
        self,
        *,
        site: int,
        options: Options,
        clock: Clock,
        rng: Random,
        catalogue: Catalogue,
        judge: Judge,
        network: Network,
        decide: AgentDecide = d.decide,
    ) -> None:
        super().__init__(site=site, options=options, clock=clock, rng=rng, network=network)
        self.judge = judge
        self.catalogue = catalogue
        self.decide = decide
        self.triton = Triton(
            site=site,
            clock=clock,
            rng=rng,
            catalogue=catalogue,
            judge=judge,
            changed=self._server_changed,
            died=self.triton_crashes,
        )
        self.up_since = 0.0

    def forget(self) -> None:
        super().forget()
        self.verdicts: dict[str, tuple[sit.Verdict, float]] = {}
        self._said: dict[str, Said] = {}
        self._rests: dict[Step, tuple[int, float]] = {}
        self._step: Steps | None = None
        self._plan: tuple[d.Action, sit.Wish] | None = None
        self._turns: dict[str, int] = {}
        self._wake_at = float("inf")
        self._leases: dict[str, Held] = {}
        self._looks: dict[str, Look] = {}

    # Life and death

    def start(self, first_contact_seconds: float) -> None:
        life = self.disk.sessions
        self.clock.after(first_contact_seconds, self.contact, life)
        self.wake(0.0)

    def arrive(self) -> None:
        """Its site was not there before."""
        self.up = True
        self._come_back()

    def crash(self) -> None:
        """Memory is gone, also the step under way; some minutes later it is there again."""
        if not self.up:
            return
        self.clock.note("site {}: the agent dies", self.site)
        self.judge.faults["agent crashes"] += 1
        self.up = False
        self.disk.sessions += 1
        self.forget()
        self.judge.forgot(self.site)
        self.clock.after(self.rng.uniform(1.0, _LONGEST_START_SECONDS), self._come_back)

    def _come_back(self) -> None:
        self.up, self.up_since = True, self.clock.now
        self._offered = self.disk.held
        self.start(self.rng.uniform(0.0, 5.0))

    def reboot(self) -> None:
        """The machine starts anew, with all that runs on it."""
        if not self.up:
            return
        self.judge.faults["reboots"] += 1
        self.boot = str(int(self.boot) + 1)
        self.machine_up_since = self.clock.now
        self.triton_crashes()
        self.crash()

    def triton_crashes(self) -> None:
        if not self.triton.live:
            return
        self.clock.note("site {}: Triton dies", self.site)
        self.judge.faults["Triton crashes"] += 1
        self.triton.crash()
        self.clock.after(self.rng.uniform(1.0, 120.0), self._triton_returns)
        self.wake(_LOOK_SECONDS)

    def _triton_returns(self) -> None:
        """Empty, or with what the configuration on disk names."""
        named = {}
        if self.rng.random() < 0.5:
            for model, disk in self.disk.models.items():
                if disk.named is not None and disk.named in disk.installed:
                    named[model] = disk.named
        self.clock.note("site {}: Triton is back with {}", self.site, named)
        self.triton.come_back(named)
        self.judge.server_is_back(self)

    def _server_changed(self) -> None:
        self.wake(self.rng.uniform(0.0, _LOOK_SECONDS))

    # The loop

    def wake(self, seconds: float) -> None:
        """Looks again no later than that, unless a step is under way."""
        at = self.clock.now + seconds
        if at < self._wake_at:
            self._wake_at = at
            self.clock.after(seconds, self._look, self.disk.sessions, at)

    def _look(self, life: int, at: float) -> None:
        if life != self.disk.sessions or at != self._wake_at:
            return
        self._wake_at = float("inf")
        if self.up and self._step is None:
            self._cycle()

    def note(self, model: str, version: str, *, passed: bool) -> None:
        code = "ok" if passed else "golden-mismatch"
        verdict = sit.Verdict(version=version, passed=passed, reason_code=code, reason=code)
        self.verdicts[model] = (verdict, self.clock.now)

    def _adopt_news(self) -> None:
        if not self.has_news():
            return
        before = {wish.model: wish for wish in (self.disk.held.wishes if self.disk.held else ())}
        self.disk.held = self._offered
        assert self.disk.held is not None  # there was news
        self.judge.holds(self.site, self.disk.held.generation)
        changed = {wish.model for wish in self.disk.held.wishes if before.get(wish.model) != wish}
        self._rests = {step: rest for step, rest in self._rests.items() if step[0] not in changed}

    def _cycle(self) -> None:
        """One look and at most one step."""
        self._adopt_news()
        if self.disk.held is None:
            return
        self._forget_verdicts()
        now, soonest = self.clock.now, float("inf")
        chosen: tuple[tuple[int, int], d.Action, sit.Wish] | None = None
        for wish in self.disk.held.wishes:
            look = self._look_at(wish)
            action = look.action
            self._settle(wish, action)
            rest_until = self._rests.get(look.step, _NO_REST)[1]
            is_resting = rest_until > now
            self._say(look, is_resting=is_resting)
            if is_resting:
                soonest = min(soonest, rest_until - now)
            elif look.urgency is not None:
                order = (look.urgency, self._turns.get(wish.model, 0))
                if chosen is None or order < chosen[0]:
                    chosen = (order, action, wish)
        self.show(self._states())
        if chosen is not None:
            self._turns[chosen[2].model] = self.clock.events
            if isinstance(chosen[1], d.AskLease):
                self._ask(chosen[1], chosen[2])
            else:
                self._begin(chosen[1], chosen[2])
            return
        if any(not verdict.passed for verdict, _ in self.verdicts.values()):
            soonest = min(soonest, _RECHECK_SECONDS + 1)
        if soonest < float("inf"):
            self.wake(soonest)

    def _look_at(self, wish: sit.Wish) -> Look:
        """What is there, and what follows; nothing is thought through twice."""
        model, triton = wish.model, self.triton
        disk = self.disk.of(model)
        sight = (
            wish,
            self.disk.records.get(model),
            triton.live,
            triton.sight(model),
            disk.has_candidate,
            disk.installed,
            disk.recorded,
            disk.leftovers,
            self.verdicts.get(model),
            self._lease_for(wish),
        )
        known = self._looks.get(model)
        if known is None or known.sight != sight:
            record, seen = self.disk.record(model), self._observe(wish)
            action = self.decide(wish, record, seen)
            known = self._looks[model] = Look(
                sight=sight, wish=wish, record=record, seen=seen, action=action
            )
        return known

    def _say(self, look: Look, *, is_resting: bool) -> None:
        model = look.wish.model
        before = self._said.get(model)
        if before is not None and look.said == (is_resting, before):
            return  # spoken already
        said = self._said[model] = speak(
            look.wish, look.record, look.seen, look.action, is_resting=is_resting, before=before
        )
        look.said = (is_resting, said)

    def _observe(self, wish: sit.Wish) -> sit.Observed:
        model = wish.model
        disk, noted = self.disk.of(model), self.verdicts.get(model)
        live = self.triton.live
        return sit.Observed(
            triton_live=live,
            triton_reason="" if live else "Triton does not answer",
            states=self.triton.states(model) if live else {},
            candidate_states=self.triton.states(model + CANDIDATE_SUFFIX) if live else {},
            candidate_on_disk=disk.has_candidate,
            installed=disk.installed,
            recorded=disk.recorded,
            leftovers=disk.leftovers,
            verdict=None if noted is None else noted[0],
            lease=self._lease_for(wish),
        )

    def _forget_verdicts(self) -> None:
        if not self.verdicts:
            return
        for model, (verdict, at) in list(self.verdicts.items()):
            gone = self.triton.ready.get(model) != verdict.version
            if gone or (not verdict.passed and self.clock.now - at > _RECHECK_SECONDS):
                del self.verdicts[model]

    def _states(self) -> tuple[Said, ...]:
        held = self.disk.held
        return tuple(self._said[wish.model] for wish in held.wishes) if held else ()

    def server_answers(self) -> bool:
        return self.triton.live

    # Leases

    def _lease_for(self, wish: sit.Wish) -> sit.Lease | None:
        """Under which a step of this wish may begin now, or has begun."""
        held = self._leases.get(wish.model)
        if held is None or not held.lease.covers(wish):
            return None
        return held.lease if held.begun or self.boottime() < held.begin_before else None

    def _ask(self, action: d.AskLease, wish: sit.Wish) -> None:
        self._rest(action)  # without an answer it asks again, later and later
        self.ask_lease(wish.model, wish.generation)
        self.wake(0.01)

    def answered(self, question: Question, answer: Leave) -> None:
        held = self.disk.held
        wishes = held.wishes if held is not None else ()
        wish = next((wish for wish in wishes if wish.model == question.model), None)
        if wish is None or wish.generation != question.generation or wish.target is None:
            return
        if answer.lease is None:
            asking = (wish.model, d.AskLease, wish.target)
            until = self.clock.now + answer.retry_seconds * self.rng.uniform(0.8, 1.2)
            self._rests[asking] = (0, until)
            return
        lease = sit.Lease(
            number=answer.lease, epoch=wish.epoch, generation=wish.generation, target=wish.target
        )
        begin_before = question.asked.uptime + BEGIN_WITHIN_SECONDS
        self._leases[wish.model] = Held(lease=lease, begin_before=begin_before)
        self.judge.leased(self.site, wish, self.machine_up_since + begin_before)
        self.wake(0.0)

    def may_begin(self, action: d.Action, wish: sit.Wish) -> bool:
        """Asked at the last moment: a lease may have run out since the look."""
        if not d.needs_lease(action, wish, self.disk.record(wish.model), self._observe(wish)):
            return True
        if self._lease_for(wish) is None:
            return False
        held = self._leases[wish.model]
        if not held.begun:
            self._leases[wish.model] = replace(held, begun=True)
            self.judge.begins(self.site, wish)
        self._rests.pop((wish.model, d.AskLease, wish.target), None)
        return True

    def _settle(self, wish: sit.Wish, action: d.Action) -> None:
        """With the outcome the lease is over; whatever comes next asks anew."""
        model = wish.model
        if self._leases and isinstance(action, d.Settled):
            self._leases.pop(model, None)
        if (self.site, model) not in self.judge.leases or self._lease_for(wish) is not None:
            return
        served = () if wish.target is None else self.triton.states(model)
        is_moving = wish.target is not None and wish.target.version in served
        if isinstance(action, d.Settled) or not (is_moving or self.triton.is_trying(model)):
            self.judge.lease_is_over(self.site, model)

    # Steps

    def _begin(self, action: d.Action, wish: sit.Wish) -> None:
        if not self.may_begin(action, wish):
            self.wake(0.01)
            return
        self.clock.note("site {}: {} {}", self.site, type(action).__name__, action.reason)
        self._plan = (action, wish)
        try:
            self._step = perform(self, action, wish)
        except Retry:
            self._rest(action)
        else:
            self._resume(self.disk.sessions)

    def _resume(self, life: int) -> None:
        """The step goes on to its next change, unless its agent died meanwhile."""
        if life != self.disk.sessions or self._step is None or self._plan is None:
            return
        action, _ = self._plan
        try:
            seconds = next(self._step)
        except StopIteration:
            self._rests.pop(step_of(action), None)
            self._end_step(staged=isinstance(action, d.Fetch))
        except Paused:
            self._end_step()
        except (Retry, Refused):
            self._rest(action)
            self._end_step()
        else:
            if self.network.strikes(self.options.step_crash_share):
                self.crash()
            else:
                self.clock.after(seconds, self._resume, life)

    def _end_step(self, *, staged: bool = False) -> None:
        self._step = None
        if staged and self._plan is not None:
            model = self._plan[1].model
            before = self._said.get(model)
            if before is not None:
                self._said[model] = Said(
                    model=model,
                    generation=before.generation,
                    phase="staged",
                    serving=before.serving,
                    healthy=before.healthy,
                )
                self.show(self._states())
        self.wake(0.01)

    def _rest(self, action: d.Action) -> None:
        failures = self._rests.get(step_of(action), (0, 0.0))[0] + 1
        longest = min(_LONGEST_REST_SECONDS, 2.0 ** min(failures, 16))
        until = self.clock.now + self.rng.uniform(longest / 2, longest)
        self._rests[step_of(action)] = (failures, until)
