"""Decides the one next step for a model from what is wished, recorded and seen.

Pure: the standard library only, no clock, no randomness, no disk, no server. The loop carries
the step out, looks again and asks again, so a crash anywhere is cured by the next question.
"""

from __future__ import annotations

from dataclasses import replace

from waypost_agent.actions import (
    Action,
    AskLease,
    Fetch,
    GiveUp,
    MakeRoom,
    Mend,
    Prove,
    Prune,
    Retire,
    Settled,
    Switch,
    Unload,
    UnloadCandidate,
    Verify,
    Wait,
)
from waypost_agent.errors import DRIFT, RULE_CODES, VERSION_CONFLICT
from waypost_agent.judging import judge, settle
from waypost_agent.situation import (
    LOADING,
    READY,
    UNLOADING,
    Failure,
    Observed,
    Record,
    Target,
    Wish,
)
from waypost_agent.takeover import (
    MAX_ATTEMPTS,
    done_by_hand,
    exhausted,
    failure_for,
    has_lease,
    make_room,
    must_be_put,
    put_back,
)
from waypost_agent.upkeep import busy, kept, mend, prune

__all__ = [
    "MAX_ATTEMPTS",
    "Action",
    "AskLease",
    "Fetch",
    "GiveUp",
    "MakeRoom",
    "Mend",
    "Prove",
    "Prune",
    "Retire",
    "Settled",
    "Switch",
    "Unload",
    "UnloadCandidate",
    "Verify",
    "Wait",
    "decide",
    "failure_for",
    "needs_lease",
]


def decide(wish: Wish, record: Record, seen: Observed) -> Action:
    """The next step for one model, or the question that must be asked before it."""
    action = _next_step(wish, record, seen)
    if not needs_lease(action, wish, record, seen) or has_lease(wish, seen):
        return action
    assert wish.target is not None  # only steps towards it need a lease
    committed = record.committed
    if (
        isinstance(action, Switch | MakeRoom)
        and committed is not None
        and seen.holds(committed)
        and seen.ready != {committed.version}
    ):
        # A server that came back without it: users are not left alone until the centre answers.
        return put_back(wish, record, seen, committed, None)
    if _serves_unheard(record, seen):
        assert committed is not None  # it serves
        return Verify(
            model=wish.model,
            target=committed,
            reason=f"version {committed.version} serves and was not replayed since this agent "
            "started; what is not known to be well would hold up others",
        )
    return AskLease(
        model=wish.model,
        target=wish.target,
        reason=(
            f"version {wish.target.version} is on disk and verified; "
            "the centre must say that its turn has come"
        ),
    )


def needs_lease(action: Action, wish: Wish, record: Record, seen: Observed) -> bool:
    """Whether the step begins something new here. What serves already, what is put back, and a
    switch that Triton shows as under way need nobody's leave."""
    if not wish.lease_required:
        return False
    if isinstance(action, MakeRoom):
        return action.target != record.committed
    if isinstance(action, Switch) and not action.restoring:
        return action.target != record.committed and action.target.version not in seen.ready
    return isinstance(action, Prove)


def _serves_unheard(record: Record, seen: Observed) -> bool:
    """The committed version serves alone, and nobody has heard yet whether it answers rightly."""
    committed, verdict = record.committed, seen.verdict
    if committed is None or not seen.holds(committed) or seen.ready != {committed.version}:
        return False
    return verdict is None or verdict.version != committed.version


def _next_step(wish: Wish, record: Record, seen: Observed) -> Action:
    """The order of these lines is the order of thought."""
    model = wish.model
    if not seen.triton_live:
        return Wait(model=model, reason_code="triton-unreachable", reason=seen.triton_reason)
    if (wait := busy(model, model, seen.states)) is not None:
        return _beside_a_hanging_unload(wish, record, seen) or wait
    candidate_busy = busy(model, "its candidate", seen.candidate_states)
    if candidate_busy is not None:
        # Its load may hang for ever: it holds up what needs its name or its files, nothing else.
        action = _decide_model(wish, record, seen)
        return candidate_busy if isinstance(action, Prove | Fetch) else action
    if seen.candidate_on_disk or READY in seen.candidate_states.values():
        return _past_a_folder(wish, record, seen) or UnloadCandidate(
            model=model, reason="a proof was cut short; its candidate is removed first"
        )
    return _decide_model(wish, record, seen)


def _past_a_folder(wish: Wish, record: Record, seen: Observed) -> Action | None:
    """What does not wait until the folder of an unloaded candidate is gone: a disk that takes no
    writes would keep it there, and nobody would be answered. Verdicts wait: with one the centre
    gives this site's turn to another."""
    if READY in seen.candidate_states.values():
        return None
    action = _decide_model(wish, record, seen)
    is_back = isinstance(action, MakeRoom) and action.target == record.committed
    return action if is_back or isinstance(action, Switch) else None


