"""Decides the one next step for a model from what is wished, recorded and seen.

Pure: the standard library only, no clock, no randomness, no disk, no server. The loop carries
the step out, looks again and asks again, so a crash anywhere is cured by the next question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

# A version whose proof or switch ended without a verdict this often (server or agent died each
# time) is given up: one that kills the server must not take the site down for ever.
MAX_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Action:
    """One step; `reason` is a sentence for an operator."""

    model: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Wait(Action):
    reason_code: str


@dataclass(frozen=True, kw_only=True)
class UnloadCandidate(Action):
    """Unload what a proof left behind and remove its folder."""


@dataclass(frozen=True, kw_only=True)
class Unload(Action):
    """Stop serving the model."""


@dataclass(frozen=True, kw_only=True)
class Retire(Action):
    """Forget the committed version of a model that is no longer served."""


@dataclass(frozen=True, kw_only=True)
class Fetch(Action):
    target: Target


@dataclass(frozen=True, kw_only=True)
class Mend(Action):
    """Fetch a sound copy of a version that rotted on disk; `meanwhile` is how the model stands."""

    target: Target
    is_loaded: bool
    meanwhile: Settled


@dataclass(frozen=True, kw_only=True)
class AskLease(Action):
    """Ask the centre whether Triton may be touched with `target` now."""

    target: Target


@dataclass(frozen=True, kw_only=True)
class Prove(Action):
    target: Target


@dataclass(frozen=True, kw_only=True)
class Switch(Action):
    """Let the real model serve `target` alone. `restoring`: it is not what is wished."""

    target: Target
    restoring: bool


@dataclass(frozen=True, kw_only=True)
class Verify(Action):
    target: Target


@dataclass(frozen=True, kw_only=True)
class GiveUp(Action):
    """Write down that the wished version failed."""

    target: Target
    reason_code: str


@dataclass(frozen=True, kw_only=True)
class Prune(Action):
    """Remove version folders and leftovers that nothing needs."""

    versions: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Settled(Action):
    """Nothing to do. `succeeded` says whether the wish is fulfilled."""

    succeeded: bool
    reason_code: str


def decide(wish: Wish, record: Record, seen: Observed) -> Action:
    """The next step for one model, or the question that must be asked before it."""
    action = _next_step(wish, record, seen)
    if not needs_lease(action, wish, record, seen) or _has_lease(wish, seen):
        return action
    assert wish.target is not None  # only steps towards it need a lease
    committed = record.committed
    if (
        isinstance(action, Switch)
        and committed is not None
        and seen.holds(committed)
        and seen.ready != {committed.version}
    ):
        # A server that came back without it: users are not left alone until the centre answers.
        return _switch(wish, record, seen, committed, None)
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
    if isinstance(action, Switch) and not action.restoring:
        return action.target != record.committed and action.target.version not in seen.ready
    return isinstance(action, Prove)


def _serves_unheard(record: Record, seen: Observed) -> bool:
    """The committed version serves alone, and nobody has heard yet whether it answers rightly."""
    committed, verdict = record.committed, seen.verdict
    if committed is None or not seen.holds(committed) or seen.ready != {committed.version}:
        return False
    return verdict is None or verdict.version != committed.version


def _has_lease(wish: Wish, seen: Observed) -> bool:
    return seen.lease is not None and seen.lease.covers(wish)


def _next_step(wish: Wish, record: Record, seen: Observed) -> Action:
    """The order of these lines is the order of thought."""
    model = wish.model
    if not seen.triton_live:
        return Wait(model=model, reason_code="triton-unreachable", reason=seen.triton_reason)
    if (busy := _busy(model, model, seen.states)) is not None:
        return busy
    candidate_busy = _busy(model, "its candidate", seen.candidate_states)
    if candidate_busy is not None:
        # Its load may hang for ever: it holds up what needs its name or its files, nothing else.
        action = _decide_model(wish, record, seen)
        return candidate_busy if isinstance(action, Prove | Fetch) else action
    if seen.candidate_on_disk or READY in seen.candidate_states.values():
        return UnloadCandidate(
            model=model, reason="a proof was cut short; its candidate is removed first"
        )
    return _decide_model(wish, record, seen)


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

    base = goal if record.trusts(goal) and seen.holds(goal) else record.committed
    if base is not None and seen.holds(base) and seen.ready != {base.version}:
        return _switch(wish, record, seen, base, failure)
    if not seen.holds(goal):
        return _fetch(wish, record, seen, goal)
    if not record.trusts(goal):
        return _exhausted(wish, record, goal) or Prove(
            model=model,
            target=goal,
            reason=f"version {goal.version} must pass its golden requests before it answers users",
        )
    if (verify := _verify(wish, record, seen, goal)) is not None:
        return verify
    settled = _settle(wish, record, seen, failure)
    return _mend(wish, record, seen, settled) or _prune(wish, record, seen) or settled


def _busy(model: str, name: str, states: Mapping[str, str]) -> Wait | None:
    """Triton's rule: touch nothing of a model that is being loaded or unloaded."""
    for version, state in sorted(states.items()):
        if state in (LOADING, UNLOADING):
            reason = f"Triton is still {state.lower()} version {version} of {name}"
            return Wait(model=model, reason_code="working", reason=reason)
    return None


