"""How one version takes over from another: what must be put back, what must go first, how often.

Pure, as `decide` is, which asks it.
"""

from __future__ import annotations

from waypost_agent.actions import Action, Fetch, GiveUp, MakeRoom, Switch
from waypost_agent.errors import VERSION_CONFLICT
from waypost_agent.situation import AUTO, REPLACE, Failure, Observed, Record, Target, Wish

# A version whose proof or switch ended without a verdict this often (server or agent died each
# time) is given up: one that kills the server must not take the site down for ever.
MAX_ATTEMPTS = 5


def failure_for(wish: Wish, record: Record) -> Failure | None:
    """The failure that answers this wish, None when there is none or the wish is newer."""
    failed = record.failed
    if failed is None or failed.target != wish.target:
        return None
    return failed if wish.pair <= (failed.epoch, failed.generation) else None


def has_lease(wish: Wish, seen: Observed) -> bool:
    return seen.lease is not None and seen.lease.covers(wish)


def done_by_hand(wish: Wish, record: Record, seen: Observed) -> str:
    """What somebody loaded or unloaded who was not this agent, as a sentence; nothing where it is
    this agent's own unfinished work, or a server that was started anew."""
    committed, begun = record.committed, record.attempts
    is_settled = committed is not None and committed == wish.target
    is_replacing = record.room is not None and not record.room.is_over(committed)
    if committed is None or not is_settled or is_replacing or failure_for(wish, record):
        return ""
    others = seen.ready - {committed.version}
    if others:
        if begun is not None and begun.target.version in others:
            return ""
        versions = ", ".join(sorted(others, key=int))
        return f"version {versions} was loaded by hand, version {committed.version} is wished"
    if not seen.ready and committed.version in seen.unloaded:
        return f"version {committed.version} was unloaded by hand"
    return ""


def must_be_put(base: Target, goal: Target, wish: Wish, record: Record, seen: Observed) -> bool:
    """Whether `base` can serve and does not do so alone; but not what made room for the goal."""
    if not seen.holds(base) or seen.ready == {base.version}:
        return False
    return base == goal or not _has_room(wish, record, seen)


def _has_room(wish: Wish, record: Record, seen: Observed) -> bool:
    """Whether nothing serves because this very wish had it unloaded, and may go on."""
    room = record.room
    if room is None or seen.ready or failure_for(wish, record) is not None:
        return False
    if wish.target is None or not seen.holds(wish.target):
        return False  # a download may take hours: what served answers meanwhile
    may_go_on = not wish.lease_required or has_lease(wish, seen)
    return may_go_on and (room.epoch, room.generation, room.target) == (*wish.pair, wish.target)


def _replaces(wish: Wish, record: Record, seen: Observed) -> bool:
    """Whether two versions must not be in memory together."""
    if wish.switch != AUTO:
        return wish.switch == REPLACE
    room = record.room
    return seen.fit.beside is False or (
        room is not None and (room.epoch, room.generation) == wish.pair
    )


def make_room(wish: Wish, record: Record, seen: Observed, target: Target) -> Action | None:
    """What is to be unloaded before `target` can be loaded, None when nothing is."""
    if not seen.ready or target.version in seen.ready or not _replaces(wish, record, seen):
        return None
    room = record.room
    if target != record.committed and room is not None and room.count >= MAX_ATTEMPTS:
        same = (room.epoch, room.generation, room.target) == (*wish.pair, target)
        if same:
            return _given_up(wish, target, room.count)
    if target != record.committed:
        no_way_back = _secure_way_back(wish, record, seen, target)
        if no_way_back is not None:
            return no_way_back
    versions = ", ".join(sorted(seen.ready, key=int))
    declared = "as its rollout declares" if wish.switch == REPLACE else seen.fit.reason
    return MakeRoom(
        model=wish.model,
        target=target,
        reason=f"version {versions} is unloaded so that version {target.version} finds its memory"
        + (f": {declared}" if declared else ""),
    )


def _secure_way_back(wish: Wish, record: Record, seen: Observed, target: Target) -> Action | None:
    """What comes before anything is unloaded for a new version: should that fail, what serves now
    must come back from sound files. None when it can."""
    committed = record.committed
    if committed is None or committed.version not in seen.recorded:
        versions = ", ".join(sorted(seen.ready, key=int))
        return GiveUp(
            model=wish.model,
            target=target,
            reason_code=VERSION_CONFLICT,
            reason=f"version {versions} serves and was not put there by this agent, which could "
            f"not load it again should version {target.version} fail; unload it by hand or choose "
            "the switch surge",
        )
    if seen.holds(committed) and committed.version not in seen.unmended:
        return None
    return Fetch(
        model=wish.model,
        target=committed,
        reason=f"the files of version {committed.version} are not whole on this disk; they are the "
        f"way back should version {target.version} fail",
    )


def put_back(
    wish: Wish, record: Record, seen: Observed, base: Target, failure: Failure | None
) -> Action:
    """Let `base` serve: beside what serves now, or in its place."""
    switch = _switch(wish, record, seen, base, failure)
    if not isinstance(switch, Switch):
        return switch
    return make_room(wish, record, seen, base) or switch


def _switch(
    wish: Wish, record: Record, seen: Observed, base: Target, failure: Failure | None
) -> Action:
    if base != record.committed and (given_up := exhausted(wish, record, base)) is not None:
        return given_up
    if base == wish.target:
        return Switch(
            model=wish.model,
            target=base,
            restoring=False,
            reason=done_by_hand(wish, record, seen)
            or f"version {base.version} is proven here and not yet the one that serves",
        )
    why = "nothing else may serve meanwhile" if failure is None else f"because {failure.reason}"
    return Switch(
        model=wish.model,
        target=base,
        restoring=True,
        reason=f"back to version {base.version}, the last verified one, {why}",
    )


def exhausted(wish: Wish, record: Record, goal: Target) -> GiveUp | None:
    begun = record.attempts
    if begun is None or begun.target != goal or (begun.epoch, begun.generation) != wish.pair:
        return None
    return None if begun.count < MAX_ATTEMPTS else _given_up(wish, goal, begun.count)


def _given_up(wish: Wish, goal: Target, attempts: int) -> GiveUp:
    return GiveUp(
        model=wish.model,
        target=goal,
        reason_code="candidate-failed",
        reason=(
            f"{attempts} attempts with version {goal.version} ended without a verdict: "
            "Triton or the agent died each time"
        ),
    )
