"""The steps that can be decided for a model, each with the sentence that says why.

Values only: `decide` chooses one, `act` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from waypost_agent.situation import Target


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
class MakeRoom(Action):
    """Unload what serves, so that `target` finds its memory: nobody is answered from here on."""

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
    """Replay the golden requests on what serves. Passed, it is the committed version, or, without
    `commits`, on probation."""

    target: Target
    commits: bool = True


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
