"""A database of the run's own, on SQLite and on PostgreSQL, gone afterwards."""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from benchmarks.errors import BenchmarkVoid

URL_VARIABLE = "WAYPOST_BENCH_DATABASE_URL"
STANDARD_URL = "postgres://postgres@127.0.0.1:5432/"
_CONNECT_SECONDS = 3


@dataclass(frozen=True, kw_only=True)
class Database:
    """`url` as Django's settings take it; `title` stands in its backends' titles, if it has any."""

    url: str
    described: str
    title: str | None = None


@contextmanager
def sqlite(folder: Path) -> Iterator[Database | str]:
    yield Database(
        url=f"sqlite:///{folder}/bench.sqlite3", described=f"SQLite {sqlite3.sqlite_version}"
    )


@contextmanager
def postgresql(folder: Path) -> Iterator[Database | str]:
    """The database, or why there is none. A server that was named and does not answer is an
    error; the standard one may be absent."""
    named = os.environ.get("WAYPOST_BENCH_DATABASE_URL", "")
    url = named or STANDARD_URL
    parts = urlsplit(url)
    server = urlunsplit(
        parts._replace(scheme="postgresql", path=parts.path.rstrip("/") or "/postgres")
    )
    try:
        connection = psycopg.connect(server, autocommit=True, connect_timeout=_CONNECT_SECONDS)
    except psycopg.OperationalError as error:
        where = f"{parts.hostname}:{parts.port or 5432}"
        reason = str(error).strip().splitlines()[-1]
        if named:
            raise BenchmarkVoid(
                f"{URL_VARIABLE} names a PostgreSQL at {where} that does not answer: {reason}"
            ) from error
        yield f"no PostgreSQL answers at {where} ({reason}); name one in {URL_VARIABLE}"
        return
    name = f"waypost_bench_{secrets.token_hex(4)}"
    with connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield Database(
                url=urlunsplit(parts._replace(scheme="postgres", path=f"/{name}")),
                described=f"PostgreSQL {connection.info.server_version // 10000}",
                title=name,
            )
        finally:
            # FORCE: a server that was killed may have left its connections.
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)
