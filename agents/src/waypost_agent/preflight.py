"""Whether a version can live here, from what it asks and what this machine has.

Pure: numbers in, a verdict with all of them out. What nobody knows refuses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from waypost_agent.errors import (
    BACKEND_MISSING,
    HARDWARE_INCOMPATIBLE,
    MEMORY_INSUFFICIENT,
    TRITON_TOO_OLD,
)
from waypost_agent.requires import Requires, numbers
from waypost_agent.situation import SURGE, Fit

GB = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Gpu:
    name: str
    compute_capability: str | None = None
    driver: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is known of a machine and its server. `backends` None: nobody could look; `gpus` None
    too, and an empty one: there is none."""

    triton_version: str | None = None
    backends: frozenset[str] | None = None
    gpus: tuple[Gpu, ...] | None = None
    memory_free_bytes: int | None = None
    memory_total_bytes: int | None = None


class MachineLook(Protocol):
    """Who can look at a machine."""

    def look(self) -> Machine:
        """Everything but the server's own version."""
        ...

    def used_bytes(self) -> tuple[int | None, int | None]:
        """Memory in use now, of the host and of all its GPUs."""
        ...


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What loading a version took on this hardware; of memory the least that was ever seen, since
    whatever else grew meanwhile was seen too. None: not seen."""

    load_seconds: float | None = None
    memory_bytes: int | None = None
    accelerator_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """Can `version` be loaded while `serving` (None: nothing) is, or in its place?"""

    version: str
    requires: Requires
    learned: Learned
    serving: str | None
    serving_learned: Learned
    switch: str


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """One kind of memory: what is needed and why, what there is, what the serving version frees."""

    kind: str
    where: str
    needed: int | None
    because: str
    free: int | None
    total: int | None
    freed: int | None


def judge(question: Question, machine: Machine) -> Fit:
    """The first reason why not; else whether both versions find memory together."""
    return (
        _judge_server(question, machine)
        or _judge_hardware(question, machine)
        or _judge_memory(question, machine)
    )


def missing_backends(wanted: Sequence[str], machine: Machine) -> str:
    """The sentence about those that the server has not; nothing where it has all or nobody knows.
    The backend of ensembles is part of every server."""
    if machine.backends is None:
        return ""
    missing = [name for name in wanted if name not in machine.backends and name != "ensemble"]
    if not missing:
        return ""
    has = ", ".join(sorted(machine.backends)) or "none"
    return f"it needs the backend {', '.join(missing)}; this server has {has}"


def _judge_server(question: Question, machine: Machine) -> Fit | None:
    least, has = question.requires.triton, machine.triton_version
    if least is not None and has is not None and _is_older(has, least):
        return Fit(
            reason_code=TRITON_TOO_OLD,
            reason=f"version {question.version} requires Triton {least} or newer, "
            f"this server is {has}",
        )
    if fault := missing_backends(question.requires.backends, machine):
        return Fit(reason_code=BACKEND_MISSING, reason=f"version {question.version}: {fault}")
    return None


def _judge_hardware(question: Question, machine: Machine) -> Fit | None:
    requires, gpus, version = question.requires, machine.gpus, question.version
    needs_gpu = (
        requires.compute_capability
        or requires.compute_capability_exact
        or requires.driver
        or requires.accelerator_memory_bytes
    )
    if not needs_gpu or gpus is None:
        return None
    if not gpus:
        return Fit(
            reason_code=HARDWARE_INCOMPATIBLE,
            reason=f"version {version} requires an accelerator, this machine has none",
        )
    has = ", ".join(f"{gpu.compute_capability} ({gpu.name})" for gpu in gpus)
    least, exact = requires.compute_capability, requires.compute_capability_exact
    if least is not None and _all_older([gpu.compute_capability for gpu in gpus], least):
        return Fit(
            reason_code=HARDWARE_INCOMPATIBLE,
            reason=f"version {version} requires compute capability {least} or higher, "
            f"this machine has {has}",
        )
    if exact is not None and all(gpu.compute_capability not in (None, exact) for gpu in gpus):
        return Fit(
            reason_code=HARDWARE_INCOMPATIBLE,
            reason=f"version {version} is built for compute capability {exact} and runs on no "
            f"other, this machine has {has}",
        )
    if requires.driver is not None and _all_older([gpu.driver for gpu in gpus], requires.driver):
        drivers = ", ".join(sorted({gpu.driver or "" for gpu in gpus}))
        return Fit(
            reason_code=HARDWARE_INCOMPATIBLE,
            reason=f"version {version} requires a driver of {requires.driver} or newer, "
            f"this machine has {drivers}",
        )
    return None


def _all_older(has: Sequence[str | None], least: str) -> bool:
    """False where one is not known."""
    return all(each is not None and _is_older(each, least) for each in has)


def _judge_memory(question: Question, machine: Machine) -> Fit:
    both: bool | None = True
    reason = ""
    for memory in (_of_gpu(question, machine), _of_host(question, machine)):
        if memory.needed is None or memory.free is None:
            both = None if both else both
            continue
        if memory.needed <= memory.free:
            continue
        both, reason = False, _sentence(question, memory)
        if not _finds_room_alone(question, memory):
            return Fit(reason_code=MEMORY_INSUFFICIENT, reason=reason, beside=False)
    return Fit(beside=both, reason=reason)


def _finds_room_alone(question: Question, memory: _Memory) -> bool:
    """Whether it is enough when what serves is unloaded, or nobody can say."""
    if question.switch == SURGE or question.serving is None:
        return False
    alone = _alone(memory)
    return alone is None or memory.needed is None or memory.needed <= alone


def _alone(memory: _Memory) -> int | None:
    """What is free once what serves is unloaded; without a better number, all there is."""
    if memory.freed is None or memory.free is None:
        return memory.total
    return memory.free + memory.freed


def _of_gpu(question: Question, machine: Machine) -> _Memory:
    known = [gpu for gpu in machine.gpus or () if gpu.free_bytes is not None]
    is_whole = machine.gpus is not None and len(known) == len(machine.gpus)
    best = max(known, key=lambda gpu: gpu.free_bytes or 0, default=None) if is_whole else None
    needed, because = _need(
        question.requires.accelerator_memory_bytes, question.learned.accelerator_memory_bytes
    )
    return _Memory(
        kind="accelerator memory",
        where="" if best is None else f" on {best.name}",
        needed=needed,
        because=because,
        free=None if best is None else best.free_bytes,
        total=None if best is None else best.total_bytes,
        freed=question.serving_learned.accelerator_memory_bytes,
    )


def _of_host(question: Question, machine: Machine) -> _Memory:
    needed, because = _need(question.requires.memory_bytes, question.learned.memory_bytes)
    return _Memory(
        kind="memory",
        where="",
        needed=needed,
        because=because,
        free=machine.memory_free_bytes,
        total=machine.memory_total_bytes,
        freed=question.serving_learned.memory_bytes,
    )


def _need(required: int | None, learned: int | None) -> tuple[int | None, str]:
    if required is None and learned is None:
        return None, ""
    if learned is None or (required is not None and required >= learned):
        return required, "by its manifest"
    return learned, "as its last load here took"


def _sentence(question: Question, memory: _Memory) -> str:
    total = "" if memory.total is None else f" of {_gb(memory.total)}"
    said = (
        f"version {question.version} needs {_gb(memory.needed or 0)} of {memory.kind} "
        f"({memory.because}), {_gb(memory.free or 0)}{total} are free{memory.where}"
    )
    if question.serving is None:
        return said
    alone = _alone(memory)
    if alone is None or question.switch == SURGE:
        return f"{said} beside version {question.serving}"
    return f"{said} beside version {question.serving} and {_gb(alone)} without it"


def _gb(size: int) -> str:
    return f"{size / GB:.2f} GB"


def _is_older(has: str, least: str) -> bool:
    """False also for what cannot be compared."""
    try:
        return numbers(has) < numbers(least)
    except ValueError:
        return False
