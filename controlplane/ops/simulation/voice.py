"""In which phase an agent says a model is: the rules of the agent's `phases.py`, without its words.

Pure."""

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.ops.simulation.rows import Said

_PHASES: dict[type[d.Action], str] = {
    d.Fetch: "downloading",
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
    said = Said(
        model=wish.model,
        generation=wish.generation,
        phase=_phase(wish, record, seen, action, is_resting, before),
        serving=None if serving is None else int(serving),
        healthy=verdict.passed if judged and verdict is not None else None,
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
    failure = d.failure_for(wish, record)
    if is_resting:
        restoring = isinstance(action, d.Switch) and action.restoring
        return "failed" if restoring and failure is not None else "pending"
    if failure is not None and _is_out_of_the_way(record, seen, action):
        return "failed"
    said = before.phase if before and before.generation == wish.generation else "pending"
    if isinstance(action, d.Wait):
        return said if action.reason_code == "working" and said in _MOVING else "pending"
    return _PHASES.get(type(action), said)


def _is_out_of_the_way(record: sit.Record, seen: sit.Observed, action: d.Action) -> bool:
    if not isinstance(action, d.Wait | d.UnloadCandidate | d.Prune):
        return False
    committed, verdict = record.committed, seen.verdict
    if committed is None:
        return seen.triton_live and not seen.ready
    restored = verdict is not None and verdict.passed and verdict.version == committed.version
    return restored and seen.ready == {committed.version}
