"""What is not whole yet belongs to its model: no other model's push may spoil it, end it or go on
with it, pushes of the same model share it, and with the last of them that wants it it goes."""

import hashlib
import io
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from controlplane.catalog import multipart
from controlplane.catalog.models import MultipartUpload, Version
from controlplane.catalog.multipart import (
    Multipart,
    abort_multipart,
    begin_multipart,
    complete_multipart,
)
from controlplane.catalog.partials import FOLDER, Piece
from controlplane.catalog.s3_settings import NoSuchUpload
from controlplane.catalog.services import discard_upload, finalise_version
from controlplane.catalog.stores import artifact_store, s3_store
from controlplane.catalog.uploads import (
    UploadState,
    append_piece,
    drop_stale_uploads,
    store_blob,
    upload_state,
)
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from tests.factories import ACTOR, make_version, version_files
from tests.s3_server import S3Server, running_s3

BIG = random.Random(7).randbytes(100_000)
SHA = hashlib.sha256(BIG).hexdigest()
HALF = 50_000


def reserve(model: str, *, now: datetime) -> Version:
    """Each with the same large file, and small ones of its own."""
    number = Version.objects.count()
    files = {**version_files(f"{model} {number}"), "weights.bin": BIG}
    return make_version(model, registered=False, files=files, now=now)


@pytest.fixture
def mine(now: datetime) -> Version:
    return reserve("vad", now=now)


@pytest.fixture
def theirs(now: datetime) -> Version:
    """Another model's push that names the same bytes: to know a digest is enough."""
    return reserve("asr", now=now)


def send(
    version: Version, start: int, end: int, *, data: bytes = BIG, now: datetime
) -> UploadState:
    return append_piece(
        version=version,
        sha256=SHA,
        piece=Piece(start=start, end=end, total=len(BIG)),
        stream=io.BytesIO(data[start:end]),
        now=now,
    )


