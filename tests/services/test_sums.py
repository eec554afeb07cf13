"""What agents measured is added up exactly once at every grain, whatever the network does to it."""

import random
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.domain.distribution import Distribution
from controlplane.fleet.measurements import AcceleratorGauges, Measurement, ModelCounts
from controlplane.fleet.measurements import record_measurement as record
from controlplane.fleet.models import MeasuredInterval
from controlplane.telemetry import rollups
from controlplane.telemetry.gauges import accelerator_totals
from controlplane.telemetry.grains import Grain
from controlplane.telemetry.models import ModelSeries, SiteFeed
from controlplane.telemetry.queries import (
    fleet_by,
    freshness,
    last_asked,
    model_sums_by,
    model_totals,
    site_totals,
)
from controlplane.telemetry.retention import forget
from controlplane.telemetry.rollups import roll_up
from controlplane.telemetry.values import VersionSums
from tests.factories import make_joined_site
from tests.fake_agent import FakeAgent
from tests.services.measuring import FIGURES, Played, Served, play
from tests.services.threads import at_once, failures

# The columns of the sums by the agents' names for them.
TOLD_AS = {
    "batch_executions": "executions",
    "compute_input_us": "input_us",
    "compute_infer_us": "infer_us",
    "compute_output_us": "output_us",
}
REASONS = {"BACKEND": "backend", "REJECTED": "rejected", "NEW WORD": "other"}
Named = tuple[datetime | None, int, str, int]
ON_SQLITE = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")


def add(sums: dict[Named, Served], name: Named, served: Served) -> None:
    sums[name] = sums.get(name, Counter()) + served


def truth(played: Played, grain: Grain) -> dict[Named, Served]:
    """By when the minute, hour or day began, site, model and version."""
    sums: dict[Named, Served] = {}
    for site_id, interval in played.intervals:
        for (_, model, version), served in interval.truth.items():
            if served["requests"]:
                add(sums, (grain.floor(interval.ended_at), site_id, model, version), served)
    return sums


def as_served(rows: Iterable[VersionSums]) -> dict[Named, Served]:
    found: dict[Named, Served] = {}
    for row in rows:
        (latency,) = row.sums.latency
        served: Served = Counter(dict(enumerate(latency.counts)))
        served["requests"] = row.sums.requests
        for name in FIGURES:
            served[name] = getattr(row.sums, TOLD_AS.get(name, name)) or 0
        for word, name in REASONS.items():
            served[word] = row.sums.failures.get(name, 0)
        found[row.starts_at, row.site_id, row.model, row.version] = +served
    return found


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_the_truth_at_every_grain(seed: int, now: datetime) -> None:
    start = now + timedelta(hours=11, minutes=20)  # over midnight
    played = play(seed=seed, start=start)
    assert played.deliveries > len(played.intervals) > 100

    for grain in Grain:
        rows = model_sums_by(grain, start=start - timedelta(days=1), end=played.end)
        assert as_served(rows) == truth(played, grain)

    rng = random.Random(seed)
    minutes = truth(played, Grain.MINUTE)
    for _ in range(5):
        first = Grain.MINUTE.floor(start) + timedelta(minutes=rng.randrange(60))
        last = first + timedelta(minutes=rng.randrange(90))
        totals = model_totals(start=first, end=last, now=played.end)
        assert (totals.window.start, totals.window.end) == (first, last)
        wanted: dict[Named, Served] = {}
        for (at, site_id, model, version), served in minutes.items():
            if at is not None and first <= at < last:
                add(wanted, (None, site_id, model, version), served)
        assert as_served(totals.rows) == wanted


def counts(**changes: Any) -> ModelCounts:
    facts: dict[str, Any] = {
        "server": "", "model": "vad", "version": 2, "requests": 100, "failures": {"BACKEND": 4},
        "batch_executions": 48, "request_us": 960_000, "queue_us": 96_000, "compute_input_us": 1,
        "compute_infer_us": 2, "compute_output_us": 3,
        "latency_ms": {"bounds": [10, 50], "counts": [90, 5, 1]},
    }  # fmt: skip
    return ModelCounts(**{**facts, **changes})


def measured(seq: int = 1, *models: ModelCounts, **changes: Any) -> Measurement:
    facts: dict[str, Any] = {
        "boot_id": "boot-1", "seq": seq, "seconds": 60.0, "age_seconds": 0.0, "dropped": 0,
        "models": models or (counts(),), "accelerators": (),
    }  # fmt: skip
    return Measurement(**{**facts, **changes})


def take(edge: FakeAgent, said: Measurement, now: datetime) -> None:
    assert record(caller=edge.caller(now=now), measurement=said, now=now)


def minutes(now: datetime) -> tuple[VersionSums, ...]:
    hour = timedelta(hours=1)
    return model_sums_by(Grain.MINUTE, start=now - hour, end=now + hour)


