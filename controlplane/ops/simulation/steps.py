"""The agent's steps as its `act.py` carries them out, over the simulated server and disk.

Each is a generator: it yields the seconds until its next change, and a crash simply never resumes
it. Decides nothing about what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.ops.simulation.triton import CANDIDATE_SUFFIX

if TYPE_CHECKING:
    from controlplane.ops.simulation.agent import Agent

Steps = Iterator[float]
_FILES = 3
_WRITE_SECONDS = 0.05
_REPLAY_SECONDS = 2.0


class Retry(Exception):
    """It may pass: tried again later."""


class Refused(Exception):
    """The version failed here."""


class Paused(Exception):
    """A download stopped because something more urgent waits."""


def perform(agent: Agent, action: d.Action, wish: sit.Wish) -> Steps:
    match action:
        case d.Fetch():
            return _fetch(agent, action.target, wish)
        case d.Prove():
            return _prove(agent, action.target, wish)
        case d.Switch():
            return _switch(agent, action.target, wish)
        case d.Verify():
            return _verify(agent, action.target, wish)
        case d.GiveUp():
            return _fail(agent, wish, action.target, action.reason_code)
        case d.UnloadCandidate():
            return _clear_candidate(agent, action.model)
        case d.Unload():
            return _unload(agent, wish)
        case d.Retire():
            return _retire(agent, action.model)
        case d.Prune():
            return _prune(agent, action, wish)
    raise TypeError(f"not a step to perform: {action}")


def _fetch(agent: Agent, target: sit.Target, wish: sit.Wish) -> Steps:
    disk = agent.disk.of(wish.model)
    if target != wish.target:
        raise Retry("store-failed")  # without its manifest, which only a wish brings
    disk.leftovers |= {target.version}
    for _ in range(_FILES):
        yield agent.rng.uniform(0.5, 20.0)
        if agent.has_news():
            raise Paused
        if not agent.reaches_centre():
            raise Retry("download-failed")
    disk.recorded |= {target.version}
    yield _WRITE_SECONDS
    disk.installed = {**disk.installed, target.version: target.digest}
    disk.leftovers -= {target.version}


def _prove(agent: Agent, target: sit.Target, wish: sit.Wish) -> Steps:
    model = wish.model
    _begin_attempt(agent, wish, target)
    yield _WRITE_SECONDS
    agent.disk.of(model).has_candidate = True
    yield _WRITE_SECONDS
    try:
        yield from _load(agent, model, target.version, as_candidate=True)
        yield _REPLAY_SECONDS
        _require_ready(agent, model + CANDIDATE_SUFFIX, target.version)
        if not agent.triton.replay(model, as_candidate=True):
            raise Refused("candidate-failed")
    except Refused as refusal:
        yield _WRITE_SECONDS
        yield from _fail(agent, wish, target, str(refusal))
        yield from _clear_candidate(agent, model)
        return
    yield _WRITE_SECONDS
    yield from _clear_candidate(agent, model)
    record = agent.disk.record(model)
    proven = record.proven | {target.digest}
    agent.disk.records[model] = replace(record, proven=proven, attempts=None)


def _load(agent: Agent, model: str, version: str, *, as_candidate: bool) -> Steps:
    """Loads once and waits for the outcome."""
    boot = agent.triton.boot
    if not agent.triton.live:
        raise Retry("triton-unreachable")
    name = model + CANDIDATE_SUFFIX if as_candidate else model
    yield agent.triton.load(model, version, as_candidate=as_candidate) + 0.1
    if agent.triton.boot != boot:
        raise Retry("triton-unreachable")
    if agent.triton.ready.get(name) != version:
        raise Refused("load-failed")


def _require_ready(agent: Agent, name: str, version: str) -> None:
    if agent.triton.ready.get(name) != version:
        raise Retry("triton-unreachable")


def _clear_candidate(agent: Agent, model: str) -> Steps:
    if not agent.triton.live:
        raise Retry("triton-unreachable")
    agent.triton.unload(model + CANDIDATE_SUFFIX)
    yield _WRITE_SECONDS
    agent.disk.of(model).has_candidate = False
    yield _WRITE_SECONDS


def _begin_attempt(agent: Agent, wish: sit.Wish, target: sit.Target) -> None:
    record = agent.disk.record(wish.model)
    begun = record.attempts
    same = begun is not None and (begun.epoch, begun.generation, begun.target) == (
        wish.epoch,
        wish.generation,
        target,
    )
    attempts = sit.Attempts(
        epoch=wish.epoch,
        generation=wish.generation,
        target=target,
        count=begun.count + 1 if same and begun is not None else 1,
    )
    agent.disk.records[wish.model] = replace(record, attempts=attempts)


def _switch(agent: Agent, target: sit.Target, wish: sit.Wish) -> Steps:
    model = wish.model
    agent.verdicts.pop(model, None)
    if target != agent.disk.record(model).committed:
        _begin_attempt(agent, wish, target)
        agent.judge.switches(agent.site, wish)
    yield _WRITE_SECONDS
    try:
        yield from _load(agent, model, target.version, as_candidate=False)
    except Refused as refusal:
        yield from _fail(agent, wish, target, str(refusal))


def _verify(agent: Agent, target: sit.Target, wish: sit.Wish) -> Steps:
    model = wish.model
    yield _REPLAY_SECONDS
    _require_ready(agent, model, target.version)
    if not agent.triton.replay(model, as_candidate=False):
        yield _WRITE_SECONDS
        yield from _refuse_served(agent, target, wish)
        return
    yield _WRITE_SECONDS
    agent.disk.of(model).named = target.version
    yield _WRITE_SECONDS
    record = agent.disk.record(model)
    if record.committed != target:
        agent.disk.records[model] = replace(
            record,
            committed=target,
            previous=record.committed or record.previous,
            attempts=None,
            proven=record.proven | {target.digest},
        )
    yield _WRITE_SECONDS
    agent.note(model, target.version, passed=True)


def _refuse_served(agent: Agent, target: sit.Target, wish: sit.Wish) -> Steps:
    if target == agent.disk.record(wish.model).committed:
        agent.note(wish.model, target.version, passed=False)
        return
    if target == wish.target:
        yield from _fail(agent, wish, target, "golden-mismatch")
        return
    yield from _unload(agent, wish)
    record = agent.disk.record(wish.model)
    agent.disk.records[wish.model] = replace(record, proven=record.proven - {target.digest})


def _unload(agent: Agent, wish: sit.Wish) -> Steps:
    agent.verdicts.pop(wish.model, None)
    if not agent.triton.live:
        raise Retry("triton-unreachable")
    agent.triton.unload(wish.model)
    agent.judge.unloaded(agent.site, wish.model, is_wished=wish.target is None)
    yield _WRITE_SECONDS


def _retire(agent: Agent, model: str) -> Steps:
    agent.disk.of(model).named = None
    yield _WRITE_SECONDS
    record = agent.disk.record(model)
    agent.disk.records[model] = replace(record, committed=None, previous=record.committed)


def _prune(agent: Agent, action: d.Prune, wish: sit.Wish) -> Steps:
    disk = agent.disk.of(action.model)
    kept_for_return = wish.previous if wish.previous in disk.installed else None
    for version in sorted(action.versions, key=int):
        disk.installed = {v: digest for v, digest in disk.installed.items() if v != version}
        yield _WRITE_SECONDS
        disk.recorded -= {version}
    disk.leftovers = frozenset()
    agent.judge.pruned(agent.site, action.model, disk.installed, kept_for_return)


def _fail(agent: Agent, wish: sit.Wish, target: sit.Target, code: str) -> Steps:
    record = agent.disk.record(wish.model)
    if target == record.committed or target != wish.target:
        raise Retry(code)
    failure = sit.Failure(
        epoch=wish.epoch,
        generation=wish.generation,
        target=target,
        reason_code=code,
        reason=code,
    )
    agent.disk.records[wish.model] = replace(
        record, failed=failure, proven=record.proven - {target.digest}, attempts=None
    )
    agent.judge.given_up(agent.site, agent.catalogue.find(wish.model, target.version))
    yield _WRITE_SECONDS
