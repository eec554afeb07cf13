"""Bugs planted on purpose, one or more for each invariant, with the invariant that must find each.

A bug is a spoilt decision, effect or agent handed to the simulated world; nothing is patched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.domain.admission import (
    BEGIN_WITHIN_SECONDS,
    Granted,
    LeaseFacts,
    Refused,
    admit,
)
from controlplane.domain.decide import decide
from controlplane.domain.rollout import (
    BEGUN,
    FINAL_DEPLOYMENT,
    BeginSoak,
    Decision,
    OfferSites,
    PassStage,
    RolloutView,
    StageView,
    StartStage,
)
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation.agent import Agent
from controlplane.ops.simulation.book import in_transition
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.invariants import Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import (
    Answer,
    Deployment,
    Report,
    Rollout,
    Said,
    SiteModel,
    Stage,
)
from controlplane.ops.simulation.summary import Outcome
from controlplane.ops.simulation.versions import Version
from controlplane.ops.simulation.world import Parts, simulate

# Many messages that overtake each other, and agents that forget.
HARSH = {
    "loss": 0.2, "lateness": 0.2, "latest_seconds": 100, "duplication": 0.4,
    "agent_crash_rate": 1.0,
}  # fmt: skip
LONG_SILENCE = 5  # failed contacts in a row

# The agent's decision, spoilt


def serves_unproven(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Takes every wished version for a proven one."""
    trusted = record.proven | ({wish.target.digest} if wish.target else set())
    return d.decide(wish, replace(record, proven=trusted), seen)


