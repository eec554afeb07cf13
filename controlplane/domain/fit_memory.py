"""Whether a build finds memory at a site: beside all that is loaded there, or only in place of the
version before it.

It must not know what else a build asks for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from controlplane.domain.fit_facts import (
    Answer,
    Check,
    Demand,
    Footprint,
    Loaded,
    Profile,
    size_text,
)


def judge_memory(demand: Demand, profile: Profile) -> tuple[list[Check], bool]:
    machine = profile.machine
    learned = demand.learned.get(profile.hardware, Footprint())
    gpus = machine.gpus or ()
    sizes = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    all_known = bool(gpus) and len(sizes) == len(gpus)
    checks, tight = [], False
    for name, kind, required, seen, alone, together, taken in (
        (
            "accelerator-memory",
            "accelerator memory",
            demand.requires.get("accelerator_memory_bytes"),
            learned.accelerator_memory_bytes if gpus else None,
            max(sizes) if all_known else None,
            sum(sizes) if all_known else None,
            lambda loaded: loaded.accelerator_memory_bytes,
        ),
        (
            "memory",
            "memory",
            demand.requires.get("memory_bytes"),
            learned.memory_bytes,
            machine.memory_bytes,
            machine.memory_bytes,
            lambda loaded: loaded.memory_bytes,
        ),
    ):
        need, because = _need(required, seen)
        if need:
            asked = _Memory(name=name, kind=kind, need=need, because=because)
            check, by_replace = _room(asked, alone, together, demand.model, profile.loaded, taken)
            checks.append(check)
            tight = tight or by_replace
    return checks, tight and all(check.verdict is not Answer.NO for check in checks)


@dataclass(frozen=True, kw_only=True)
class _Memory:
    name: str
    kind: str
    need: int
    because: str


def _need(required: object, seen: int | None) -> tuple[int, str]:
    least = required if isinstance(required, int) else 0
    if seen is not None and seen > least:
        return seen, "as loads on such hardware took"
    return least, "by its manifest"


def _room(
    asked: _Memory,
    alone: int | None,
    together: int | None,
    model: str,
    loaded: Iterable[Loaded],
    taken: Callable[[Loaded], int | None],
) -> tuple[Check, bool]:
    """Beside all that is loaded, and without the version it follows. What was never measured counts
    nothing: with more known it could only be tighter, so it is then not known to fit."""
    need = size_text(asked.need)
    asks = f"needs {need} of {asked.kind} ({asked.because})"
    if alone is None or together is None:
        said = f"{asks}; nobody said how much the site has"
        return _check(asked, Answer.UNKNOWN, "", said), False
    have = size_text(alone)
    if asked.need > alone:
        where = "its largest accelerator" if together > alone else "the site"
        return _check(asked, Answer.NO, have, f"{asks}, {where} has {have}"), False
    before = [taken(each) for each in loaded if each.model == model]
    others = [taken(each) for each in loaded if each.model != model]
    in_use = sum(size or 0 for size in others)
    replaced = sum(size or 0 for size in before)
    rest = f"{size_text(in_use)} are taken by other models" if in_use else f"the site has {have}"
    if asked.need + in_use > together:
        said = f"{asks}, of {size_text(together)} {rest}"
        return _check(asked, Answer.NO, have, said), False
    if asked.need + in_use + replaced > together:
        said = (
            f"{asks}; beside the version before it ({size_text(replaced)}) there is no room in "
            f"{size_text(together)}: it fits only by replace"
        )
        return _check(asked, Answer.OK, have, said), True
    if any(size is None for size in (*before, *others)):
        said = f"{asks}, {rest}; what else is loaded there was never measured"
        return _check(asked, Answer.UNKNOWN, have, said), False
    return _check(asked, Answer.OK, have, f"{asks}, {rest}"), False


def _check(asked: _Memory, verdict: Answer, have: str, said: str) -> Check:
    need = size_text(asked.need)
    return Check(name=asked.name, verdict=verdict, have=have, need=need, sentence=said)
