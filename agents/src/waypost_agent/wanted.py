"""What is wanted of each model, out of the centre's answers that are held. Pure."""

from __future__ import annotations

from waypost_agent.journal import Held
from waypost_agent.probation import Probation
from waypost_agent.protocol import Desired, ModelWish
from waypost_agent.situation import Target, Wish


def wishes_of(held: Held | None) -> list[tuple[int, ModelWish, bool]]:
    """Every wish in force with its epoch and whether the newest answer speaks of it."""
    if held is None:
        return []
    spoken = [(held.desired.epoch, entry, True) for entry in held.desired.models]
    return spoken + [(epoch, entry, False) for epoch, entry in held.absent]


def to_wish(epoch: int, entry: ModelWish, probation: Probation, *, corrects_drift: bool) -> Wish:
    """A wish as a decision stands on it; `probation` is the site's own, where it names none."""
    target = None
    if entry.version is not None and entry.manifest is not None:
        target = Target(version=entry.version, digest=entry.manifest.digest)
    return Wish(
        model=entry.model,
        epoch=epoch,
        generation=entry.generation,
        target=target,
        previous=entry.previous,
        lease_required=entry.lease_required,
        switch=entry.switch,
        probation=probation if entry.probation is None else entry.probation,
        corrects_drift=corrects_drift,
    )


def changed_since(before: Held | None, now: Desired) -> frozenset[str]:
    """The models of which something newer is wished."""
    known: dict[str, int] = {}
    if before is not None and before.desired.epoch == now.epoch:
        known = {wish.model: wish.generation for wish in before.desired.models}
    return frozenset(w.model for w in now.models if known.get(w.model) != w.generation)
