"""Sums lie in a table for each stretch of time on PostgreSQL: forgetting it is dropping its table.

Decides how long the stretches are and which there must be. On SQLite there are none. It must not
know what is summed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, migrations, models, transaction

from controlplane.telemetry.grains import Grain

# An interval may come a day late and wait two more to be added up, when nobody does it.
LATEST = timedelta(days=3)
# Made before they are needed: a day of minutes, a month of hours, a year of days.
AHEAD = {Grain.MINUTE: timedelta(days=2), Grain.HOUR: timedelta(days=7), Grain.DAY: timedelta(31)}
# Sums of hours and days are written again and again: room on their page spares the indexes.
_FILL = 80
_LOCK = 0x57617970  # any number that nobody else takes


class CreateSums(migrations.CreateModel):
    """A table of sums: on PostgreSQL partitioned by when they begin."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        plain = schema_editor.sql_create_table
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.sql_create_table = f"{plain} PARTITION BY RANGE (starts_at)"
        super().database_forwards(app_label, schema_editor, from_state, to_state)
        schema_editor.sql_create_table = plain


def make_partitions(*, now: datetime) -> None:
    """Whatever sums of now may need; one query where all is there."""
    if connection.vendor != "postgresql":
        return
    wanted = {
        _name(table, start): (table, start, _next(grain, start))
        for grain, table in _all_tables()
        for start in _stretches(grain, now)
    }
    if not wanted.keys() - _present():
        return
    with _alone() as cursor:
        for name in sorted(wanted.keys() - _present()):
            table, start, end = wanted[name]
            cursor.execute(
                f'CREATE TABLE "{name}" PARTITION OF "{table._meta.db_table}" FOR VALUES '
                f"FROM ('{start.isoformat()}') TO ('{end.isoformat()}') WITH (fillfactor = {_FILL})"
            )


def drop_partitions(*, now: datetime) -> int:
    """Those of which nothing is kept any more. Raises `OperationalError` where somebody reads one
    for long: the next time will do."""
    present = _present()
    old = []
    for grain, table in _all_tables():
        prefix = f"{table._meta.db_table}_"
        for name in present:
            day = name.removeprefix(prefix)
            if day.isdigit() and _next(grain, _day(day)) <= grain.kept_since(now):
                old.append(name)
    if old:
        with _alone() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            for name in old:
                cursor.execute(f'DROP TABLE IF EXISTS "{name}"')
    return len(old)


@contextmanager
def _alone() -> Iterator[Any]:
    """A transaction in which nobody else makes or drops partitions."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        yield cursor


def _present() -> set[str]:
    parents = [table._meta.db_table for _, table in _all_tables()]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname FROM pg_inherits"
            " JOIN pg_class child ON child.oid = inhrelid"
            " JOIN pg_class parent ON parent.oid = inhparent"
            " WHERE parent.relname = ANY(%s) AND pg_table_is_visible(parent.oid)",
            [parents],
        )
        return {name for (name,) in cursor.fetchall()}


def _all_tables() -> Iterator[tuple[Grain, type[models.Model]]]:
    # Migrations import this module, before there are any models.
    from controlplane.telemetry.models import SUMS

    for tables in SUMS:
        yield from tables.items()


def _stretches(grain: Grain, now: datetime) -> Iterator[datetime]:
    start = _stretch(grain, max(now - LATEST, grain.kept_since(now)))
    while start <= now + AHEAD[grain]:
        yield start
        start = _next(grain, start)


def _stretch(grain: Grain, moment: datetime) -> datetime:
    """When the one that `moment` is in begins: a day, a month, a year of UTC."""
    start = Grain.DAY.floor(moment)
    if grain is not Grain.MINUTE:
        start = start.replace(day=1)
    return start.replace(month=1) if grain is Grain.DAY else start


def _next(grain: Grain, start: datetime) -> datetime:
    longest = {Grain.MINUTE: 1, Grain.HOUR: 31, Grain.DAY: 366}
    return _stretch(grain, start + timedelta(days=longest[grain]))


def _name(table: type[models.Model], start: datetime) -> str:
    return f"{table._meta.db_table}_{start:%Y%m%d}"


def _day(text: str) -> datetime:
    return datetime.strptime(f"{text}+0000", "%Y%m%d%z")
