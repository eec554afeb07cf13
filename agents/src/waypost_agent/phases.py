"""Where a model stands in the words of the protocol: the phase of a planned step, and its report.

Pure; decides what is said, never what is done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from waypost_agent import decide as d
from waypost_agent import protocol as p
from waypost_agent import situation as sit
from waypost_agent.errors import PROBATION, REPLACING, RESTORE_FAILED, WORKING, Retryable
from waypost_agent.preflight import Learned
from waypost_agent.protocol import ModelReport, ModelWish

_PHASES: dict[type[d.Action], str] = {
    d.Fetch: p.DOWNLOADING,
    d.AskLease: p.STAGED,
    d.MakeRoom: p.ACTIVATING,
    d.Prove: p.PROVING,
    d.UnloadCandidate: p.PROVING,
    d.Switch: p.ACTIVATING,
    d.Unload: p.ACTIVATING,
    d.Verify: p.VERIFYING,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One model in one cycle: what is wished, recorded and seen, and what comes next."""

    entry: ModelWish
    wish: sit.Wish
    record: sit.Record
    seen: sit.Observed
    action: d.Action
    spoken: bool
    learned: Learned = Learned()  # noqa: RUF009  # frozen values


@dataclass(frozen=True, kw_only=True)
class Rest:
    """A step that failed and is not tried again before `until` (monotonic seconds)."""

    failures: int
    until: float
    error: Retryable


def report_of(plan: Plan, rest: Rest | None, before: ModelReport | None) -> ModelReport:
    """The report of one model; `before` is the one of the cycle before, if any."""
    seen, action, entry = plan.seen, plan.action, plan.entry
    phase, code, reason = _phase(plan, rest, before)
    serving = seen.serving if seen.triton_live else None
    verdict = seen.verdict
    healthy = None
    if verdict is not None and serving is not None and verdict.version == serving:
        healthy = verdict.passed
    return ModelReport(
        model=entry.model,
        generation=entry.generation,
        deployment=entry.deployment,
        target=entry.version,
        phase=phase,
        serving=serving,
        healthy=healthy,
        reason_code=code,
        reason=(reason or action.reason)[: p.MAX_REASON],
        lease=_lease(plan),
        learned=None if plan.learned == Learned() else asdict(plan.learned),
    )


def _lease(plan: Plan) -> int | None:
    """The lease it holds or has begun under; what is settled needs none any more."""
    if plan.seen.lease is None or isinstance(plan.action, d.Settled | d.Mend):
        return None
    return plan.seen.lease.number


def _phase(plan: Plan, rest: Rest | None, before: ModelReport | None) -> tuple[str, str, str]:
    """Phase, reason code and reason."""
    action = plan.action.meanwhile if isinstance(plan.action, d.Mend) else plan.action
    if isinstance(action, d.Settled):
        return p.SUCCEEDED if action.succeeded else p.FAILED, action.reason_code, action.reason
    if isinstance(action, d.AskLease):
        return _waiting_for_lease(plan, action, rest, before)
    failure = d.failure_for(plan.wish, plan.record)
    if rest is not None:
        if isinstance(action, d.Switch) and action.restoring:
            waiting = p.ACTIVATING if _is_emptied(plan) else p.PENDING
            return waiting if failure is None else p.FAILED, RESTORE_FAILED, rest.error.reason
        return p.ACTIVATING if _is_emptied(plan) else p.PENDING, rest.error.code, rest.error.reason
    if failure is not None and _is_out_of_the_way(plan):
        return p.FAILED, failure.reason_code, failure.reason
    same = before is not None and before.generation == plan.entry.generation
    if isinstance(action, d.Wait):
        if action.reason_code == WORKING and same and before is not None and _moving(before):
            return before.phase, WORKING, action.reason
        if action.reason_code == PROBATION:
            return p.VERIFYING, PROBATION, action.reason
        if action.reason_code == WORKING and (_shows_its_switch(plan) or _is_emptied(plan)):
            return p.ACTIVATING, WORKING, action.reason
        return p.PENDING, action.reason_code, action.reason
    if isinstance(action, d.Verify):
        before_asking = failure is None and action.target != plan.wish.target
        if before_asking and action.target == plan.record.committed:
            return p.STAGED, "golden-running", action.reason
        return p.VERIFYING, "golden-running", action.reason
    if isinstance(action, d.MakeRoom):
        return p.ACTIVATING, REPLACING, action.reason
    phase = _PHASES.get(type(action))
    if phase is None:
        phase = before.phase if same and before is not None else p.PENDING
    return phase, WORKING, action.reason


def _waiting_for_lease(
    plan: Plan, action: d.AskLease, rest: Rest | None, before: ModelReport | None
) -> tuple[str, str, str]:
    """Why there is no lease yet. The last answer stands until the next one is there."""
    if rest is not None:
        return p.STAGED, rest.error.code, rest.error.reason
    answered = (
        before is not None
        and before.generation == plan.entry.generation
        and before.phase == p.STAGED
        and before.reason_code != WORKING
    )
    if answered and before is not None:
        return p.STAGED, before.reason_code, before.reason
    return p.STAGED, WORKING, action.reason


def _shows_its_switch(plan: Plan) -> bool:
    """Whether Triton is in the midst of a switch that began under a lease this agent forgot: a
    phase from before the switch would tell the centre that its slot is free."""
    target, states = plan.wish.target, plan.seen.states
    if not plan.wish.lease_required or target is None:
        return False
    moving = any(state in (sit.LOADING, sit.UNLOADING) for state in states.values())
    return moving and states.get(target.version) in (sit.LOADING, sit.READY)


def _is_emptied(plan: Plan) -> bool:
    """Whether nothing serves because the version before made room: a phase from before the switch
    would tell the centre that nothing had begun here."""
    room = plan.record.room
    if room is None or room.since is None or plan.seen.ready:
        return False
    return (room.epoch, room.generation) == plan.wish.pair


def _is_out_of_the_way(plan: Plan) -> bool:
    """Whether all that is left of a failed version is its candidate, which answers nobody."""
    if not isinstance(plan.action, d.Wait | d.UnloadCandidate | d.Prune):
        return False
    committed, verdict = plan.record.committed, plan.seen.verdict
    if committed is None:
        return plan.seen.triton_live and not plan.seen.ready
    restored = verdict is not None and verdict.passed and verdict.version == committed.version
    return restored and plan.seen.ready == {committed.version}


def _moving(report: ModelReport) -> bool:
    return report.phase in (p.PROVING, p.ACTIVATING, p.VERIFYING)
