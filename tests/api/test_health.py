"""What load balancers and systemd ask, without a token."""

from datetime import datetime, timedelta

from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from controlplane.rollouts.services import record_beat


def test_a_process_that_answers_is_live_and_touches_no_database(
    django_assert_num_queries: object,
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]  # pytest-django's context
        response = Client().get("/healthz/live")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_it_is_ready_when_the_schema_is_the_one_expected() -> None:
    assert Client().get("/healthz/ready").status_code == 200


def test_it_is_not_ready_while_a_migration_waits() -> None:
    MigrationRecorder.Migration.objects.filter(app="rollouts").delete()

    response = Client().get("/healthz/ready")

    assert response.status_code == 503
    assert "run manage.py migrate" in response.json()["reason"]


def test_the_engine_is_well_while_tick_and_worker_are_seen(now: datetime) -> None:
    for name in ("tick", "worker"):
        record_beat(name=name, now=now)
    response = Client().get("/healthz/engine")
    assert (response.status_code, response.json()["status"]) == (200, "ok")


def test_an_engine_that_was_not_seen_for_a_minute_is_503_and_says_what_is_missing(
    now: datetime,
) -> None:
    record_beat(name="tick", now=now)
    record_beat(name="worker", now=now - timedelta(minutes=2))
    response = Client().get("/healthz/engine")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    assert response.json()["reason"].startswith("no worker for 12")