def test_an_interval_belongs_to_the_minute_in_which_it_ended(
    edge: FakeAgent, now: datetime
) -> None:
    take(edge, measured(1), now)
    take(edge, measured(2, age_seconds=0.001, seconds=300.0), now)
    roll_up(now=now)
    before, at = minutes(now)
    assert (at.starts_at, at.sums.seconds) == (now, 60.0)
    assert (before.starts_at, before.sums.seconds) == (now - timedelta(minutes=1), 300.0)


def test_servers_and_late_comers_add_up(edge: FakeAgent, now: datetime) -> None:
    take(edge, measured(1, counts(), counts(server="b", failures={})), now)
    assert roll_up(now=now) == 1
    take(edge, measured(2), now)
    assert (roll_up(now=now), roll_up(now=now)) == (1, 0)
    (row,) = minutes(now)
    assert (row.sums.requests, row.sums.failures, row.sums.timed) == (300, {"backend": 8}, 292)
    assert row.sums.latency == (Distribution(bounds=(10.0, 50.0), counts=(270, 15, 3)),)
    assert row.sums.error_rate == pytest.approx(8 / 300)
    assert row.sums.mean_latency_ms == pytest.approx(3 * 960 / 292)
    assert row.sums.queue_share == pytest.approx(0.1)
    assert row.sums.mean_batch == pytest.approx(292 / 144)


def test_other_buckets_are_kept_apart(edge: FakeAgent, now: datetime) -> None:
    other = counts(latency_ms={"bounds": [5], "counts": [96, 0]})
    for seq, each in enumerate((counts(), other, counts(), counts(latency_ms=None))):
        take(edge, measured(seq, each), now)
    roll_up(now=now)
    (row,) = minutes(now)
    assert row.sums.requests == 400
    assert row.sums.latency == (
        Distribution(bounds=(10.0, 50.0), counts=(180, 10, 2)),
        Distribution(bounds=(5.0,), counts=(96, 0)),
    )
    assert model_totals(start=now, end=now + timedelta(hours=1), now=now).sums() == row.sums


def test_times_that_are_not_all_known_are_unknown_and_never_zero(
    edge: FakeAgent, now: datetime
) -> None:
    take(edge, measured(1, counts(queue_us=None)), now)
    roll_up(now=now)
    (row,) = minutes(now)
    assert (row.sums.requests, row.sums.timed, row.sums.request_us) == (100, 0, None)
    assert row.sums.queue_share is None
    take(edge, measured(2), now)
    roll_up(now=now)
    (row,) = minutes(now)
    assert (row.sums.requests, row.sums.timed, row.sums.request_us) == (200, 96, 960_000)


def test_a_site_that_is_measured_and_idle_is_fresh(edge: FakeAgent, now: datetime) -> None:
    assert freshness() == {}
    idle = counts(requests=0, failures={})
    take(edge, measured(1, idle, dropped=3), now)
    take(edge, measured(2, idle, age_seconds=600.0), now + timedelta(minutes=1))
    roll_up(now=now)
    fresh = freshness([edge.site.pk])[edge.site.pk]
    assert (fresh.measured_until, fresh.received_at) == (now, now + timedelta(minutes=1))
    assert minutes(now) == ()
    _, sites = site_totals(start=now - timedelta(hours=1), end=now + timedelta(1), now=now)
    site = sites[edge.site.pk]
    assert (site.measured_seconds, site.intervals, site.dropped) == (120.0, 2, 3)
    assert (site.requests, site.request_us, site.error_rate) == (0, None, None)


def test_when_a_version_was_last_asked(edge: FakeAgent, core: FakeAgent, now: datetime) -> None:
    take(edge, measured(1, age_seconds=600.0), now)
    take(edge, measured(2, counts(server="b"), age_seconds=300.0), now)
    take(core, measured(1, counts(version=3)), now)
    roll_up(now=now)
    asked = last_asked(model="vad")
    five = now - timedelta(minutes=5)
    assert asked == {(edge.site.pk, 2): five, (core.site.pk, 3): now}
    assert last_asked(model="vad", versions=[2], site_ids=[core.site.pk]) == {}


def test_the_fleet_hour_by_hour(edge: FakeAgent, core: FakeAgent, now: datetime) -> None:
    for site in (edge, core):
        take(site, measured(1), now)
    take(edge, measured(2, age_seconds=3600.0), now)
    roll_up(now=now)
    (early, one), (late, two) = fleet_by(
        Grain.HOUR, start=now - timedelta(1), end=now + timedelta(1)
    )
    assert (early, one.sites, one.requests) == (now - timedelta(hours=1), 1, 100)
    assert (late, two.sites, two.requests, two.failed, two.queue_us) == (now, 2, 200, 8, 192_000)


