"""Where a pipeline's time goes, which step and resource bind it, and when that has moved.

Figures are of one window and one path through the sites. Thin, old or absurd evidence gives no
answer, with the reason. It must not know rows, the clock, or what would cure it (`relief.py`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from controlplane.domain.pipelines import Pipeline, Role, Step
from controlplane.domain.step_times import Pool, StepEvidence, StepTime, absurdity, step_time


class Resource(StrEnum):
    NETWORK = "network"
    QUEUE = "queue"
    PREPROCESSING = "preprocessing"
    COMPUTE = "compute"
    MEMORY = "memory"
    POWER = "power"


@dataclass(frozen=True, kw_only=True)
class BottleneckRules:
    """`busy`: instances of which more cannot be asked. `full`: memory or power at its limit.
    `near`: a link at its limit, where at least `notable` of the step's time is transfer. A move
    must hold for `windows`, or for `windows_if_clear` when the new binding step takes `clear` times
    as long as the one before it."""

    min_requests: int = 30
    stale_seconds: float = 600.0
    busy: float = 0.8
    full: float = 0.95
    near: float = 0.9
    notable: float = 0.25
    windows: int = 3
    windows_if_clear: int = 2
    clear: float = 1.5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What binds. `resource` None: inconclusive, and `sentence` says why; `step` may be known even
    then. `figures` are those the sentence rests on; `times` are of all steps that are measured."""

    step: str = ""
    resource: Resource | None = None
    sentence: str
    path: tuple[str, ...] = ()
    end_to_end_ms: float | None = None
    times: tuple[StepTime, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def time_of(self, step: str) -> StepTime | None:
        return next((time for time in self.times if time.step == step), None)


def find_bottleneck(
    pipeline: Pipeline,
    evidence: Mapping[str, StepEvidence],
    rules: BottleneckRules | None = None,
) -> Finding:
    """The step of the critical path that takes longest, and what it takes its time with."""
    rules = rules or BottleneckRules()
    sound = {
        step.name: evidence[step.name]
        for step in pipeline.steps
        if step.name in evidence and not absurdity(evidence[step.name])
    }
    times = tuple(
        step_time(step, sound[step.name]) for step in pipeline.steps if step.name in sound
    )
    if faults := list(_faults(pipeline, evidence, rules)):
        return Finding(sentence="; ".join(faults), times=times)
    by_step = {time.step: time.total_ms for time in times}
    path = pipeline.critical_path(by_step)
    whole = sum(by_step[name] for name in path)
    if not whole:
        return Finding(sentence="no step takes any time", times=times, path=path)
    binding = max(path, key=lambda name: by_step[name])
    time = next(time for time in times if time.step == binding)
    resource, why, figures = _resource(pipeline.step(binding), time, sound[binding], rules)
    unmeasured = sorted({f"{part} of {each.step}" for each in times for part in each.unknown})
    beside = f"; not known: {', '.join(unmeasured)}" if unmeasured else ""
    return Finding(
        step=binding,
        resource=resource,
        sentence=f"{binding} takes {_ms(time.total_ms)} of {_ms(whole)} "
        f"({time.total_ms / whole:.0%}): {why}{beside}",
        path=path,
        end_to_end_ms=whole,
        times=times,
        figures={"share_of_path": time.total_ms / whole, **figures},
    )


# Whether the evidence is good for anything


def _faults(
    pipeline: Pipeline, evidence: Mapping[str, StepEvidence], rules: BottleneckRules
) -> Iterator[str]:
    """A step nobody knows anything of may be the one that binds."""
    for step in pipeline.steps:
        found = evidence.get(step.name)
        if found is None:
            yield f"nothing is measured of step {step.name}"
        elif absurd := absurdity(found):
            yield f"step {step.name}: {absurd}"
        elif found.age_seconds > rules.stale_seconds:
            yield f"the newest figures of step {step.name} are {found.age_seconds:.0f} s old"
        elif found.requests < rules.min_requests:
            yield (
                f"step {step.name} had {found.requests} requests, "
                f"{rules.min_requests} are asked for"
            )
        elif found.infer_ms is None or (found.queue_ms is None and not step.service):
            yield f"the times of step {step.name} are not reported"


# What the binding step takes its time with


Verdict = tuple[Resource | None, str, dict[str, float]]


def _resource(
    step: Step, time: StepTime, evidence: StepEvidence, rules: BottleneckRules
) -> Verdict:
    shares = time.shares
    groups = {
        Resource.NETWORK: shares["transfer"],
        Resource.QUEUE: shares["queue"],
        Resource.PREPROCESSING: shares["input"],
        Resource.COMPUTE: shares["compute"] + shares["output"],
    }
    if step.role is Role.PREPROCESS:
        groups[Resource.PREPROCESSING] += groups.pop(Resource.COMPUTE)
    largest = max(groups, key=lambda group: groups[group])
    share, used = groups[Resource.NETWORK], evidence.link_share
    if used is not None and used >= rules.near and share >= rules.notable:
        why = f"transfer is {share:.0%} of it and the link is {used:.0%} used"
        return Resource.NETWORK, why, {"transfer_share": share, "link_share": used}
    if largest is Resource.NETWORK:
        return Resource.NETWORK, f"transfer is {share:.0%} of it", {"transfer_share": share}
    if largest is Resource.QUEUE:
        return _queue(shares["queue"], evidence, rules)
    share = groups[largest]
    if largest is Resource.PREPROCESSING:
        what = "preparing the input" if step.role is Role.PREPROCESS else "the model's input"
        return largest, f"{what} is {share:.0%} of it", {"preprocessing_share": share}
    why, figures = f"computing is {share:.0%} of it", {"compute_share": share}
    power = evidence.pool.power_share if evidence.pool else None
    if power is not None and power >= rules.full:
        why += f", at {power:.0%} of the power that it may take"
        return Resource.POWER, why, figures | {"power_share": power}
    return largest, why, figures


def _queue(share: float, evidence: StepEvidence, rules: BottleneckRules) -> Verdict:
    """Waiting is for instances only where they are busy; and more of them help only where the
    accelerator has room."""
    busy = evidence.busy
    figures = {"queue_share": share}
    waiting = f"waiting is {share:.0%} of it"
    if busy is None:
        return None, f"{waiting}, but how busy the instances are is not known", figures
    figures["occupancy"] = busy
    if busy < rules.busy:
        why = (
            f"{waiting}, but the instances are busy for {busy:.0%} of the time: a delay to "
            "fill batches, or bursts shorter than the window"
        )
        return None, why, figures
    waiting += f", with the instances busy for {busy:.0%} of the time"
    pool = evidence.pool or Pool()
    for resource, name, used in (
        (Resource.POWER, "power", pool.power_share),
        (Resource.MEMORY, "memory", pool.memory_share),
        (Resource.COMPUTE, "accelerator's time", pool.utilization),
    ):
        if used is not None and used >= rules.full:
            figures[f"{resource}_share"] = used
            return resource, f"{waiting} and {used:.0%} of the {name} taken", figures
    if pool.utilization is None:
        return Resource.QUEUE, f"{waiting}; how busy the accelerator is, is not known", figures
    figures["utilization"] = pool.utilization
    room = f"; the accelerator, busy for {pool.utilization:.0%}, has room for more instances"
    return Resource.QUEUE, waiting + room, figures


# How it moves


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What binds, since when, and what did before. `challenger` has bound for the last `held`
    windows and is not believed yet."""

    step: str
    resource: Resource
    since: datetime
    moved_from: tuple[str, Resource] | None = None
    challenger: tuple[str, Resource] | None = None
    held: int = 0

    @property
    def binding(self) -> tuple[str, Resource]:
        return self.step, self.resource


def moved(
    before: Marker | None, after: Finding, *, at: datetime, rules: BottleneckRules | None = None
) -> Marker | None:
    """The marker after one more window; it has moved in this one where its `since` is `at` and
    `moved_from` is set. A window without an answer neither confirms nor denies."""
    rules = rules or BottleneckRules()
    if after.resource is None:
        return before
    found = (after.step, after.resource)
    if before is None:
        return Marker(step=after.step, resource=after.resource, since=at)
    if found == before.binding:
        return _marker(before)
    held = before.held + 1 if found == before.challenger else 1
    if held < (rules.windows_if_clear if _clearly(before, after, rules) else rules.windows):
        return _marker(before, challenger=found, held=held)
    return Marker(step=after.step, resource=after.resource, since=at, moved_from=before.binding)


def _marker(
    before: Marker, challenger: tuple[str, Resource] | None = None, held: int = 0
) -> Marker:
    return Marker(
        step=before.step,
        resource=before.resource,
        since=before.since,
        moved_from=before.moved_from,
        challenger=challenger,
        held=held,
    )


def _clearly(before: Marker, after: Finding, rules: BottleneckRules) -> bool:
    old, new = after.time_of(before.step), after.time_of(after.step)
    return old is not None and new is not None and new.total_ms >= rules.clear * old.total_ms


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"
