"""Sums as readers get them, and the figures that follow from them. Unknown is None, never 0.

It must not know how they are kept."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.distribution import Distribution, merged


@dataclass(frozen=True, kw_only=True)
class ModelSums:
    """What was counted of requests. `requests` holds those that failed; `failures` has the reasons
    (`rejected`, `canceled`, `backend`, `other`) that there were. The times (µs, each added up over
    requests) are of the `timed` requests alone: those that succeeded in intervals whose times are
    all known; None where there are none. `seconds` are those of the intervals in which it was
    asked. `latency` has a histogram for each set of bounds, the largest first."""

    seconds: float = 0.0
    requests: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    timed: int = 0
    executions: int | None = None
    request_us: int | None = None
    queue_us: int | None = None
    input_us: int | None = None
    infer_us: int | None = None
    output_us: int | None = None
    latency: tuple[Distribution, ...] = ()

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def error_rate(self) -> float | None:
        return self.failed / self.requests if self.requests else None

    @property
    def mean_latency_ms(self) -> float | None:
        return _ratio(self.request_us, self.timed * 1000)

    @property
    def queue_share(self) -> float | None:
        """Of the time that requests took."""
        return _ratio(self.queue_us, self.request_us)

    @property
    def mean_batch(self) -> float | None:
        """Requests to an execution."""
        return _ratio(self.timed, self.executions)


TIMES = ("executions", "request_us", "queue_us", "input_us", "infer_us", "output_us")


def together(parts: Iterable[ModelSums]) -> ModelSums:
    """All of them as one."""
    seconds, requests, timed = 0.0, 0, 0
    failures, times = Counter[str](), Counter[str]()
    latency: list[Distribution] = []
    for part in parts:
        seconds, requests, timed = (
            seconds + part.seconds,
            requests + part.requests,
            timed + part.timed,
        )
        failures.update(part.failures)
        if part.timed:
            times.update({name: getattr(part, name) for name in TIMES})
        latency += part.latency
    return ModelSums(
        seconds=seconds,
        requests=requests,
        failures=dict(failures),
        timed=timed,
        latency=merged(latency),
        **(dict(times) if timed else {}),
    )


@dataclass(frozen=True, kw_only=True)
class VersionSums:
    """Of one version at one site, over all its servers; `starts_at` is set where sums are told one
    by one."""

    site_id: int
    model: str
    version: int
    sums: ModelSums
    starts_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class SiteSums:
    """All models of a site, or of the fleet where `sites` is more than 1: `measured_seconds` is how
    long it was measured (added up over sites), `dropped` the intervals that were lost at a site."""

    sites: int
    measured_seconds: float
    intervals: int
    dropped: int
    requests: int
    failed: int
    timed: int
    request_us: int | None
    queue_us: int | None

    @property
    def error_rate(self) -> float | None:
        return self.failed / self.requests if self.requests else None


@dataclass(frozen=True, kw_only=True)
class Freshness:
    """How far a site is measured: the end of its newest interval that is added up, and when that
    came. An idle site is measured too."""

    measured_until: datetime | None
    received_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class AcceleratorFigures:
    """One accelerator over a window. Means weigh each interval by its length, over the seconds for
    which the figure was known; `energy_joules` is what its own counter says of
    `energy_known_seconds`."""

    site_id: int
    uuid: str
    seconds: float
    utilization_mean: float | None
    utilization_peak: float | None
    memory_mean_bytes: float | None
    memory_peak_bytes: int | None
    memory_total_bytes: int | None
    power_mean_watts: float | None
    power_peak_watts: float | None
    energy_joules: float | None
    energy_known_seconds: float
    temperature_peak_celsius: float | None


@dataclass(frozen=True, kw_only=True)
class ReadingFigures:
    """One figure of a site over a window; its unit is the end of its name."""

    site_id: int
    figure: str
    readings: int
    mean: float
    peak: float


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