def discard(version: Version, *, now: datetime) -> None:
    discard_upload(version=Version.objects.get(pk=version.pk), actor=ACTOR, now=now)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class TestOnDisk:
    def test_another_model_cannot_spoil_it(
        self, mine: Version, theirs: Version, now: datetime
    ) -> None:
        send(mine, 0, HALF, now=now)
        assert upload_state(version=theirs, sha256=SHA).offset == 0
        send(theirs, 0, HALF + 10, data=b"?" * len(BIG), now=now)
        assert upload_state(version=mine, sha256=SHA).offset == HALF
        assert send(mine, HALF, len(BIG), now=now).done
        with artifact_store().open(SHA) as file:
            assert file.read() == BIG

    def test_another_model_cannot_go_on_with_it_nor_end_it(
        self, mine: Version, theirs: Version, now: datetime
    ) -> None:
        send(mine, 0, HALF, now=now)
        with pytest.raises(Conflict) as caught:
            send(theirs, HALF, len(BIG), now=now)
        assert (caught.value.code, caught.value.extra["offset"]) == ("upload-offset", 0)
        with pytest.raises(InvalidInput):
            send(theirs, 0, len(BIG), data=BIG[::-1], now=now)
        discard(theirs, now=now)
        assert upload_state(version=mine, sha256=SHA).offset == HALF

    def test_pushes_of_one_model_go_on_with_each_others(self, mine: Version, now: datetime) -> None:
        again = reserve("vad", now=now)
        send(mine, 0, HALF, now=now)
        assert upload_state(version=again, sha256=SHA).offset == HALF
        assert send(again, HALF, len(BIG), now=now).done
        assert upload_state(version=mine, sha256=SHA).done

    def test_what_was_discarded_leaves_nothing(
        self, mine: Version, artifacts: Path, now: datetime
    ) -> None:
        send(mine, 0, HALF, now=now)
        discard(mine, now=now)
        assert kept(artifacts) == []

    def test_what_was_found_faulty_leaves_nothing(self, artifacts: Path, now: datetime) -> None:
        files = {**version_files("faulty"), "config.pbtxt": b"?!", "weights.bin": BIG}
        faulty = make_version(registered=False, files=files, now=now)
        for data in files.values():
            digest = hashlib.sha256(data).hexdigest()
            store_blob(version=faulty, sha256=digest, stream=io.BytesIO(data), now=now)
        with pytest.raises(InvalidInput):
            finalise_version(version=faulty, actor=ACTOR, now=now)
        assert kept(artifacts) == []

    def test_it_stays_while_another_push_of_the_model_wants_it(
        self, mine: Version, now: datetime
    ) -> None:
        again = reserve("vad", now=now)
        send(mine, 0, HALF, now=now)
        discard(mine, now=now)
        assert upload_state(version=again, sha256=SHA).offset == HALF

    def test_a_file_that_came_whole_meanwhile_leaves_no_piece(
        self, mine: Version, artifacts: Path, now: datetime
    ) -> None:
        send(mine, 0, HALF, now=now)
        assert store_blob(version=mine, sha256=SHA, stream=io.BytesIO(BIG), now=now)
        assert [path.name for path in kept(artifacts)] == [SHA]

    def test_a_piece_that_comes_while_it_is_discarded_leaves_nothing(
        self, mine: Version, artifacts: Path, now: datetime
    ) -> None:
        class Discarding(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if not self.tell():
                    discard(mine, now=now)
                return super().read(size)

        piece = Piece(start=0, end=HALF, total=len(BIG))
        stream = Discarding(BIG[:HALF])
        with pytest.raises(NotFound) as caught:
            append_piece(version=mine, sha256=SHA, piece=piece, stream=stream, now=now)
        assert caught.value.code == "version-unknown"
        assert kept(artifacts) == []

    def test_the_last_piece_of_a_discarded_push_never_takes_in_what_another_began(
        self, mine: Version, artifacts: Path, now: datetime
    ) -> None:
        codes = []

        class Discarding(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if not self.tell():
                    discard(mine, now=now)
                    try:
                        send(reserve("vad", now=now), 0, 10, data=b"?" * 10, now=now)
                    except Conflict as error:
                        codes.append(error.code)
                return super().read(size)

        piece = Piece(start=0, end=len(BIG), total=len(BIG))
        with pytest.raises(NotFound):
            append_piece(version=mine, sha256=SHA, piece=piece, stream=Discarding(BIG), now=now)
        assert codes == ["upload-busy"]
        assert all(path.read_bytes() == BIG for path in kept(artifacts))

    def test_pieces_of_before_they_had_a_model_go_with_time(
        self, mine: Version, artifacts: Path, now: datetime
    ) -> None:
        send(mine, 0, HALF, now=now)
        (artifacts / FOLDER / SHA).write_bytes(BIG[:10])
        later = datetime.now(UTC) + timedelta(hours=25)
        assert drop_stale_uploads(now=later) == 2
        assert kept(artifacts) == []


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3-owners")) as server:
        yield server


def begin(version: Version, *, now: datetime) -> Multipart:
    return begin_multipart(version=version, sha256=SHA, size_bytes=len(BIG), now=now)


def put_parts(made: Multipart, data: bytes = BIG) -> None:
    with httpx2.Client(trust_env=False) as client:
        for part in made.parts:
            body = data[part.offset : part.offset + part.size_bytes]
            headers = {"Content-Length": str(len(body))}
            assert client.put(part.url, content=body, headers=headers).status_code == 200


def complete(version: Version, upload: str, *, now: datetime) -> bool:
    return complete_multipart(version=version, sha256=SHA, upload=upload, parts={}, now=now)


class TestInABucket:
    @pytest.fixture(autouse=True)
    def _bucket(self, s3_server: S3Server, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        settings.WAYPOST_S3 = s3_server.bucket("owners")

    def test_another_model_can_neither_spoil_nor_complete_nor_end_it(
        self, mine: Version, theirs: Version, now: datetime
    ) -> None:
        made, other = begin(mine, now=now), begin(theirs, now=now)
        assert made.upload != other.upload
        put_parts(made)
        put_parts(other, BIG[::-1])
        for ask in (
            lambda: complete(theirs, made.upload, now=now),
            lambda: abort_multipart(version=theirs, sha256=SHA, upload=made.upload),
        ):
            with pytest.raises(NotFound) as caught:
                ask()
            assert caught.value.code == "upload-unknown"
        with pytest.raises(InvalidInput):
            complete(theirs, other.upload, now=now)
        discard(theirs, now=now)
        assert complete(mine, made.upload, now=now) is True

    def test_pushes_of_one_model_share_it(self, mine: Version, now: datetime) -> None:
        made = begin(mine, now=now)
        put_parts(made)
        again = begin(reserve("vad", now=now), now=now)
        assert (again.upload, [part.number for part in again.held]) == (made.upload, [1])

    def test_what_was_discarded_leaves_nothing(
        self, mine: Version, s3_server: S3Server, now: datetime
    ) -> None:
        begun = begin(mine, now=now)
        put_parts(begun)
        key, upload_id = multipart._place(_store(), MultipartUpload.objects.get())
        discard(mine, now=now)
        assert not MultipartUpload.objects.exists()
        with pytest.raises(NoSuchUpload):
            _store().parts(key, upload_id)
        assert s3_server.objects("owners") == []

    def test_it_stays_while_another_push_of_the_model_wants_it(
        self, mine: Version, now: datetime
    ) -> None:
        made = begin(mine, now=now)
        put_parts(made)
        again = reserve("vad", now=now)
        discard(mine, now=now)
        assert complete(again, made.upload, now=now) is True

    def test_one_that_begins_while_it_is_discarded_ends_at_once(
        self, mine: Version, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        store, begun = _store(), []
        begin_there = store.begin

        def discarding(key: str) -> str:
            discard(mine, now=now)
            begun.append((key, begin_there(key)))
            return begun[0][1]

        monkeypatch.setattr(store, "begin", discarding)
        with pytest.raises(NotFound) as caught:
            begin(mine, now=now)
        assert caught.value.code == "version-unknown"
        assert not MultipartUpload.objects.exists()
        with pytest.raises(NoSuchUpload):
            store.parts(*begun[0])


def _store() -> Any:
    store = s3_store()
    assert store is not None
    return store


@pytest.mark.django_db(transaction=True)
def test_rows_of_before_they_had_a_model_make_room_for_it(now: datetime) -> None:
    before, after = ("catalog", "0005_sent_bytes"), ("catalog", "0006_uploads_of_models")

    def migrate(target: tuple[str, str]) -> Any:
        executor = MigrationExecutor(connection)
        executor.migrate([target])
        return executor.loader.project_state([target]).apps.get_model("catalog", "MultipartUpload")

    row = {"sha256": SHA, "upload_id": "n:u", "size_bytes": 1, "part_bytes": 1, "started_at": now}
    for version in (reserve("vad", now=now), reserve("asr", now=now)):
        MultipartUpload.objects.create(model=version.model, **row)
    try:
        migrate(before).objects.create(**row)
        assert not migrate(after).objects.exists()
    finally:
        migrate(after)