def test_gauges_weigh_by_time_and_peaks_stand(edge: FakeAgent, now: datetime) -> None:
    one = AcceleratorGauges(uuid="GPU-1", utilization=1.0, power_watts=300.0, energy_joules=90.0)
    two = AcceleratorGauges(uuid="GPU-1", utilization=0.25, memory_used_bytes=8)
    take(edge, measured(1, seconds=30.0, accelerators=(one,)), now)
    take(edge, measured(2, seconds=90.0, accelerators=(two,)), now)
    roll_up(now=now)
    _, (gpu,) = accelerator_totals(start=now, end=now + timedelta(hours=1), now=now)
    assert (gpu.site_id, gpu.uuid, gpu.seconds) == (edge.site.pk, "GPU-1", 120.0)
    assert gpu.utilization_mean == pytest.approx((30 + 0.25 * 90) / 120)
    assert (gpu.utilization_peak, gpu.power_mean_watts, gpu.power_peak_watts) == (1.0, 300.0, 300.0)
    assert (gpu.memory_mean_bytes, gpu.memory_peak_bytes, gpu.memory_total_bytes) == (8.0, 8, None)
    assert (gpu.energy_joules, gpu.energy_known_seconds) == (90.0, 30.0)
    assert gpu.temperature_peak_celsius is None


def test_a_site_that_invents_names_gets_no_more(
    edge: FakeAgent, core: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "MOST_SERIES_PER_SITE", 2)
    take(edge, measured(1, *(counts(model=f"m{n}") for n in range(4))), now)
    take(core, measured(1), now)
    roll_up(now=now)
    take(edge, measured(2, counts(model="m0"), counts(model="m9")), now)
    roll_up(now=now)
    assert sorted((row.model, row.sums.requests) for row in minutes(now)) == [
        ("m0", 200), ("m1", 100), ("vad", 100),
    ]  # fmt: skip
    assert SiteFeed.objects.get(pk=edge.site.pk).left_out == 3
    ((_, whole),) = fleet_by(Grain.DAY, start=now - timedelta(1), end=now)
    assert whole.requests == 700


def test_the_largest_numbers_that_are_let_in_add_up(edge: FakeAgent, now: datetime) -> None:
    huge = counts(requests=10**15, request_us=10**15, latency_ms=None)
    for seq in range(20):
        take(edge, measured(seq, huge), now)
    roll_up(now=now)
    (row,) = minutes(now)
    assert row.sums.requests == 20 * 10**15
    assert model_totals(start=now, end=now + timedelta(1), now=now).sums() == row.sums


def test_batches_leave_nothing_behind(
    edge: FakeAgent, core: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "MOST_INTERVALS", 2)
    monkeypatch.setattr(rollups, "MOST_SITES", 1)
    monkeypatch.setattr(rollups, "MOST_BATCHES", 4)
    for site in (edge, core):
        for seq in range(5):
            take(site, measured(seq), now)
    assert [roll_up(now=now) for _ in range(3)] == [7, 3, 0]
    assert [row.sums.requests for row in minutes(now)] == [500, 500]


def test_totals_are_a_fixed_number_of_queries(edge: FakeAgent, now: datetime) -> None:
    for seq in range(30):
        take(edge, measured(seq, counts(version=1 + seq % 3), age_seconds=2880.0 * seq), now)
    roll_up(now=now)
    with CaptureQueriesContext(connection) as captured:
        model_totals(start=now - timedelta(days=3), end=now + timedelta(minutes=1), now=now)
    assert len(captured) == 4


@pytest.mark.usefixtures("transactional_db")
def test_many_workers_at_once_lose_and_double_nothing(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "MOST_INTERVALS", 7)
    agents = [make_joined_site(f"site-{n}", now=now) for n in range(4)]
    callers = [agent.caller(now=now) for agent in agents]
    for seq in range(20):
        said = measured(seq, counts(), counts(version=3), age_seconds=30.0 * seq)
        for caller in callers:
            record(caller=caller, measurement=said, now=now)
        if not seq:
            roll_up(now=now)  # feeds and series are there: nobody waits for another's insert

    results = at_once(lambda _: sum(roll_up(now=now) for _ in range(4)), range(4))

    assert failures(results) == []
    assert sum(each for each in results if isinstance(each, int)) + roll_up(now=now) == 4 * 19
    for grain in Grain:
        rows = model_sums_by(grain, start=now - timedelta(1), end=now + timedelta(1))
        assert sum(row.sums.requests for row in rows) == 4 * 20 * 2 * 100
    assert not MeasuredInterval.objects.filter(rolled_up_at=None).exists()
    assert ModelSeries.objects.count() == 8
    forget(now=now + timedelta(days=3000))  # the tests after this one need none of its partitions


@pytest.mark.skipif(ON_SQLITE, reason="there a transaction waits for the other's end")
@pytest.mark.usefixtures("transactional_db")
def test_what_another_added_up_before_the_lock_was_had_is_not_added_again(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = make_joined_site("edge", now=now).caller(now=now)
    record(caller=caller, measurement=measured(), now=now)
    others: list[int | Exception] = []
    hold = rollups.hold_feeds

    def hold_late(site_ids: Collection[int]) -> dict[int, SiteFeed]:
        if not others:
            others.append(0)
            others.extend(at_once(lambda _: roll_up(now=now), range(1)))
        return hold(site_ids)

    monkeypatch.setattr(rollups, "hold_feeds", hold_late)
    assert (roll_up(now=now), others) == (0, [0, 1])
    assert [row.sums.requests for row in minutes(now)] == [100]
    forget(now=now + timedelta(days=3000))
