"""What would relieve the binding step, and by how much: proposals, each with the model that made
its figure and what that rests on. Without evidence there is no figure.

It must not know rows, the clock, or prices: a planner that does is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from controlplane.domain.bottleneck import BottleneckRules, Finding
from controlplane.domain.pipelines import Pipeline
from controlplane.domain.queueing import waiting_ms
from controlplane.domain.step_times import PARTS, Pool, StepEvidence, StepTime, step_time

# More instances of one step than this on a site are a matter for its own planning.
MAX_INSTANCES = 64
# Where more instances are added until waiting is no more than this part of the work itself.
WAITING_TO_WORK = 0.1


class Relief(StrEnum):
    INSTANCES = "instances"
    BATCH = "batch"
    VARIANT = "variant"
    TIER = "tier"
    SITE = "site"


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another way to run the binding step, in milliseconds by request as measured where it runs so
    today. What is None stays as with the present one. `kind` is a variant, a tier or a site."""

    kind: Relief
    name: str
    requests: int
    transfer: float | None = None
    queue: float | None = None
    input: float | None = None
    compute: float | None = None
    output: float | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is known of ways out. `batch_infer_ms`: of an execution, by batch size, as measured.
    `instance_memory_bytes`: what one more instance takes."""

    alternatives: Sequence[Alternative] = ()
    batch_infer_ms: Mapping[int, float] = field(default_factory=dict)
    instance_memory_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """`gain_ms` and `gain_share` are of the pipeline's whole time; None where nothing measured says
    how much. `refused` says why it is none. `price` is whatever the planner was asked for."""

    kind: Relief
    step: str
    sentence: str
    gain_ms: float | None = None
    gain_share: float | None = None
    rests_on: tuple[str, ...] = ()
    refused: str = ""
    price: float | None = None


def relief(
    pipeline: Pipeline,
    finding: Finding,
    evidence: Mapping[str, StepEvidence],
    options: Options | None = None,
    *,
    rules: BottleneckRules | None = None,
    price: Callable[[Proposal], float | None] | None = None,
) -> tuple[Proposal, ...]:
    """Ordered by gain, then those whose gain nobody knows, then those that cannot be. Nothing for
    an inconclusive finding."""
    if finding.resource is None or finding.end_to_end_ms is None:
        return ()
    options, rules = options or Options(), rules or BottleneckRules()
    case = _Case(pipeline=pipeline, finding=finding, now=evidence[finding.step], rules=rules)
    tried = [
        _more_instances(case, options),
        _larger_batches(case, options),
        *(_alternative(case, other) for other in options.alternatives),
    ]
    proposals = [proposal for proposal in tried if proposal is not None]
    if price is not None:
        proposals = [p if p.refused else replace(p, price=price(p)) for p in proposals]
    return tuple(
        sorted(proposals, key=lambda p: (bool(p.refused), p.gain_ms is None, -(p.gain_ms or 0.0)))
    )


@dataclass(frozen=True, kw_only=True)
class _Case:
    pipeline: Pipeline
    finding: Finding
    now: StepEvidence
    rules: BottleneckRules

    @property
    def time(self) -> StepTime:
        return step_time(self.pipeline.step(self.finding.step), self.now)

    @property
    def service_ms(self) -> float:
        """How long an execution holds its instance."""
        return sum(ms or 0.0 for ms in (self.now.input_ms, self.now.infer_ms, self.now.output_ms))

    @property
    def waits_for_instances(self) -> bool:
        """Whether waiting is worth shortening, and comes of instances that are busy."""
        is_busy = self.now.busy is not None and self.now.busy >= self.rules.busy
        return is_busy and self.time.shares["queue"] >= self.rules.notable

    def gain(self, kind: Relief, what: str, then: StepTime, *rests_on: str) -> Proposal | None:
        """With the step's time as it would be; None where that is no gain. A pipeline gains less
        than its step does, by the step's share (G. M. Amdahl, Validity of the single processor
        approach, AFIPS 1967), and nothing more once another chain takes longest."""
        step, whole = self.finding.step, self.finding.end_to_end_ms or 0.0
        times = {each.step: each.total_ms for each in self.finding.times}
        after = self.pipeline.end_to_end(times | {step: then.total_ms})
        if not after < whole:
            return None
        return Proposal(
            kind=kind,
            step=step,
            sentence=f"{what}: {step} takes {then.total_ms:.3g} ms instead of "
            f"{self.time.total_ms:.3g} ms, the whole {after:.3g} ms instead of {whole:.3g} ms",
            gain_ms=whole - after,
            gain_share=(whole - after) / whole,
            rests_on=rests_on,
        )

    def unknown(self, kind: Relief, what: str, why: str) -> Proposal:
        sentence = f"{what}: how much it would gain is not known, {why}"
        return Proposal(kind=kind, step=self.finding.step, sentence=sentence, rests_on=(why,))

    def refusal(self, kind: Relief, what: str, why: str) -> Proposal:
        sentence = f"{what}: not possible, {why}"
        return Proposal(kind=kind, step=self.finding.step, sentence=sentence, refused=why)


# More instances, larger batches


def _more_instances(case: _Case, options: Options) -> Proposal | None:
    now, pool = case.now, case.now.pool or Pool()
    if not case.waits_for_instances:
        return None
    if now.instances is None:
        why = "how many there are is not reported"
        return case.unknown(Relief.INSTANCES, "more instances", why)
    offered = (now.busy or 0.0) * now.instances
    wanted = _enough_instances(now.instances, offered, case.service_ms)
    if pool.utilization:
        # Those at work at once share the accelerator, and no more of them help than fill it.
        wanted = min(wanted, int(offered * case.rules.full / pool.utilization))
    if no_room := _no_room(case, pool, wanted, options.instance_memory_bytes):
        return case.refusal(Relief.INSTANCES, "more instances", no_room)
    what = f"{wanted} instances of {case.finding.step} instead of {now.instances}"
    if pool.utilization is None:
        why = "as how busy the accelerator is, is not reported"
        return case.unknown(Relief.INSTANCES, what, why)
    memory = (
        f"that {wanted - now.instances} more fit into memory, of which not all is known"
        if options.instance_memory_bytes is None or pool.free_bytes is None
        else f"{options.instance_memory_bytes * (wanted - now.instances) / 1e9:.3g} GB more memory"
    )
    return case.gain(
        Relief.INSTANCES,
        what,
        replace(case.time, queue=_waiting(case, wanted, offered, case.service_ms)),
        f"M/M/c waiting (Erlang C) with the work of {offered:.3g} instances",
        f"{now.requests} requests in {now.seconds:.0f} s",
        f"an accelerator busy for {pool.utilization:.0%} of the time",
        memory,
    )


def _enough_instances(present: int, offered: float, service_ms: float) -> int:
    for count in range(present + 1, MAX_INSTANCES + 1):
        if waiting_ms(count, offered, service_ms) <= WAITING_TO_WORK * service_ms:
            return count
    return MAX_INSTANCES


def _no_room(case: _Case, pool: Pool, wanted: int, instance_bytes: float | None) -> str:
    """Why the accelerator takes no more instances, or nothing."""
    present, full = case.now.instances or 0, case.rules.full
    for name, used in (("power", pool.power_share), ("memory", pool.memory_share)):
        if used is not None and used >= full:
            return f"{used:.0%} of the {name} is taken"
    if wanted <= present:
        return "there is no room beside those that work"
    if instance_bytes is not None and pool.free_bytes is not None:
        size = instance_bytes * (wanted - present)
        if size > pool.free_bytes:
            return f"they take {size / 1e9:.3g} GB, {pool.free_bytes / 1e9:.3g} GB are free"
    return ""


def _larger_batches(case: _Case, options: Options) -> Proposal | None:
    """The best of the sizes that were measured and that fill from those who wait: by Little's law
    (J. D. C. Little, A proof for the queuing formula L = lambda W, 1961) there are so many."""
    now = case.now
    if not case.waits_for_instances or now.instances is None or now.batch is None:
        return None
    waiting = now.arrivals_per_second * (now.queue_ms or 0.0) / 1000
    found: list[Proposal | None] = []
    for size, infer_ms in options.batch_infer_ms.items():
        if not now.batch < size <= 1 + waiting or not 0 < infer_ms < float("inf"):
            continue
        offered = now.arrivals_per_second / size * infer_ms / 1000
        service = case.service_ms - (now.infer_ms or 0.0) + infer_ms
        then = replace(
            case.time,
            queue=_waiting(case, now.instances, offered, service),
            compute=infer_ms,
        )
        found.append(
            case.gain(
                Relief.BATCH,
                f"batches of {size} instead of {now.batch:.3g}",
                then,
                f"M/M/c waiting (Erlang C) with an execution of {infer_ms:.3g} ms, as measured",
                f"{waiting:.3g} requests wait on average and fill such batches without a delay",
            )
        )
    return max(filter(None, found), key=lambda each: each.gain_ms or 0.0, default=None)


def _waiting(case: _Case, instances: int, offered: float, service_ms: float) -> float:
    """The measured wait, changed as M/M/c changes: how uneven arrivals and executions are is a
    factor of both (A. O. Allen, Probability, Statistics, and Queueing Theory, 1990) and cancels.
    Where the present state has no finite wait, the model's own, and never a longer one."""
    before = case.now.instances or 1
    present = waiting_ms(before, (case.now.busy or 0.0) * before, case.service_ms)
    then, measured = waiting_ms(instances, offered, service_ms), case.now.queue_ms or 0.0
    if present == float("inf"):
        return min(measured, then)
    return measured * then / present if present else measured


