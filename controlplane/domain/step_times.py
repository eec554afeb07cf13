"""What a step of a pipeline takes and with what: evidence of a window, and the parts of its time.

Decides how transfer follows from round trip, throughput and payload, and what no measurement can
be. It must not know what binds (`bottleneck.py`), rows, or the clock."""

from dataclasses import dataclass, fields
from math import isfinite

from controlplane.domain.pipelines import Step

# Over any byte, watt or millisecond that could be measured, and far from where sums overflow.
MOST = 1e18


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The accelerators that a step runs on, or the processors where it has none. `utilization` is 0
    to 1, the envelope is the site's. None: not reported."""

    utilization: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    site_watts: float | None = None
    envelope_watts: float | None = None

    @property
    def memory_share(self) -> float | None:
        return _ratio(self.memory_used_bytes, self.memory_total_bytes)

    @property
    def free_bytes(self) -> float | None:
        if self.memory_used_bytes is None or self.memory_total_bytes is None:
            return None
        return self.memory_total_bytes - self.memory_used_bytes

    @property
    def power_share(self) -> float | None:
        """Of the accelerators' limit or the site's envelope, whichever is nearer."""
        shares = [
            _ratio(self.power_watts, self.power_limit_watts),
            _ratio(self.site_watts, self.envelope_watts),
        ]
        return max((share for share in shares if share is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class StepEvidence:
    """One step at one site over `seconds`, the newest of it `age_seconds` old. None: not known.

    The times are means by request, from Triton's counters (`queue`, `compute_input`,
    `compute_infer`, `compute_output`); of an external service `infer_ms` is all that it takes.
    `transfer_ms` is what traces saw; without it, it is worked out from `round_trip_ms`,
    `bytes_per_second` and the step's payload, to the site from where its input comes (0 within a
    site). `link_share` is the used part of that link's capacity, `occupancy` the busy part of the
    instances' time (both 0 to 1).
    """

    site: str = ""
    requests: int
    seconds: float
    age_seconds: float = 0.0
    queue_ms: float | None = None
    input_ms: float | None = None
    infer_ms: float | None = None
    output_ms: float | None = None
    executions: int | None = None
    instances: int | None = None
    occupancy: float | None = None
    transfer_ms: float | None = None
    round_trip_ms: float | None = None
    bytes_per_second: float | None = None
    link_share: float | None = None
    p95_ms: float | None = None
    pool: Pool | None = None

    @property
    def arrivals_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def batch(self) -> float | None:
        return self.requests / self.executions if self.executions else None

    @property
    def busy(self) -> float | None:
        """Share of the instances' time: as reported, or the executions' own time by the instances
        there are."""
        if self.occupancy is not None:
            return min(self.occupancy, 1.0)
        if not self.instances or self.executions is None or self.infer_ms is None:
            return None
        return min(self.executions * self.infer_ms / 1000 / (self.seconds * self.instances), 1.0)


PARTS = ("transfer", "queue", "input", "compute", "output")


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Milliseconds by request; None: not known. `unknown` also names a part known in part."""

    step: str
    site: str = ""
    transfer: float | None = None
    queue: float | None = None
    input: float | None = None
    compute: float | None = None
    output: float | None = None
    unknown: tuple[str, ...] = ()

    @property
    def total_ms(self) -> float:
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        return {part: getattr(self, part) or 0.0 for part in PARTS}

    @property
    def shares(self) -> dict[str, float]:
        """Of the step's time, 1 in sum; none of a step that takes no time."""
        total = self.total_ms
        return {part: ms / total for part, ms in self.parts.items()} if total else {}


def step_time(step: Step, evidence: StepEvidence) -> StepTime:
    """Transfer is a round trip and the payload over the measured throughput; within a site, where
    the round trip is 0 and no throughput is known, it is nothing."""
    transfer, unknown = _transfer(step, evidence)
    return StepTime(
        step=step.name,
        site=evidence.site,
        transfer=transfer,
        queue=evidence.queue_ms,
        input=evidence.input_ms,
        compute=evidence.infer_ms,
        output=evidence.output_ms,
        unknown=unknown,
    )


def _transfer(step: Step, evidence: StepEvidence) -> tuple[float | None, tuple[str, ...]]:
    if evidence.transfer_ms is not None:
        return evidence.transfer_ms, ()
    if evidence.round_trip_ms is None:
        return None, ("transfer",)
    speed = evidence.bytes_per_second
    if speed is None and not evidence.round_trip_ms:
        return 0.0, ()
    if speed is None or step.request_bytes is None or step.response_bytes is None:
        return evidence.round_trip_ms, ("transfer",)
    payload = step.request_bytes + step.response_bytes
    return evidence.round_trip_ms + payload / speed * 1000, ()


def absurdity(evidence: StepEvidence) -> str:
    """What no measurement can be, or nothing."""
    for where in (evidence, evidence.pool):
        for entry in fields(where) if where else ():
            value = getattr(where, entry.name)
            if not isinstance(value, int | float):
                continue
            if not isfinite(value) or not 0 <= value <= MOST:
                return f"{entry.name} is {value}"
            if entry.name in ("occupancy", "utilization", "link_share") and value > 1.2:
                return f"{entry.name} is {value:g}, and is a share of 1"
    if evidence.pool and (evidence.pool.memory_share or 0) > 1.2:
        return "memory_used_bytes is more than there are"
    if evidence.seconds < 1:
        return f"seconds is {evidence.seconds:g}, which is no window"
    if evidence.bytes_per_second is not None and evidence.bytes_per_second < 1:
        return f"bytes_per_second is {evidence.bytes_per_second:g}, yet requests came"
    return ""


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
