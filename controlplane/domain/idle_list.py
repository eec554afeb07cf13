"""What is paid for and idle: what to do about it, what that would save, and whether peaks allow it.

A mean says what is idle, its peaks whether it may go: what is needed for an hour a week is needed.
Hours that nobody measured forbid it too. It must not know rows, the clock, or what else runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from controlplane.domain.utilisation import (
    HOURS_A_MONTH,
    AcceleratorUse,
    ModelUse,
    Tariff,
    amount,
    share,
)


class Action(StrEnum):
    POWER_DOWN = "power-down"
    CONSOLIDATE = "consolidate"
    RIGHT_SIZE = "right-size"


@dataclass(frozen=True, kw_only=True)
class IdleRules:
    """`idle`: a mean busy share under which something is worth looking at. `target`: what a peak
    may come to after the change. `full`: what memory may. `peak` is the quantile of the hourly
    peaks that must fit (1: the highest), asked of at least `hours` hours of which `measured` are
    known. `nothing`: a busy share that is none."""

    idle: float = 0.3
    target: float = 0.7
    full: float = 0.9
    peak: float = 1.0
    hours: int = 168
    measured: float = 0.95
    nothing: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Idle:
    """One line of the list. `refused` says why it may not be done, and there is no saving then.
    `saving_per_month` is None where no price is known, or where only memory is freed."""

    site: str
    accelerator: str
    action: Action
    model: str = ""
    to: str = ""
    sentence: str
    refused: str = ""
    saving_per_month: float | None = None
    memory_freed_bytes: float | None = None


def idle_list(
    accelerators: Sequence[AcceleratorUse],
    models: Sequence[ModelUse],
    tariffs: Mapping[str, Tariff],
    rules: IdleRules | None = None,
) -> tuple[Idle, ...]:
    """The largest savings first, then what frees memory only, then what is refused. `tariffs` by
    site. What serves nobody may be powered down; what does little is consolidated onto another of
    its kind at its site, each accelerator once; models with more instances than their peaks need
    are made smaller."""
    rules = rules or IdleRules()
    found = list(_accelerators(accelerators, models, tariffs, rules))
    down = {
        (line.site, line.accelerator)
        for line in found
        if line.action is Action.POWER_DOWN and not line.refused
    }
    for model in models:
        line = _right_size(model, rules)
        if line and (model.site, model.accelerator) not in down:
            found.append(line)
    return tuple(
        sorted(
            found,
            key=lambda line: (
                bool(line.refused),
                -(line.saving_per_month or 0.0),
                -(line.memory_freed_bytes or 0.0),
                line.site,
                line.accelerator,
                line.model,
            ),
        )
    )


def saving_per_month(use: AcceleratorUse, tariff: Tariff) -> float | None:
    """Its price, and what it takes doing nothing; of what is known of these."""
    watts = amount(use.idle_watts)
    parts = [
        None if use.price_per_hour is None else use.price_per_hour * HOURS_A_MONTH,
        tariff.price_of(None if watts is None else watts * HOURS_A_MONTH * 3600),
    ]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def peak_of(hourly: Sequence[float | None], rules: IdleRules) -> tuple[float | None, str]:
    """The peak that must fit, or None and why the hours do not say."""
    known = sorted(peak for value in hourly if (peak := share(value)) is not None)
    if len(hourly) < rules.hours or len(known) < rules.measured * len(hourly):
        return None, f"{len(known)} of {max(len(hourly), rules.hours)} hours are measured"
    return known[ceil(rules.peak * len(known)) - 1], ""


# Whole accelerators


@dataclass(kw_only=True)
class _Room:
    """What an accelerator has come to, with those moved onto it so far."""

    use: AcceleratorUse
    hourly: list[float | None]
    memory: float | None
    is_host: bool = False
    is_gone: bool = False

    @property
    def busy(self) -> float | None:
        return share(self.use.busy)

    def takes(self, other: "_Room") -> None:
        self.hourly, self.memory = _hourly_of(self, other), _memory_of(self, other)
        self.is_host, other.is_gone = True, True


def _hourly_of(one: _Room, other: _Room) -> list[float | None]:
    """At most: the two need not have their peaks at the same minute."""
    if len(one.hourly) != len(other.hourly):
        return []
    return [
        None if a is None or b is None else min(a + b, 1.0)
        for a, b in zip(map(share, one.hourly), map(share, other.hourly), strict=True)
    ]


def _memory_of(one: _Room, other: _Room) -> float | None:
    return None if one.memory is None or other.memory is None else one.memory + other.memory


def _accelerators(
    accelerators: Sequence[AcceleratorUse],
    models: Sequence[ModelUse],
    tariffs: Mapping[str, Tariff],
    rules: IdleRules,
) -> Iterator[Idle]:
    rooms = [
        _Room(use=use, hourly=list(use.hourly_busy), memory=amount(use.memory_used_bytes))
        for use in accelerators
    ]
    little = [(room.busy, room) for room in rooms if room.busy is not None]
    for busy, room in sorted(little, key=lambda pair: (pair[0], pair[1].use.name)):
        use = room.use
        if busy >= rules.idle or room.is_host:
            continue
        saving = saving_per_month(use, tariffs.get(use.site, Tariff()))
        here = [each for each in models if (each.site, each.accelerator) == (use.site, use.name)]
        if busy <= rules.nothing and all(each.is_idle for each in here):
            line = _power_down(use, len(here), saving, rules)
            room.is_gone = not line.refused
            yield line
            continue
        beside = [
            other
            for other in rooms
            if other is not room and not other.is_gone and _kind(other) == _kind(room)
        ]
        if beside:
            yield _consolidate(room, beside, saving, rules)


def _kind(room: _Room) -> tuple[str, str]:
    return room.use.site, room.use.kind


def _power_down(use: AcceleratorUse, idle: int, saving: float | None, rules: IdleRules) -> Idle:
    peak, unknown = peak_of(use.hourly_busy, rules)
    held = f", and holds {idle} that nobody asked" if idle else ""
    what = f"{use.name} at {use.site} served no model in {use.hours:.0f} h{held}"
    why = unknown
    if peak is not None and peak > rules.nothing:
        why = f"at its peak it is busy for {peak:.0%}"
    return Idle(
        site=use.site,
        accelerator=use.name,
        action=Action.POWER_DOWN,
        sentence=f"{what}: {f'not to be powered down, {why}' if why else 'power it down'}",
        refused=why,
        saving_per_month=None if why else saving,
    )


def _consolidate(
    room: _Room, beside: Sequence[_Room], saving: float | None, rules: IdleRules
) -> Idle:
    """Onto the busiest that has room, so that the others may be freed too."""
    use = room.use
    what = f"{use.name} at {use.site} is busy for {room.busy or 0:.0%}"
    refusals = []
    for other in sorted(beside, key=lambda each: (-(each.busy or 0.0), each.use.name)):
        why, peak = _does_not_fit(room, other, rules)
        if why:
            refusals.append(f"{other.use.name}: {why}")
            continue
        other.takes(room)
        return Idle(
            site=use.site,
            accelerator=use.name,
            action=Action.CONSOLIDATE,
            to=other.use.name,
            sentence=f"{what}: move its models onto {other.use.name}, which then comes to "
            f"{peak:.0%} at its peak, and power it down",
            saving_per_month=saving,
        )
    why = "; ".join(refusals[:3])
    return Idle(
        site=use.site,
        accelerator=use.name,
        action=Action.CONSOLIDATE,
        sentence=f"{what}, and no other takes its models: {why}",
        refused=why,
    )


def _does_not_fit(room: _Room, other: _Room, rules: IdleRules) -> tuple[str, float]:
    """Why not, or the peak that both come to."""
    peak, unknown = peak_of(_hourly_of(room, other), rules)
    if peak is None:
        return unknown, 0.0
    if peak > rules.target:
        return f"together they come to {peak:.0%} at their peak, over {rules.target:.0%}", peak
    memory, whole = _memory_of(room, other), amount(other.use.memory_total_bytes)
    if memory is None or not whole:
        return "how much memory they hold is not reported", peak
    if memory > rules.full * whole:
        return f"together they hold {memory / 1e9:.3g} GB of {whole / 1e9:.3g} GB", peak
    return "", peak


# Instances


def _right_size(model: ModelUse, rules: IdleRules) -> Idle | None:
    """None where it is no candidate: busy enough, one instance, or not known."""
    busy = share(model.occupancy)
    if busy is None or busy >= rules.idle or not model.instances or model.instances < 2:
        return None
    what = (
        f"{model.model} version {model.version} at {model.site} keeps {model.instances} instances "
        f"busy for {busy:.0%}"
    )
    peak, why = peak_of(model.hourly_occupancy, rules)
    needed = model.instances
    if peak is not None:
        needed = max(1, ceil(model.instances * peak / rules.target - 1e-9))
        if needed >= model.instances:
            why = f"at its peak they are busy for {peak:.0%}"
    memory = amount(model.memory_bytes)
    freed = None if memory is None else memory * (1 - needed / model.instances)
    return Idle(
        site=model.site,
        accelerator=model.accelerator,
        action=Action.RIGHT_SIZE,
        model=model.model,
        sentence=f"{what}: {f'all stay, {why}' if why else f'{needed} do for its peak'}",
        refused=why,
        memory_freed_bytes=None if why else freed,
    )