def failure_for(wish: Wish, record: Record) -> Failure | None:
    """The failure that answers this wish, None when there is none or the wish is newer."""
    failed = record.failed
    if failed is None or failed.target != wish.target:
        return None
    return failed if wish.pair <= (failed.epoch, failed.generation) else None


def _serve_nothing(wish: Wish, record: Record, seen: Observed) -> Action:
    if seen.ready:
        versions = ", ".join(sorted(seen.ready, key=int))
        return Unload(
            model=wish.model, reason=f"the centre wishes nothing served, {versions} is loaded"
        )
    if record.committed is not None:
        return Retire(model=wish.model, reason="nothing is served any more; the record follows")
    return _prune(wish, record, seen) or Settled(
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
    if failure.target.version in seen.ready:
        return Unload(
            model=wish.model,
            reason=f"version {failure.target.version} failed and there is none before it",
        )
    return _prune(wish, record, seen) or Settled(
        model=wish.model, succeeded=False, reason_code=failure.reason_code, reason=failure.reason
    )


def _switch(
    wish: Wish, record: Record, seen: Observed, base: Target, failure: Failure | None
) -> Action:
    if base != record.committed and (given_up := _exhausted(wish, record, base)) is not None:
        return given_up
    if base == wish.target:
        return Switch(
            model=wish.model,
            target=base,
            restoring=False,
            reason=f"version {base.version} is proven here and not yet the one that serves",
        )
    why = "nothing else may serve meanwhile" if failure is None else f"because {failure.reason}"
    return Switch(
        model=wish.model,
        target=base,
        restoring=True,
        reason=f"back to version {base.version}, the last verified one, {why}",
    )


def _fetch(wish: Wish, record: Record, seen: Observed, goal: Target) -> Action:
    present = seen.installed.get(goal.version)
    in_use = goal.version in seen.ready | _kept(record)
    if in_use and (present is not None or not record.trusts(goal)):
        return GiveUp(
            model=wish.model,
            target=goal,
            reason_code="version-conflict",
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


def _exhausted(wish: Wish, record: Record, goal: Target) -> GiveUp | None:
    begun = record.attempts
    if begun is None or begun.target != goal or (begun.epoch, begun.generation) != wish.pair:
        return None
    if begun.count < MAX_ATTEMPTS:
        return None
    return GiveUp(
        model=wish.model,
        target=goal,
        reason_code="candidate-failed",
        reason=(
            f"{begun.count} attempts with version {goal.version} ended without a verdict: "
            "Triton or the agent died each time"
        ),
    )


def _verify(wish: Wish, record: Record, seen: Observed, goal: Target) -> Verify | None:
    verdict = seen.verdict
    if verdict is not None and verdict.version == goal.version and record.committed == goal:
        return None
    return Verify(
        model=wish.model,
        target=goal,
        reason=f"version {goal.version} is loaded; its golden requests are replayed on it",
    )


def _settle(wish: Wish, record: Record, seen: Observed, failure: Failure | None) -> Settled:
    verdict = seen.verdict
    assert verdict is not None  # _verify asks for one first
    if failure is not None:
        restored = verdict.passed
        return Settled(
            model=wish.model,
            succeeded=False,
            reason_code=failure.reason_code if restored else "restore-failed",
            reason=failure.reason if restored else f"{failure.reason}; then {verdict.reason}",
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
    return Settled(
        model=wish.model,
        succeeded=verdict.passed,
        reason_code=verdict.reason_code,
        reason=verdict.reason,
    )


def _kept(record: Record) -> frozenset[str]:
    return frozenset(t.version for t in (record.committed, record.previous) if t is not None)


def _needed(wish: Wish, record: Record) -> frozenset[str]:
    """Versions that stay on disk whatever else goes."""
    target = None if wish.target is None else wish.target.version
    return _kept(record) | frozenset(v for v in (target, wish.previous) if v is not None)


def _mend(wish: Wish, record: Record, seen: Observed, meanwhile: Settled) -> Mend | None:
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


def _prune(wish: Wish, record: Record, seen: Observed) -> Prune | None:
    if _busy(wish.model, "its candidate", seen.candidate_states) is not None:
        return None  # its files are among them
    others = sorted(seen.recorded - _needed(wish, record) - seen.ready, key=int, reverse=True)
    sound = [version for version in others if version not in seen.damaged]
    spare = sound[: max(seen.keep_versions - 2, 0)]
    versions = frozenset(others) - frozenset(spare)
    if not versions and not seen.leftovers:
        return None
    named = ", ".join(sorted(versions | seen.leftovers))
    return Prune(model=wish.model, versions=versions, reason=f"nothing needs {named} any more")