def keeps_the_refuted(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Leaves a version that failed serving until it is told what to do."""
    action = d.decide(wish, record, seen)
    if isinstance(action, d.Switch) and action.restoring and seen.ready:
        return d.Wait(model=wish.model, reason_code="waiting", reason="for somebody to decide")
    return action


def never_verifies(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Takes a loaded version for a right one."""
    action = d.decide(wish, record, seen)
    if isinstance(action, d.Verify) and action.target == wish.target:
        return d.Settled(model=wish.model, succeeded=True, reason_code="ok", reason="it loaded")
    return action


def unloads_first(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Makes room before it loads another version."""
    action = d.decide(wish, record, seen)
    if isinstance(action, d.Switch) and seen.ready:
        return d.Unload(model=wish.model, reason="making room")
    return action


def waits_for_a_wish(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Does not load what a returned server lacks until the centre asks anew."""
    action = d.decide(wish, record, seen)
    if isinstance(action, d.Switch) and not seen.ready and action.target == record.committed:
        return d.Wait(model=wish.model, reason_code="waiting", reason="for the centre")
    return action


def prunes_the_way_back(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Keeps only what serves."""
    action = d.decide(wish, record, seen)
    rest = seen.recorded - seen.ready
    if isinstance(action, d.Settled) and seen.ready and rest:
        return d.Prune(model=wish.model, versions=rest, reason="tidying")
    return action


def prunes_what_is_not_wished(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Makes room for the new version by removing the one that serves."""
    action = d.decide(wish, record, seen)
    if isinstance(action, d.Fetch) and seen.recorded:
        return d.Prune(model=wish.model, versions=seen.recorded, reason="making room")
    return action


def asks_nobody(wish: sit.Wish, record: sit.Record, seen: sit.Observed) -> d.Action:
    """Goes to work as soon as the files are there."""
    return d.decide(replace(wish, lease_required=False), record, seen)


# The engine's decision, spoilt


def _with_stages(view: RolloutView, stages: Sequence[StageView]) -> RolloutView:
    return replace(view, stages=tuple(stages))


def takes_failed_for_done(view: RolloutView, now: datetime) -> Decision:
    stages = []
    for stage in view.stages:
        forward = {state: count for state, count in stage.forward.items() if state is not D.FAILED}
        forward[D.SUCCEEDED] = stage.count(D.SUCCEEDED, D.FAILED)
        stages.append(replace(stage, forward=forward, unhealthy_count=0))
    return decide(_with_stages(view, stages), now)


def ignores_a_pause(view: RolloutView, now: datetime) -> Decision:
    return decide(replace(view, state=R.RUNNING) if view.state is R.PAUSED else view, now)


def does_not_wait_for_a_stage(view: RolloutView, now: datetime) -> Decision:
    if view.state is R.RUNNING and any(stage.state is S.RUNNING for stage in view.stages):
        for stage in view.stages:
            if stage.state is S.PENDING and stage.sites:
                return StartStage(stage=stage.index, reason="in a hurry")
    return decide(view, now)


def passes_by_majority(view: RolloutView, now: datetime) -> Decision:
    """Takes the unfinished of a stage for cancelled once most of it has succeeded."""
    stages = []
    for stage in view.stages:
        if stage.state is S.RUNNING and 2 * stage.count(D.SUCCEEDED) > stage.sites:
            done = stage.count(D.SUCCEEDED)
            stage = replace(stage, forward={D.SUCCEEDED: done, D.CANCELLED: stage.sites - done})
        stages.append(stage)
    return decide(_with_stages(view, stages), now)


def skips_the_soak(view: RolloutView, now: datetime) -> Decision:
    """Passes a stage as soon as all of its sites have succeeded."""
    decision = decide(view, now)
    if isinstance(decision, BeginSoak):
        return PassStage(stage=decision.stage, seconds=0.0, reason="it looks well")
    return decision


def counts_an_outage_as_soak(view: RolloutView, now: datetime) -> Decision:
    return decide(replace(view, fresh_within=timedelta(days=365)), now)


def counts_silence_as_soak(view: RolloutView, now: datetime) -> Decision:
    return decide(_with_stages(view, [replace(s, stale_count=0) for s in view.stages]), now)


def waits_for_the_failed(view: RolloutView, now: datetime) -> Decision:
    """Turning back, counts a site that could not be reached as one still to come."""
    if view.state is not R.ROLLING_BACK:
        return decide(view, now)
    stages = []
    for stage in view.stages:
        missing = sum(stage.forward.values()) - sum(stage.rollback.values())
        rollback = {**stage.rollback, D.OFFERED: stage.rollback.get(D.OFFERED, 0) + missing}
        stages.append(replace(stage, rollback=rollback))
    return decide(_with_stages(view, stages), now)


def forgets_who_left(view: RolloutView, now: datetime) -> Decision:
    return decide(_with_stages(view, [replace(s, retired=0) for s in view.stages]), now)


def offers_to_all(view: RolloutView, now: datetime) -> Decision:
    """Offers to the whole stage whatever the cap."""
    decision = decide(view, now)
    if isinstance(decision, OfferSites):
        return replace(decision, count=view.stages[decision.stage].count(D.PENDING))
    return decision


# The effects, spoilt


class ForgetsToCancelForward(Centre):
    def end_forward(self, leaving: Sequence[Deployment]) -> None:
        pass


class ReturnsAllToOneVersion(Centre):
    """Takes what one site had for what every site had."""

    def way_back(self, deployment: Deployment) -> Version | None:
        rows = deployment.rollout.forward
        return next((row.from_version for row in rows if row.generation is not None), None)


class ReturnsToNothing(Centre):
    def way_back(self, deployment: Deployment) -> Version | None:
        return None


class TakesReportsOfThePast(Centre):
    def is_current(self, row: SiteModel, said: Said) -> bool:
        return True


class TakesReportsInAnyOrder(Centre):
    def in_order(self, report: Report) -> bool:
        return True


class BelievesTheClockOfTheSite(Centre):
    def time_of(self, report: Report, now: float) -> float:
        return report.sent_at


class ReusesAGeneration(Centre):
    """Gives a wish that calls back the generation of the one before."""

    def next_generation(self, site: int, is_offer: bool) -> int:
        return self.generations[site] + (1 if is_offer else 0)


class LeavesTheWish(Centre):
    """Aborted, it lets go of its sites without calling them back."""

    def call_back(self, rollout: Rollout, rows: Iterable[Deployment]) -> None:
        pass


class FreesByTime(Centre):
    """Gives the slot of a site that is silent since its lease ended to another one."""

    def unavailable(self, asking: Deployment, stage: Stage, limit: int, now: float) -> int:
        held = [d for d in stage.deployments if d is not asking and in_transition(d)]
        return sum(now - (d.leased_at or 0.0) < BEGIN_WITHIN_SECONDS for d in held)


class FreesByAnyReport(Centre):
    """Takes a report that was made before the lease for one that was made after it."""

    def frees_slot(self, deployment: Deployment, state: D, said: Said, report: Report) -> bool:
        if state in FINAL_DEPLOYMENT:
            return True
        return state not in BEGUN and said.lease != deployment.lease


class OffersTheFrozen(Centre):
    def is_frozen(self, site: int) -> bool:
        return False


class Lenient(Centre):
    """Grants by facts that are not so."""

    def is_hopeless(self, deployment: Deployment) -> bool:
        return False

    def admit(self, facts: LeaseFacts) -> Granted | Refused:
        return admit(self.prettified(facts))

    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        raise NotImplementedError


class CountsNobody(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, unavailable=0)


class GrantsOneTooMany(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, max_unavailable=facts.max_unavailable + 1)


class GrantsInAFreeze(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, frozen="")


class GrantsInAPause(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, rollout_state=R.RUNNING)


class GrantsBeforeTheStage(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, stage_state=S.RUNNING)


class GrantsTheWithdrawn(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        if not facts.withdrawn:
            return facts
        return replace(facts, withdrawn="", rollout_state=R.RUNNING)


class SpendsWithoutLimit(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, changing_limit=None)


class ForgetsTheGroup(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, peer_unavailable="")


class AsksNobody(Agent):
    def may_begin(self, action: d.Action, wish: sit.Wish) -> bool:
        return True


class TellsOnlyOnce(Agent):
    """Reports a change once, and trusts that it arrived."""

    repeats_reports = False


class FollowsTheLastAnswer(Agent):
    """Takes whichever answer came last for the newest."""

    def is_newer(self, answer: Answer) -> bool:
        return True

    def has_news(self) -> bool:
        held = self.disk.held
        return self.offered_generation > 0 and (
            held is None or held.generation != self.offered_generation
        )


class StaysAlone(Agent):
    """After a long silence it takes the centre for dead, and goes on by itself."""

    was_alone = False

    def is_newer(self, answer: Answer) -> bool:
        self.was_alone = self.was_alone or self.failures > LONG_SILENCE
        return not self.was_alone and super().is_newer(answer)


@dataclass(frozen=True, kw_only=True)
class Planted:
    """`found_by`: the invariants of which one must break; `weather`, what is worse than usual."""

    parts: Parts
    found_by: frozenset[Invariant]
    weather: Mapping[str, float]

    def history(self, seed: int) -> Outcome:
        return simulate(Options(sites=20, hours=8, seed=seed, **self.weather), self.parts)  # type: ignore[arg-type]


def _bug(parts: Parts, *found_by: Invariant, **weather: float) -> Planted:
    return Planted(parts=parts, found_by=frozenset(found_by), weather=weather)


PLANTED: Mapping[str, Planted] = {
    "the agent asks for no lease": _bug(
        Parts(agent_decide=asks_nobody, agent=AsksNobody), Invariant.UNAVAILABLE
    ),
    "a lease is granted without counting the leased": _bug(
        Parts(centre=CountsNobody), Invariant.LEASES
    ),
    "one more than may be is granted a lease": _bug(
        Parts(centre=GrantsOneTooMany), Invariant.LEASES
    ),
    "a slot is freed by time alone": _bug(Parts(centre=FreesByTime), Invariant.LEASES),
    "a slot is freed by a report from before the lease": _bug(
        Parts(centre=FreesByAnyReport), Invariant.LEASES, **HARSH
    ),
    "a freeze holds no offer": _bug(Parts(centre=OffersTheFrozen), Invariant.FROZEN),
    "a freeze holds no lease": _bug(Parts(centre=GrantsInAFreeze), Invariant.FROZEN),
    "a pause holds no lease": _bug(Parts(centre=GrantsInAPause), Invariant.HELD),
    "a lease is granted before the stage runs": _bug(
        Parts(centre=GrantsBeforeTheStage), Invariant.STAGES
    ),
    "a quarantine holds no lease": _bug(Parts(centre=GrantsTheWithdrawn), Invariant.WITHDRAWN),
    "the budget is not looked at": _bug(Parts(centre=SpendsWithoutLimit), Invariant.BUDGET),
    "both members of a group change at once": _bug(Parts(centre=ForgetsTheGroup), Invariant.GROUP),
    "a retired site is offered the version": _bug(Parts(decide=forgets_who_left), Invariant.GONE),
    "a stage is offered at once whatever its cap": _bug(Parts(decide=offers_to_all), Invariant.CAP),
    "the agent serves unproven versions": _bug(
        Parts(agent_decide=serves_unproven), Invariant.PROVEN
    ),
    "the agent leaves a refuted version serving": _bug(
        Parts(agent_decide=keeps_the_refuted), Invariant.REFUTED
    ),
    "the agent never verifies": _bug(Parts(agent_decide=never_verifies), Invariant.REFUTED),
    "the agent unloads before it loads": _bug(Parts(agent_decide=unloads_first), Invariant.SERVES),
    "the agent waits for a wish to serve again": _bug(
        Parts(agent_decide=waits_for_a_wish), Invariant.SERVES
    ),
    "the agent prunes the way back": _bug(
        Parts(agent_decide=prunes_the_way_back), Invariant.LAST_GOOD
    ),
    "the agent prunes what serves": _bug(
        Parts(agent_decide=prunes_what_is_not_wished), Invariant.LAST_GOOD
    ),
    "the agent reports a change only once": _bug(
        Parts(agent=TellsOnlyOnce), Invariant.ENDS, Invariant.CONVERGES
    ),
    "the agent follows whichever answer came last": _bug(
        Parts(agent=FollowsTheLastAnswer), Invariant.GENERATION
    ),
    "a failed site counts as done": _bug(
        Parts(decide=takes_failed_for_done), Invariant.BROKEN_FAILS
    ),
    "a pause does not hold": _bug(Parts(decide=ignores_a_pause), Invariant.HELD),
    "a stage does not wait for the one before": _bug(
        Parts(decide=does_not_wait_for_a_stage), Invariant.STAGES
    ),
    "a stage passes by majority": _bug(
        Parts(decide=passes_by_majority), Invariant.STAGES, Invariant.BROKEN_FAILS
    ),
    "a stage passes without its soak": _bug(Parts(decide=skips_the_soak), Invariant.LEGAL),
    "an outage counts as soak": _bug(Parts(decide=counts_an_outage_as_soak), Invariant.SOAK),
    "silence counts as soak": _bug(Parts(decide=counts_silence_as_soak), Invariant.SOAK),
    "the clock of a site is believed": _bug(
        Parts(centre=BelievesTheClockOfTheSite), Invariant.ENDS, Invariant.SOAK
    ),
    "turning back waits for sites that were never reached": _bug(
        Parts(decide=waits_for_the_failed), Invariant.ENDS
    ),
    "a forward deployment stays active beside the way back": _bug(
        Parts(centre=ForgetsToCancelForward), Invariant.ONE_ACTIVE
    ),
    "every site returns to what one of them had": _bug(
        Parts(centre=ReturnsAllToOneVersion), Invariant.RETURNS
    ),
    "a rollback stops serving": _bug(Parts(centre=ReturnsToNothing), Invariant.RETURNS),
    "a report of an older wish is believed": _bug(
        Parts(centre=TakesReportsOfThePast), Invariant.STALE
    ),
    "a report that was overtaken is believed": _bug(
        Parts(centre=TakesReportsInAnyOrder), Invariant.STALE
    ),
    "a generation is used twice": _bug(Parts(centre=ReusesAGeneration), Invariant.GENERATION),
    "an aborted rollout does not call its sites back": _bug(
        Parts(centre=LeavesTheWish), Invariant.HELD
    ),
    "the agent follows no wish after a long silence": _bug(
        Parts(agent=StaysAlone), Invariant.CONVERGES
    ),
}
