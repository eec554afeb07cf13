"""Measurements are taken in once, kept for a day, and forgotten in pieces."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.fleet import measurements as service
from controlplane.fleet.measurements import (
    KEEP,
    KEEP_UNCOUNTED,
    AcceleratorGauges,
    Measurement,
    ModelCounts,
    measured_intervals,
    model_figures,
    prune_measurements,
    record_measurement,
)
from controlplane.fleet.models import AcceleratorMeasurement, MeasuredInterval, ModelMeasurement
from tests.factories import make_joined_site
from tests.fake_agent import FakeAgent
from tests.services.threads import at_once, failures


def counts(**changes: Any) -> ModelCounts:
    facts: dict[str, Any] = {
        "server": "", "model": "vad", "version": 2, "requests": 600,
        "failures": {"BACKEND": 6}, "request_us": 5_940_000,
    }  # fmt: skip
    return ModelCounts(**{**facts, **changes})


def measurement(seq: int = 1, **changes: Any) -> Measurement:
    facts: dict[str, Any] = {
        "boot_id": "boot-1", "seq": seq, "seconds": 60.0, "age_seconds": 5.0, "dropped": 0,
        "models": (counts(), counts(model="asr", requests=0, failures={})),
        "accelerators": (AcceleratorGauges(uuid="GPU-1", utilization=0.5, power_watts=51.5),),
    }  # fmt: skip
    return Measurement(**{**facts, **changes})


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


def record(edge: FakeAgent, said: Measurement, *, now: datetime) -> bool:
    return record_measurement(caller=edge.caller(now=now), measurement=said, now=now)


def test_an_interval_is_kept_as_it_was_said(edge: FakeAgent, now: datetime) -> None:
    assert record(edge, measurement(), now=now)

    (interval,) = measured_intervals(edge.site)
    assert (interval.ended_at, interval.seconds) == (now - timedelta(seconds=5), 60.0)
    assert interval.idle == [["", "asr", "2"]]
    (row,) = interval.models.all()
    assert (row.requests, row.failed, row.failures) == (600, 6, {"BACKEND": 6})
    assert row.queue_us is None
    assert model_figures(interval, row).error_rate == 0.01
    (gpu,) = interval.accelerators.all()
    assert (gpu.utilization, gpu.energy_joules) == (0.5, None)


def test_the_same_interval_again_is_taken_once(edge: FakeAgent, now: datetime) -> None:
    assert record(edge, measurement(), now=now)
    assert not record(edge, measurement(age_seconds=65.0), now=now + timedelta(minutes=1))
    assert record(edge, measurement(boot_id="boot-2"), now=now)
    assert MeasuredInterval.objects.count() == 2
    assert ModelMeasurement.objects.count() == AcceleratorMeasurement.objects.count() == 2


@pytest.mark.usefixtures("transactional_db")
def test_of_many_deliveries_at_once_one_is_kept(now: datetime) -> None:
    caller = make_joined_site("edge", now=now).caller(now=now)

    results = at_once(
        lambda _: record_measurement(caller=caller, measurement=measurement(), now=now), range(8)
    )

    assert failures(results) == []
    assert sorted(results) == [False] * 7 + [True]
    assert ModelMeasurement.objects.count() == 1


def test_what_waited_at_the_site_stands_where_it_belongs(edge: FakeAgent, now: datetime) -> None:
    record(edge, measurement(2, age_seconds=0.0), now=now)
    record(edge, measurement(1, age_seconds=3600.0, dropped=7), now=now)
    newest, older = measured_intervals(edge.site)
    assert (newest.seq, older.seq, older.dropped) == (2, 1, 7)


def test_what_is_too_old_to_keep_is_taken_and_forgotten(edge: FakeAgent, now: datetime) -> None:
    assert not record(edge, measurement(age_seconds=KEEP.total_seconds()), now=now)
    assert not MeasuredInterval.objects.exists()


def test_a_day_later_it_is_forgotten_a_piece_at_a_time(
    edge: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PRUNE_BATCH", 2)
    monkeypatch.setattr(service, "PRUNE_BATCHES", 2)
    for seq in range(1, 6):
        record(edge, measurement(seq), now=now)
    record(edge, measurement(6), now=now + timedelta(hours=1))
    MeasuredInterval.objects.update(rolled_up_at=now)
    later = now + KEEP + timedelta(seconds=1)

    assert [prune_measurements(now=later) for _ in range(3)] == [4, 1, 0]

    assert [row.seq for row in measured_intervals(edge.site)] == [6]
    assert ModelMeasurement.objects.count() == 1


def test_what_nobody_added_up_waits_a_day_more(edge: FakeAgent, now: datetime) -> None:
    record(edge, measurement(), now=now)
    assert prune_measurements(now=now + KEEP + timedelta(seconds=1)) == 0
    assert prune_measurements(now=now + KEEP_UNCOUNTED + timedelta(seconds=1)) == 1


def test_of_a_site_that_sends_without_measure_the_newest_are_kept(
    edge: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_PER_SITE", 2)
    other = make_joined_site("core", now=now)
    record(other, measurement(1), now=now)
    for seq, age in ((1, 30.0), (2, 10.0), (3, 20.0), (4, 40.0)):
        record(edge, measurement(seq, age_seconds=age), now=now)

    assert [prune_measurements(now=now) for _ in range(2)] == [2, 0]

    assert [row.seq for row in measured_intervals(edge.site)] == [2, 3]
    assert measured_intervals(other.site).count() == 1


def test_the_longest_name_of_a_server_fits(edge: FakeAgent, now: datetime) -> None:
    name = "s" * 64
    assert record(edge, measurement(models=(counts(server=name),)), now=now)
    row = ModelMeasurement.objects.get()
    # SQLite takes any length; PostgreSQL refuses what this refuses.
    assert ModelMeasurement._meta.get_field("server").clean(row.server, row) == name


def test_a_page_costs_the_same_however_much_was_measured(edge: FakeAgent, now: datetime) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as captured:
            for interval in measured_intervals(edge.site):
                list(interval.models.all()), list(interval.accelerators.all())
        return len(captured)

    record(edge, measurement(1), now=now)
    few = cost()
    for seq in range(2, 8):
        record(edge, replace(measurement(seq), models=(counts(), counts(version=3))), now=now)
    assert cost() == few == 3
