"""Sites whose Tritons count, agents that tell the differences, and a network that loses, doubles,
reorders and holds them up. It keeps the truth beside: what the centre should come to.

A difference is made as agents make it (agents/src/waypost_agent/deltas.py): a counter that fell was
begun anew by a load, and what was served between the last look and that load nobody saw."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from controlplane.fleet.identity import Caller
from controlplane.fleet.measurements import Measurement, ModelCounts, record_measurement
from controlplane.telemetry.rollups import roll_up
from tests.factories import make_joined_site

BOUNDS = (10.0, 50.0, 100.0)
OTHER_BOUNDS = (5.0, 500.0)
FIGURES = (
    "batch_executions",
    "request_us",
    "queue_us",
    "compute_input_us",
    "compute_infer_us",
    "compute_output_us",
)
REASONS = ("BACKEND", "REJECTED", "NEW WORD")
# Server, model, version.
Name = tuple[str, str, int]
NAMES: tuple[Name, ...] = (
    ("", "vad", 1),
    ("", "vad", 2),
    ("b", "vad", 2),
    ("", "asr", 7),
)


# What was served, by figure: "requests", a reason, one of FIGURES, or the number of a bucket.
Served = Counter[str | int]


@dataclass(kw_only=True)
class Version:
    """What its server counts: since it was loaded, but failures since the server started. `visible`
    is the truth: what was served since the last look or load."""

    bounds: tuple[float, ...]
    succeeded: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    times: Counter[str] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=list)
    visible: Served = field(default_factory=Counter)

    def load(self) -> None:
        self.succeeded, self.times = 0, Counter()
        self.latency = [0] * (len(self.bounds) + 1)
        failures: Served = Counter({name: self.visible[name] for name in REASONS})
        self.visible = failures + Counter({"requests": failures.total()})

    def serve(self, rng: random.Random) -> None:
        requests = rng.randrange(1, 50)
        failed = rng.randrange(3) if requests > 3 else 0
        reason = rng.choice(REASONS)
        times = {name: rng.randrange(10**6) for name in FIGURES}
        latency = [rng.randrange(len(self.latency)) for _ in range(requests - failed)]
        self.failures[reason] += failed
        self.succeeded += requests - failed
        self.times.update(times)
        for bucket in latency:
            self.latency[bucket] += 1
        self.visible.update(latency)
        self.visible.update({"requests": requests, reason: failed})
        self.visible.update(times)

    def copy(self) -> "Version":
        return Version(
            bounds=self.bounds,
            succeeded=self.succeeded,
            failures=Counter(self.failures),
            times=Counter(self.times),
            latency=list(self.latency),
        )


@dataclass(frozen=True, kw_only=True)
class Interval:
    ended_at: datetime
    seconds: float
    boot_id: str
    seq: int
    models: tuple[ModelCounts, ...]
    truth: Mapping[Name, Served]


class Site:
    """One agent and what it looks at, every so often."""

    def __init__(self, number: int, start: datetime, rng: random.Random) -> None:
        self.agent = make_joined_site(f"site-{number}", now=start)
        self.caller: Caller = self.agent.caller(now=start)
        self._rng = rng
        bounds = OTHER_BOUNDS if number % 2 else BOUNDS
        self._versions = {name: Version(bounds=bounds) for name in NAMES}
        for version in self._versions.values():
            version.load()
        self._seen = {name: version.copy() for name, version in self._versions.items()}
        self._looked_at, self._boot = start, 1
        self.waiting: list[Interval] = []

    def live(self, until: datetime) -> None:
        """Serves, may load anew, and looks."""
        for name, version in self._versions.items():
            if self._rng.random() < 0.2:
                continue  # it rests
            version.serve(self._rng)
            if self._rng.random() < 0.1:
                version.load()  # what it served since the last look is gone
                if self._rng.random() < 0.7:
                    version.serve(self._rng)
                if not _fell(self._seen[name], version):
                    version.load()
        if self._rng.random() < 0.03:
            self._boot += 1
        models = tuple(
            _delta(name, self._seen[name], version) for name, version in self._versions.items()
        )
        self.waiting.append(
            Interval(
                ended_at=until,
                seconds=(until - self._looked_at).total_seconds(),
                boot_id=f"boot-{self._boot}",
                seq=round(until.timestamp() * 1000),
                models=models,
                truth={name: version.visible for name, version in self._versions.items()},
            )
        )
        self._looked_at = until
        for version in self._versions.values():
            version.visible = Counter()
        self._seen = {name: version.copy() for name, version in self._versions.items()}


def _fell(before: Version, after: Version) -> bool:
    counts = [(before.succeeded, after.succeeded)]
    counts += [(before.times[name], after.times[name]) for name in FIGURES]
    return any(new < old for old, new in counts)


def _delta(name: Name, before: Version, after: Version) -> ModelCounts:
    server, model, version = name
    if _fell(before, after):
        before = Version(bounds=after.bounds, failures=before.failures)
        before.load()
    failures = {
        reason: count - before.failures[reason]
        for reason, count in after.failures.items()
        if count > before.failures[reason]
    }
    latency = [new - old for new, old in zip(after.latency, before.latency, strict=True)]
    return ModelCounts(
        server=server,
        model=model,
        version=version,
        requests=after.succeeded - before.succeeded + sum(failures.values()),
        failures=failures,
        **{each: after.times[each] - before.times[each] for each in FIGURES},
        latency_ms={"bounds": after.bounds, "counts": latency},
    )


@dataclass(frozen=True, kw_only=True)
class Played:
    """The intervals that reached the centre, by site; how often is `deliveries`."""

    end: datetime
    intervals: tuple[tuple[int, Interval], ...]
    deliveries: int


def play(*, seed: int, start: datetime, sites: int = 3, looks: int = 60) -> Played:
    """Lives through `looks` intervals of a minute or so at each site, adding up now and then."""
    rng = random.Random(seed)
    places = [Site(number, start, rng) for number in range(sites)]
    arrived: dict[tuple[int, str, int], Interval] = {}
    moment, deliveries = start, 0
    cut_off: set[int] = set()
    for _ in range(looks):
        moment += timedelta(milliseconds=rng.randrange(40_000, 90_000))
        for place in places:
            place.live(moment - timedelta(milliseconds=rng.randrange(1000)))
            if rng.random() < 0.1:
                cut_off ^= {place.caller.site_id}
            if place.caller.site_id not in cut_off:
                deliveries += _deliver(place, arrived, moment, rng)
        if rng.random() < 0.3:
            roll_up(now=moment)
    end = moment + timedelta(hours=3)
    for place in places:
        while place.waiting:
            deliveries += _deliver(place, arrived, end, rng)
    roll_up(now=end)
    intervals = tuple((site_id, interval) for (site_id, *_), interval in arrived.items())
    return Played(end=end, intervals=intervals, deliveries=deliveries)


def _deliver(
    place: Site, arrived: dict[tuple[int, str, int], Interval], now: datetime, rng: random.Random
) -> int:
    """In any order. A call may be lost, or its answer: both bring the interval again. Some are
    thrown away before."""
    rng.shuffle(place.waiting)
    kept, sent = [], 0
    for interval in place.waiting:
        if rng.random() < 0.02:
            continue
        if rng.random() < 0.2:
            kept.append(interval)
            continue
        sent += 1
        arrived[place.caller.site_id, interval.boot_id, interval.seq] = interval
        measurement = Measurement(
            boot_id=interval.boot_id,
            seq=interval.seq,
            seconds=interval.seconds,
            age_seconds=(now - interval.ended_at).total_seconds(),
            dropped=0,
            models=interval.models,
            accelerators=(),
        )
        record_measurement(caller=place.caller, measurement=measurement, now=now)
        if rng.random() < 0.3:
            kept.append(interval)
    place.waiting[:] = kept
    return sent
