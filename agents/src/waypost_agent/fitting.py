"""Asks whether the wished version may live on this machine, and whether it can.

Decides when to ask what: the site's own rule always, the machine before something is loaded.
Afterwards it is itself what fills the memory.
"""

from __future__ import annotations

from dataclasses import replace

from waypost_agent.bundles import Bundles
from waypost_agent.decide import failure_for
from waypost_agent.learned import LearnedBook
from waypost_agent.manifest import Manifest
from waypost_agent.observe import ServerView
from waypost_agent.preflight import Learned, MachineLook, Question, judge
from waypost_agent.protocol import CANDIDATE_SUFFIX, ModelWish
from waypost_agent.situation import LOADING, READY, UNLOADING, Fit, Record, Target, Wish
from waypost_agent.trust import Trust

_IN_MEMORY = (READY, LOADING, UNLOADING)


class Fitting:
    def __init__(
        self, machine: MachineLook, learned: LearnedBook, bundles: Bundles, trust: Trust
    ) -> None:
        self._bundles = bundles
        self._trust = trust
        self._machine = machine
        self._learned = learned

    def look(self, wish: Wish, entry: ModelWish, record: Record, server: ServerView) -> Fit:
        """Whether it fits, and how; an empty answer when it is not the time to ask."""
        target, manifest = wish.target, entry.manifest
        if manifest is None or target is None or failure_for(wish, record) is not None:
            return Fit()
        rule = self._rule(wish.model, target, entry, manifest, record)
        if rule.reason_code or not _is_time(wish, record, server):
            return rule
        committed = record.committed
        loaded = server.index.get(wish.model, {})
        serves = any(version.state == READY for version in loaded.values())
        serving = committed if serves else None
        question = Question(
            version=target.version,
            requires=manifest.requires,
            learned=self._learned.of(manifest.digest),
            serving=None if serving is None else serving.version,
            serving_learned=Learned() if serving is None else self._learned.of(serving.digest),
            switch=wish.switch,
        )
        fit = judge(question, replace(self._machine.look(), triton_version=server.version))
        return replace(fit, note=rule.note)

    def _rule(
        self, model: str, target: Target, entry: ModelWish, manifest: Manifest, record: Record
    ) -> Fit:
        """What this site's own rules say: who released it first, since the other one asks that."""
        trusted = self._trust.look(target, manifest, entry.signatures, committed=record.committed)
        if trusted.reason_code:
            return trusted
        allowed = self._bundles.look(model, target, manifest, record)
        notes = [fit.note for fit in (trusted, allowed) if fit.note]
        return replace(allowed, note="; ".join(notes))


def _is_time(wish: Wish, record: Record, server: ServerView) -> bool:
    target, room = wish.target, record.room
    if not server.live or target is None or record.committed == target:
        return False
    if room is not None and (room.epoch, room.generation) == wish.pair:
        return False
    loaded = server.index.get(wish.model, {})
    candidate = server.index.get(wish.model + CANDIDATE_SUFFIX, {})
    is_here = target.version in loaded and loaded[target.version].state in _IN_MEMORY
    return not is_here and not any(each.state in _IN_MEMORY for each in candidate.values())
