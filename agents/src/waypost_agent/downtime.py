"""How long a model that made room for its next version did not answer, over restarts too.

Decides words and seconds only; what is unloaded, and when, is not known here.
"""

from __future__ import annotations

from dataclasses import replace

from waypost_agent.clock import Clock
from waypost_agent.situation import Room, Target, Wish


def begin(before: Room | None, wish: Wish, target: Target, clock: Clock) -> Room:
    """Nobody is answered from here on. What the same wish cost before is counted in."""
    same = before is not None and (before.epoch, before.generation) == wish.pair
    if before is None or not same:
        return Room(
            epoch=wish.epoch,
            generation=wish.generation,
            target=target,
            count=1,
            boot_id=clock.boot_id(),
            since=clock.boottime(),
        )
    ended = end(before, clock)
    count = before.count + 1 if before.target == target else 1
    return replace(
        ended, target=target, count=count, boot_id=clock.boot_id(), since=clock.boottime()
    )


def end(room: Room, clock: Clock) -> Room:
    """Somebody answers again."""
    if room.since is None:
        return room
    away = room.away_seconds
    known = away is not None and room.boot_id == clock.boot_id()
    seconds = away + clock.boottime() - room.since if known and away is not None else None
    return replace(room, since=None, away_seconds=seconds)


def sentence(room: Room, clock: Clock) -> str:
    """For an operator, once something answers again."""
    seconds = end(room, clock).away_seconds
    if seconds is None:
        return "how long it did not answer is not known: this machine was started anew meanwhile"
    # Not written down as it happened: this agent was started anew meanwhile.
    at_most = "" if room.since is None else "at most "
    return f"it did not answer for {at_most}{seconds:.1f} s, as declared"
