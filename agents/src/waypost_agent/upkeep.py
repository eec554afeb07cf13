"""What is kept on disk, what is mended and what is removed, while nothing else is to be done.

Pure, as `decide` is, which asks it.
"""

from __future__ import annotations

from collections.abc import Mapping

from waypost_agent.actions import Mend, Prune, Settled, Wait
from waypost_agent.situation import LOADING, READY, UNLOADING, Observed, Record, Target, Wish


def busy(model: str, name: str, states: Mapping[str, str]) -> Wait | None:
    """Triton's rule: touch nothing of a model that is being loaded or unloaded."""
    for version, state in sorted(states.items()):
        if state in (LOADING, UNLOADING):
            reason = f"Triton is still {state.lower()} version {version} of {name}"
            return Wait(model=model, reason_code="working", reason=reason)
    return None


def kept(record: Record) -> frozenset[str]:
    return frozenset(t.version for t in (record.committed, record.previous) if t is not None)


def _needed(wish: Wish, record: Record) -> frozenset[str]:
    """Versions that stay on disk whatever else goes."""
    target = None if wish.target is None else wish.target.version
    return kept(record) | frozenset(v for v in (target, wish.previous) if v is not None)


def mend(wish: Wish, record: Record, seen: Observed, meanwhile: Settled) -> Mend | None:
    for version in sorted(seen.damaged.keys() & _needed(wish, record), key=int):
        is_loaded = version in seen.states and seen.states[version] in (READY, LOADING, UNLOADING)
        if version not in seen.installed or (is_loaded and version not in seen.unmended):
            continue
        return Mend(
            model=wish.model,
            target=Target(version=version, digest=seen.installed[version]),
            is_loaded=is_loaded,
            meanwhile=meanwhile,
            reason=f"version {version} rotted on disk: {seen.damaged[version]}",
        )
    return None


def prune(wish: Wish, record: Record, seen: Observed) -> Prune | None:
    in_motion = (seen.states, seen.candidate_states)
    if any(busy(wish.model, "it", states) is not None for states in in_motion):
        return None  # its files are among them
    others = sorted(seen.recorded - _needed(wish, record) - seen.ready, key=int, reverse=True)
    sound = [version for version in others if version not in seen.damaged]
    spare = sound[: max(seen.keep_versions - 2, 0)]
    versions = frozenset(others) - frozenset(spare)
    if not versions and not seen.leftovers:
        return None
    named = ", ".join(sorted(versions | seen.leftovers))
    return Prune(model=wish.model, versions=versions, reason=f"nothing needs {named} any more")
