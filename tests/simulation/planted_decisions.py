"""Decisions of the agent and of the engine, each spoilt in one way."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.domain.decide import decide
from controlplane.domain.decisions import BeginSoak, Decision, OfferSites, PassStage, StartStage
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.domain.views import RolloutView, StageView

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


def asks_nobody_for_approval(view: RolloutView, now: datetime) -> Decision:
    stages = [replace(stage, approved=True) for stage in view.stages]
    return decide(replace(_with_stages(view, stages), approved=True), now)


def looks_at_no_gate(view: RolloutView, now: datetime) -> Decision:
    stages = [replace(s, policy=replace(s.policy, gates=()), gates=()) for s in view.stages]
    return decide(_with_stages(view, stages), now)


def offers_to_all(view: RolloutView, now: datetime) -> Decision:
    """Offers to the whole stage whatever the cap."""
    decision = decide(view, now)
    if isinstance(decision, OfferSites):
        return replace(decision, count=view.stages[decision.stage].count(D.PENDING))
    return decision
