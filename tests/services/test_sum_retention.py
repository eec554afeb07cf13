"""Sums are kept for as long as was said, and readings of a site are taken once."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings

from controlplane.domain.errors import InvalidInput
from controlplane.telemetry import retention
from controlplane.telemetry.gauges import reading_totals
from controlplane.telemetry.grains import Grain
from controlplane.telemetry.models import (
    MODEL_SUMS,
    SITE_SUMS,
    ModelSeries,
    Reading,
    ReadingDay,
)
from controlplane.telemetry.queries import model_totals
from controlplane.telemetry.readings import live_readings, record_readings
from controlplane.telemetry.retention import forget
from controlplane.telemetry.rollups import roll_up
from tests.factories import make_site
from tests.fake_agent import FakeAgent
from tests.services.test_sums import counts, measured, take

DAY = timedelta(days=1)
ON_SQLITE = django_settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")


def rows_left() -> list[int]:
    return [table._default_manager.count() for table in MODEL_SUMS.values()]


@pytest.mark.parametrize(
    ("days", "left"), [(2, [1, 1, 1]), (4, [0, 1, 1]), (70, [0, 0, 1]), (800, [0, 0, 0])]
)
def test_each_grain_is_kept_for_as_long_as_was_said(
    days: int, left: list[int], edge: FakeAgent, now: datetime
) -> None:
    """By then: on PostgreSQL a day of minutes, a month of hours and a year of days go at once."""
    take(edge, measured(), now)
    roll_up(now=now)
    later = now + days * DAY - timedelta(minutes=1)
    for _ in range(2):
        forget(now=later)
    assert rows_left() == left
    assert ModelSeries.objects.exists() == any(left)


def test_what_is_still_measured_goes_on(edge: FakeAgent, now: datetime) -> None:
    take(edge, measured(1), now)
    roll_up(now=now)
    later = now + 4 * DAY
    take(edge, measured(2), later)
    roll_up(now=later)
    forget(now=later)
    assert rows_left() == [1, 2, 2]
    sums = model_totals(start=now, end=later + DAY, now=later).sums()
    assert sums.requests == 200


def test_a_version_that_nobody_remembers_loses_its_series(edge: FakeAgent, now: datetime) -> None:
    take(edge, measured(1), now)
    roll_up(now=now)
    later = now + 1000 * DAY
    take(edge, measured(2, counts(version=9)), later)
    roll_up(now=later)
    forget(now=later)
    assert [row.version for row in ModelSeries.objects.all()] == [9]


@pytest.mark.skipif(not ON_SQLITE, reason="PostgreSQL drops whole partitions")
def test_so_many_at_a_time(edge: FakeAgent, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_STEPS", 2)
    for seq in range(5):
        take(edge, measured(seq, age_seconds=60.0 * seq), now)
    roll_up(now=now)
    left = [rows_left()[0]]
    for _ in range(3):
        forget(now=now + 3 * DAY)
        left.append(rows_left()[0])
    assert left == [5, 3, 1, 0]
    assert SITE_SUMS[Grain.MINUTE]._default_manager.count() == 0


def test_a_late_interval_whose_minute_is_gone_still_counts_in_its_hour_and_day(
    edge: FakeAgent, now: datetime
) -> None:
    take(edge, measured(1), now)
    later = now + 2 * DAY + timedelta(hours=1)
    assert roll_up(now=later) == 1
    assert rows_left() == [0, 1, 1]


def test_a_window_of_last_month_is_answered_in_hours(edge: FakeAgent, now: datetime) -> None:
    take(edge, measured(1), now)
    roll_up(now=now)
    later = now + 10 * DAY
    part = timedelta(minutes=20)
    totals = model_totals(start=now - part, end=now + DAY + part, now=later)
    assert (totals.window.start, totals.window.end) == (now, now + DAY)
    assert totals.sums().requests == 100
    assert model_totals(start=now + part, end=now + DAY, now=later).rows == ()


@pytest.fixture
def hall(now: datetime) -> Any:
    return make_site("hall", now=now, power_limit_kw=100.0)


def test_a_reading_is_taken_once_and_held_against_the_envelope(hall: Any, now: datetime) -> None:
    said = {"power_kw": 80.0, "round_trip_ms": 12.0}
    assert record_readings(site=hall, figures=said, at=now, now=now) == set(said)
    assert record_readings(site=hall, figures={**said, "power_kw": 9.0}, at=now, now=now) == set()
    early = now - timedelta(minutes=5)
    record_readings(site=hall, figures={"power_kw": 40.0, "cooling_kw": 1.0}, at=early, now=now)

    live = {each.figure: each for each in live_readings(hall)}
    assert (live["power_kw"].value, live["power_kw"].share) == (80.0, 0.8)
    assert (live["round_trip_ms"].limit, live["round_trip_ms"].share) == (None, None)
    assert live["cooling_kw"].limit is None
    window = {"start": now - DAY, "end": now + DAY, "now": now}
    _, figures = reading_totals(**window, site_ids=[hall.pk])
    means = {each.figure: (each.readings, each.mean, each.peak) for each in figures}
    assert means["power_kw"] == (2, 60.0, 80.0)
    assert ReadingDay.objects.count() == 3


@pytest.mark.parametrize(
    ("off", "code"),
    [(timedelta(minutes=2), "reading-ahead"), (-timedelta(hours=24), "reading-too-old")],
)
def test_a_reading_of_another_time_is_refused(
    off: timedelta, code: str, hall: Any, now: datetime
) -> None:
    with pytest.raises(InvalidInput) as refused:
        record_readings(site=hall, figures={"power_kw": 1.0}, at=now + off, now=now)
    assert refused.value.code == code
    assert not Reading.objects.exists()


def test_old_readings_are_forgotten_and_their_sums_stay(hall: Any, now: datetime) -> None:
    record_readings(site=hall, figures={"power_kw": 80.0}, at=now, now=now)
    forget(now=now + 3 * DAY)
    assert (Reading.objects.count(), ReadingDay.objects.count()) == (0, 1)
    assert live_readings(hall) == ()