# Another variant, tier or site


_NEEDED: Mapping[Relief, tuple[str, ...]] = {
    Relief.VARIANT: ("compute",),
    Relief.TIER: ("transfer", "compute"),
    Relief.SITE: ("transfer",),
}
_WORDS = {Relief.VARIANT: "as variant", Relief.TIER: "in tier", Relief.SITE: "at"}


def _alternative(case: _Case, other: Alternative) -> Proposal:
    what = f"{case.finding.step} {_WORDS[other.kind]} {other.name}"
    there = {part: getattr(other, part) for part in PARTS}
    if lacking := [part for part in _NEEDED[other.kind] if there[part] is None]:
        why = f"as its {' and '.join(lacking)} is not measured there"
        return case.unknown(other.kind, what, why)
    if other.requests < case.rules.min_requests:
        asked = f"{case.rules.min_requests} are asked for"
        return case.unknown(other.kind, what, f"of {other.requests} requests there; {asked}")
    measured: dict[str, Any] = {part: ms for part, ms in there.items() if ms is not None}
    if absurd := [ms for ms in measured.values() if not 0 <= ms < float("inf")]:
        return case.unknown(other.kind, what, f"as it is said to take {absurd[0]:g} ms")
    kept = ", ".join(part for part in there if part not in measured)
    rests_on = [f"{other.requests} requests measured there"]
    if kept:
        rests_on.append(f"{kept} as with the present one")
    found = case.gain(other.kind, what, replace(case.time, **measured), *rests_on)
    return found or case.refusal(other.kind, what, "it would take no less time")
