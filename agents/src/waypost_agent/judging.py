"""What is still to be learnt of the version that serves, and what its verdict says of the wish.

Pure, as `decide` is, which asks it.
"""

from __future__ import annotations

from waypost_agent.actions import Action, GiveUp, Settled, Verify, Wait
from waypost_agent.errors import PROBATION, PROBATION_FAILED
from waypost_agent.situation import Failure, Observed, Record, Target, Verdict, Wish


def judge(wish: Wish, record: Record, seen: Observed, goal: Target) -> Action | None:
    """What is still to be learnt of the version that serves, None when the verdict is there."""
    verdict = seen.verdict
    is_heard = verdict is not None and verdict.version == goal.version
    if is_heard and record.committed == goal:
        return None
    on_trial = record.committed != goal and goal == wish.target and wish.probation.seconds > 0
    verify = Verify(
        model=wish.model,
        target=goal,
        commits=not on_trial,
        reason=f"version {goal.version} is loaded; its golden requests are replayed on it",
    )
    if not on_trial or not is_heard or seen.watch is None or seen.watch.begins_anew:
        return verify
    if seen.watch.breach:
        return GiveUp(
            model=wish.model,
            target=goal,
            reason_code=PROBATION_FAILED,
            reason=f"version {goal.version} failed its probation: {seen.watch.breach}",
        )
    if not seen.watch.is_over:
        return Wait(model=wish.model, reason_code=PROBATION, reason=seen.watch.sentence)
    return Verify(
        model=wish.model,
        target=goal,
        reason=f"the probation of version {goal.version} is over; {seen.watch.sentence}",
    )


def settle(wish: Wish, record: Record, seen: Observed, failure: Failure | None) -> Settled:
    verdict = seen.verdict
    assert verdict is not None  # _verify asks for one first
    if failure is not None:
        restored = verdict.passed
        return Settled(
            model=wish.model,
            succeeded=False,
            reason_code=failure.reason_code if restored else "restore-failed",
            reason=_with_note(failure.reason, verdict)
            if restored
            else f"{failure.reason}; then {verdict.reason}",
        )
    if verdict.passed and (damage := seen.damaged.get(verdict.version)) is not None:
        beside = "is fetched" if verdict.version in seen.unmended else "lies"
        return Settled(
            model=wish.model,
            succeeded=True,
            reason_code="digest-mismatch",
            reason=(
                f"version {verdict.version} serves from memory and answers rightly, but on disk "
                f"{damage}; a sound copy {beside} beside it for the next load"
            ),
        )
    reason = _with_note(verdict.reason, verdict)
    return Settled(
        model=wish.model,
        succeeded=verdict.passed,
        reason_code=verdict.reason_code,
        reason=f"{reason}; {seen.fit.note}" if seen.fit.note else reason,
    )


def _with_note(sentence: str, verdict: Verdict) -> str:
    return f"{sentence}; {verdict.note}" if verdict.note else sentence
