"""An import is one worker's for as long as bytes come, and another's once they do not."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from controlplane.catalog.models import ImportedVersion, Version
from controlplane.catalog.registry import (
    RegistryError,
    RemoteFile,
    RemoteStream,
    RemoteVersion,
    Unavailable,
)
from controlplane.catalog.registry.claims import CLAIM, Taken, claim, release, renew
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.importing import Importer
from controlplane.catalog.registry.linking import import_version, link_model
from tests.factories import version_files
from tests.services.fake_registry import FakeRegistry

pytestmark = pytest.mark.django_db


@dataclass(kw_only=True)
class Slow:
    """A stream of five bytes at a time; `passes` is called for each."""

    stream: RemoteStream
    passes: Callable[[], None]

    @property
    def etag(self) -> str:
        return self.stream.etag

    def read(self, size: int, /) -> bytes:
        self.passes()
        return self.stream.read(min(size, 5))

    def close(self) -> None:
        self.stream.close()


@dataclass(kw_only=True)
class SlowRegistry(FakeRegistry):
    """So many minutes pass with each piece, and before a download begins. `others` are what a
    second worker was given at the end of each."""

    now: datetime
    per_piece: float = 0
    before: float = 0
    minutes: float = 0

    def __post_init__(self) -> None:
        self.versions["iris", "1"] = version_files("v1")
        self.others: list[ImportedVersion | None] = []

    def open(
        self, remote: RemoteVersion, file: RemoteFile, *, offset: int = 0, etag: str = ""
    ) -> Slow:
        stream = super().open(remote, file, offset=offset, etag=etag)
        if self.before:
            self._pass(self.before)
        return Slow(stream=stream, passes=lambda: self._pass(self.per_piece))

    def files(self, remote: RemoteVersion) -> list[RemoteFile]:
        if self.trouble.get("files"):
            self._pass(self.before)
        return super().files(remote)

    def _pass(self, minutes: float) -> None:
        self.minutes += minutes
        self.others.append(claim(self.now + timedelta(minutes=self.minutes)))


@pytest.fixture
def registry(now: datetime) -> SlowRegistry:
    return SlowRegistry(now=now)


@pytest.fixture
def row(registry: SlowRegistry, now: datetime) -> ImportedVersion:
    link, _ = link_model(
        model_name="iris", remote_name="iris", aliases={}, stages={}, actor="a", person="ann",
        now=now,
    )  # fmt: skip
    return import_version(link=link, version="1", source=registry, actor="a", now=now)[0]


@pytest.fixture
def work(registry: SlowRegistry, now: datetime, tmp_path: Path) -> Callable[[], None]:
    importer = Importer(
        source=registry,
        converter=Converter(),
        folder=tmp_path / "imports",
        clock=lambda: registry.minutes * 60,
    )
    return lambda: importer.run(now=now, keep_going=lambda: True)


def test_two_workers_never_import_the_same(row: ImportedVersion, now: datetime) -> None:
    assert claim(now) is not None
    assert claim(now) is None
    assert claim(now + timedelta(minutes=29)) is None
    assert claim(now + timedelta(minutes=31)) is not None, "a worker that died"


def test_a_claim_is_renewed_as_long_as_bytes_come(
    registry: SlowRegistry, row: ImportedVersion, work: Callable[[], None]
) -> None:
    registry.per_piece = 29
    work()
    row.refresh_from_db()
    assert row.state == "imported"
    assert registry.minutes > 10 * CLAIM.total_seconds() / 60
    assert set(registry.others) == {None}


def test_a_worker_that_slept_over_its_claim_writes_no_byte_into_the_others_files(
    registry: SlowRegistry, row: ImportedVersion, work: Callable[[], None], tmp_path: Path
) -> None:
    registry.before = 31
    work()
    held = row.pk, registry.now + timedelta(minutes=31) + CLAIM
    row.refresh_from_db()
    assert (row.pk, row.claimed_until) == held
    assert (row.state, row.attempts, row.reason) == ("importing", 0, "")
    assert [each.stat().st_size for each in (tmp_path / "imports").rglob("*.*")] == []
    assert not Version.objects.exists()


@pytest.mark.parametrize("error", [Unavailable("It is down."), RegistryError("It is odd.")])
def test_what_failed_after_the_claim_is_not_told_of_the_others_import(
    error: RegistryError, registry: SlowRegistry, row: ImportedVersion, work: Callable[[], None]
) -> None:
    registry.before, registry.trouble["files"] = 31, [error]
    work()
    row.refresh_from_db()
    assert row.claimed_until == registry.now + timedelta(minutes=31) + CLAIM
    assert (row.attempts, row.reason) == (0, "")


def test_an_import_that_was_taken_back_is_gone_on_with_no_more(
    row: ImportedVersion, now: datetime
) -> None:
    mine = claim(now)
    assert mine is not None
    row.link.delete()
    with pytest.raises(Taken):
        renew(mine, now + timedelta(minutes=2))


def test_a_claim_that_is_renewed_is_written_once_a_minute_and_can_be_released(
    row: ImportedVersion, now: datetime
) -> None:
    mine = claim(now)
    assert mine is not None
    renew(mine, now + timedelta(seconds=59))
    assert mine.claimed_until == now + CLAIM
    renew(mine, now + timedelta(seconds=60))
    assert mine.claimed_until == now + timedelta(seconds=60) + CLAIM
    release(mine)
    assert claim(now + timedelta(seconds=61)) == row


def test_a_claim_is_looked_at_with_every_piece_that_is_stored(
    registry: SlowRegistry, row: ImportedVersion, now: datetime, tmp_path: Path
) -> None:
    storing: list[bool] = []

    def clock() -> float:
        storing.append(Version.objects.exists())
        return 0.0

    importer = Importer(
        source=registry, converter=Converter(), folder=tmp_path / "imports", clock=clock
    )
    importer.run(now=now, keep_going=lambda: True)
    at_the_end = 1
    assert storing.count(True) >= len(version_files("v1")) + at_the_end