def _beside_a_hanging_unload(wish: Wish, record: Record, seen: Observed) -> Action | None:
    """What can be loaded where nothing serves, and what can be learnt and told of the version that
    was put back, while the failed one does not go: measured on 2.51, one whose python process died
    is unloading for ever."""
    committed, states = record.committed, seen.states
    if not seen.ready and LOADING not in states.values():
        # Nobody is answered. Triton is given its time to let go, and no more than that.
        action = _decide_model(wish, record, seen)
        is_free = isinstance(action, Switch) and states.get(action.target.version) != UNLOADING
        return action if is_free else None
    is_back = committed is not None and seen.ready == {committed.version}
    if failure_for(wish, record) is None or not is_back or LOADING in states.values():
        return None
    action = _decide_model(wish, record, seen)
    return action if isinstance(action, Verify | Settled) else None


def _decide_model(wish: Wish, record: Record, seen: Observed) -> Action:
    model = wish.model
    if wish.target is None:
        return _serve_nothing(wish, record, seen)
    failure = failure_for(wish, record)
    goal = wish.target if failure is None else record.committed
    if (stray := _stray(record, seen, goal)) is not None:
        return Verify(
            model=model,
            target=stray,
            reason=f"version {stray.version} serves since a switch that a newer wish cut short",
        )
    if goal is None:
        assert failure is not None  # without a failure the goal is the target
        return _nothing_to_fall_back_on(wish, failure, record, seen)

    barred = _is_barred(goal, wish, record, seen)
    is_whole = record.trusts(goal) and seen.holds(goal) and not barred
    base = goal if is_whole else record.committed
    by_hand = done_by_hand(wish, record, seen)
    if by_hand and not wish.corrects_drift:
        if seen.serving != goal.version:
            return Settled(model=model, succeeded=False, reason_code=DRIFT, reason=by_hand)
    elif base is not None and must_be_put(base, goal, wish, record, seen):
        return put_back(wish, record, seen, base, failure)
    if barred:
        return GiveUp(
            model=model, target=goal, reason_code=seen.fit.reason_code, reason=seen.fit.reason
        )
    if not seen.holds(goal):
        return _fetch(wish, record, seen, goal)
    if not record.trusts(goal):
        return (
            exhausted(wish, record, goal)
            or make_room(wish, record, seen, goal)
            or Prove(
                model=model,
                target=goal,
                reason=f"version {goal.version} must pass its golden requests before it answers "
                "users",
            )
        )
    if (unjudged := judge(wish, record, seen, goal)) is not None:
        return unjudged
    config_changed = record.config_sha256 not in (None, seen.config_sha256)
    if config_changed and wish.corrects_drift:
        return Verify(
            model=model,
            target=goal,
            reason="config.pbtxt was changed by hand; it is written anew once what serves is "
            "verified",
        )
    settled = settle(wish, record, seen, failure)
    if by_hand or config_changed:
        what = by_hand or "config.pbtxt was changed by hand"
        settled = replace(
            settled, reason_code=DRIFT, reason=f"{settled.reason}; {what} and is left"
        )
    return mend(wish, record, seen, settled) or prune(wish, record, seen) or settled


def _is_barred(goal: Target, wish: Wish, record: Record, seen: Observed) -> bool:
    """Whether it cannot live here, or must not by this site's own rule, which says itself whom it
    spares; of what was proven or served here nobody asks again whether it can."""
    if not seen.fit.reason_code or goal != wish.target:
        return False
    return seen.fit.is_rule or not record.trusts(goal)


def _serve_nothing(wish: Wish, record: Record, seen: Observed) -> Action:
    if seen.ready:
        versions = ", ".join(sorted(seen.ready, key=int))
        return Unload(
            model=wish.model, reason=f"the centre wishes nothing served, {versions} is loaded"
        )
    if record.committed is not None:
        return Retire(model=wish.model, reason="nothing is served any more; the record follows")
    return prune(wish, record, seen) or Settled(
        model=wish.model, succeeded=True, reason_code="ok", reason="nothing is served, as wished"
    )


def _stray(record: Record, seen: Observed, goal: Target | None) -> Target | None:
    """A proven version that serves though it was never verified, and nothing stands behind it."""
    if record.committed is not None or len(seen.ready) != 1:
        return None
    (version,) = seen.ready
    digest = seen.installed.get(version)
    if digest is None:
        return None
    serving = Target(version=version, digest=digest)
    return serving if serving != goal and digest in record.proven else None


def _nothing_to_fall_back_on(
    wish: Wish, failure: Failure, record: Record, seen: Observed
) -> Action:
    # What this site's rules refuse was not loaded for this wish: if it serves, it did before.
    was_refused = failure.reason_code in RULE_CODES
    if failure.target.version in seen.ready and not was_refused:
        return Unload(
            model=wish.model,
            reason=f"version {failure.target.version} failed and there is none before it",
        )
    return prune(wish, record, seen) or Settled(
        model=wish.model, succeeded=False, reason_code=failure.reason_code, reason=failure.reason
    )


def _fetch(wish: Wish, record: Record, seen: Observed, goal: Target) -> Action:
    present = seen.installed.get(goal.version)
    in_use = goal.version in seen.ready | kept(record)
    if in_use and (present is not None or not record.trusts(goal)):
        return GiveUp(
            model=wish.model,
            target=goal,
            reason_code=VERSION_CONFLICT,
            reason=(
                f"version {goal.version} is in use here with other bytes "
                f"({present or 'not put there by this agent'}); "
                "a version number never changes what it means"
            ),
        )
    return Fetch(
        model=wish.model,
        target=goal,
        reason=f"the files of version {goal.version} are not complete on this server",
    )
