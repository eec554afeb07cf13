"""In which phase an agent says a model is: the rules of the agent's `phases.py`, without its words.

Pure."""

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.ops.simulation.rows import Said

_PHASES: dict[type[d.Action], str] = {
    d.Fetch: "downloading",
    d.AskLease: "staged",
    d.Prove: "proving",
    d.UnloadCandidate: "proving",
    d.Switch: "activating",
    d.Unload: "activating",
    d.Verify: "verifying",
}
_MOVING = ("proving", "activating", "verifying")


def speak(
    wish: sit.Wish,
    record: sit.Record,
    seen: sit.Observed,
    action: d.Action,
    *,
    is_resting: bool,
    before: Said | None,
) -> Said:
    """What is reported of one model; the same object as before when nothing changed."""
    serving = seen.serving if seen.triton_live else None
    verdict = seen.verdict
    judged = verdict is not None and serving is not None and verdict.version == serving
    phase = _phase(wish, record, seen, action, is_resting, before)
    failure = d.failure_for(wish, record)
    said = Said(
        model=wish.model,
        generation=wish.generation,
        phase=phase,
        serving=None if serving is None else int(serving),
        healthy=verdict.passed if judged and verdict is not None else None,
        reason_code=failure.reason_code if failure is not None and phase == "failed" else "",
        lease=None if seen.lease is None or isinstance(action, d.Settled) else seen.lease.number,
    )
    return before if said == before and before is not None else said


def _phase(
    wish: sit.Wish,
    record: sit.Record,
    seen: sit.Observed,
    action: d.Action,
    is_resting: bool,
    before: Said | None,
) -> str:
    if isinstance(action, d.Settled):
        return "succeeded" if action.succeeded else "failed"
    if isinstance(action, d.AskLease):
        return "staged"
    failure = d.failure_for(wish, record)
    if is_resting:
        restoring = isinstance(action, d.Switch) and action.restoring
        return "failed" if restoring and failure is not None else "pending"
    if failure is not None and _is_out_of_the_way(record, seen, action):
        return "failed"
    if isinstance(action, d.Verify) and failure is None and action.target != wish.target:
        return "staged" if action.target == record.committed else "verifying"
    said = before.phase if before and before.generation == wish.generation else "pending"
    if isinstance(action, d.Wait):
        if action.reason_code != "working":
            return "pending"
        return (
            said
            if said in _MOVING
            else "activating"
            if _shows_its_switch(wish, seen)
            else "pending"
        )
    return _PHASES.get(type(action), said)


def _shows_its_switch(wish: sit.Wish, seen: sit.Observed) -> bool:
    """Triton is in the midst of a switch that began under a lease the agent forgot."""
    target, states = wish.target, seen.states
    if not wish.lease_required or target is None:
        return False
    moving = any(state in (sit.LOADING, sit.UNLOADING) for state in states.values())
    return moving and states.get(target.version) in (sit.LOADING, sit.READY)


def _is_out_of_the_way(record: sit.Record, seen: sit.Observed, action: d.Action) -> bool:
    if not isinstance(action, d.Wait | d.UnloadCandidate | d.Prune):
        return False
    committed, verdict = record.committed, seen.verdict
    if committed is None:
        return seen.triton_live and not seen.ready
    restored = verdict is not None and verdict.passed and verdict.version == committed.version
    return restored and seen.ready == {committed.version}
