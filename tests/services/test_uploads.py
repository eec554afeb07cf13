"""Bytes arrive whole, in pieces, or straight at a bucket; they count once they were hashed here,
and whatever is refused leaves nothing."""

import errno
import hashlib
import io
import itertools
import os
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from controlplane.catalog import multipart, partials, uploads
from controlplane.catalog.models import Blob, MultipartUpload, Version
from controlplane.catalog.multipart import (
    Multipart,
    abort_multipart,
    begin_multipart,
    complete_multipart,
)
from controlplane.catalog.partials import Piece
from controlplane.catalog.s3_settings import S3Settings, s3_settings
from controlplane.catalog.store import BlobStore, StoreFull, StoreUnavailable
from controlplane.catalog.stores import artifact_store, s3_store
from controlplane.catalog.uploads import (
    append_piece,
    drop_stale_uploads,
    store_blob,
    upload_state,
)
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from tests.factories import make_version, version_files
from tests.s3_server import S3Server, running_s3
from tests.services.threads import at_once, failures

BIG = random.Random(5).randbytes(300_000)
BIG_SHA = hashlib.sha256(BIG).hexdigest()
MIB = 1 << 20


@pytest.fixture
def version(now: datetime) -> Version:
    files = {**version_files("uploads"), "weights.bin": BIG}
    return make_version(registered=False, files=files, now=now)


def send(
    version: Version, start: int, end: int, *, data: bytes = BIG, total: int = 0, now: datetime
) -> Any:
    return append_piece(
        version=version,
        sha256=BIG_SHA,
        piece=Piece(start=start, end=end, total=total or len(BIG)),
        stream=io.BytesIO(data[start:end]),
        now=now,
    )


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestPieces:
    def test_a_file_cut_anywhere_goes_on_there(self, version: Version, now: datetime) -> None:
        chance = random.Random(11)
        cuts = sorted({0, len(BIG), *(chance.randrange(len(BIG)) for _ in range(9))})
        for start, end in itertools.pairwise(cuts):
            assert upload_state(version=version, sha256=BIG_SHA).offset == start
            state = send(version, start, end, now=now)
            assert state.offset == end
        assert state.done
        with artifact_store().open(BIG_SHA) as file:
            assert file.read() == BIG
        assert Blob.objects.get(sha256=BIG_SHA).size_bytes == len(BIG)
        assert upload_state(version=version, sha256=BIG_SHA).done

    def test_it_counts_for_nothing_before_the_last_piece(
        self, version: Version, now: datetime
    ) -> None:
        send(version, 0, len(BIG) - 1, now=now)
        assert not Blob.objects.exists()
        assert not artifact_store().holds(BIG_SHA, len(BIG))

    @pytest.mark.parametrize("start", [0, 999, 1001, 200_000])
    def test_elsewhere_than_at_the_end_is_told_where_the_end_is(
        self, version: Version, start: int, now: datetime
    ) -> None:
        send(version, 0, 1000, now=now)
        with pytest.raises(Conflict) as caught:
            send(version, start, start + 500, now=now)
        assert caught.value.code == "upload-offset"
        assert caught.value.extra["offset"] == 1000
        assert upload_state(version=version, sha256=BIG_SHA).offset == 1000

    @pytest.mark.parametrize("said", [1001, 999])
    def test_a_body_of_another_length_adds_nothing(
        self, version: Version, said: int, now: datetime
    ) -> None:
        send(version, 0, 500, now=now)
        with pytest.raises(InvalidInput) as caught:
            append_piece(
                version=version,
                sha256=BIG_SHA,
                piece=Piece(start=500, end=500 + said, total=len(BIG)),
                stream=io.BytesIO(BIG[500:1500]),
                now=now,
            )
        assert caught.value.code == "size-mismatch"
        assert upload_state(version=version, sha256=BIG_SHA).offset == 500

    @pytest.mark.parametrize("total", [len(BIG) - 1, len(BIG) + 1, 1 << 40])
    def test_a_lie_about_the_size_is_refused(
        self, version: Version, total: int, artifacts: Path, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            send(version, 0, 100, total=total, now=now)
        assert caught.value.code == "content-range-invalid"
        assert kept(artifacts) == []

    def test_other_bytes_are_found_at_the_end_and_leave_nothing(
        self, version: Version, artifacts: Path, now: datetime
    ) -> None:
        other = BIG[:1000] + b"?" + BIG[1001:]
        send(version, 0, 5000, data=other, now=now)
        with pytest.raises(InvalidInput) as caught:
            send(version, 5000, len(BIG), now=now)
        assert caught.value.code == "digest-mismatch"
        assert kept(artifacts) == []
        assert not Blob.objects.exists()
        assert send(version, 0, len(BIG), now=now).done

    def test_a_file_of_no_manifest_is_no_file(self, version: Version, now: datetime) -> None:
        for ask in (
            lambda: upload_state(version=version, sha256="0" * 64),
            lambda: append_piece(
                version=version,
                sha256="0" * 64,
                piece=Piece(start=0, end=1, total=1),
                stream=io.BytesIO(b"x"),
                now=now,
            ),
        ):
            with pytest.raises(NotFound) as caught:
                ask()
            assert caught.value.code == "blob-not-in-manifest"

    def test_a_full_disk_takes_the_piece_back(
        self, version: Version, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        send(version, 0, 1000, now=now)

        def no_room(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "no room")

        with monkeypatch.context() as patch:
            patch.setattr(partials.os, "fsync", no_room)
            with pytest.raises(StoreFull):
                send(version, 1000, 2000, now=now)
        assert upload_state(version=version, sha256=BIG_SHA).offset == 1000
        assert send(version, 1000, len(BIG), now=now).done

    def test_a_refused_first_piece_leaves_no_partial(
        self, version: Version, artifacts: Path, now: datetime
    ) -> None:
        with pytest.raises(Conflict):
            send(version, 10, 20, now=now)
        assert kept(artifacts) == []

    def test_a_writer_killed_before_it_took_the_file_in_loses_nothing(
        self, version: Version, artifacts: Path, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        def killed(*arguments: Any, **more: Any) -> None:
            raise KeyboardInterrupt

        send(version, 0, 1000, now=now)
        with monkeypatch.context() as patch:
            patch.setattr(partials, "_publish", killed)
            with pytest.raises(KeyboardInterrupt):
                send(version, 1000, len(BIG), now=now)
        assert upload_state(version=version, sha256=BIG_SHA).offset == 0
        with monkeypatch.context() as patch:
            patch.setattr(uploads, "keep_row", killed)
            with pytest.raises(KeyboardInterrupt):
                send(version, 0, 10, now=now)
        # What lies in the store and in no book proves nothing about who sends: it comes again.
        assert not send(version, 0, 10, now=now).done
        assert send(version, 10, len(BIG), now=now).done
        assert Blob.objects.filter(sha256=BIG_SHA).exists()
        assert kept(artifacts) == [BIG_SHA]

    def test_it_is_there_already(self, version: Version, now: datetime) -> None:
        send(version, 0, len(BIG), now=now)
        assert send(version, 0, 10, now=now).done

    def test_abandoned_ones_go_after_a_day_and_others_stay(
        self, version: Version, artifacts: Path, now: datetime
    ) -> None:
        send(version, 0, 1000, now=now)
        (partial,) = (artifacts / partials.FOLDER).iterdir()
        touched = datetime.fromtimestamp(partial.stat().st_mtime, tz=UTC)
        assert drop_stale_uploads(now=touched + timedelta(hours=23)) == 0
        assert partial.exists()
        assert drop_stale_uploads(now=touched + timedelta(hours=25)) == 1
        assert not partial.exists()


class Slow(io.BytesIO):
    """Lets go of the interpreter between reads, so that writers really meet."""

    def read(self, size: int | None = -1, /) -> bytes:
        os.sched_yield()
        return super().read(4096)


@pytest.mark.django_db(transaction=True)
def test_pushes_of_the_same_file_at_once_never_mix(version: Version, now: datetime) -> None:
    def push(chance: random.Random) -> None:
        for _ in range(10_000):
            state = upload_state(version=version, sha256=BIG_SHA)
            if state.done:
                return
            end = min(len(BIG), state.offset + chance.randrange(1, 40_000))
            piece = Piece(start=state.offset, end=end, total=len(BIG))
            stream = Slow(BIG[state.offset : end])
            try:
                append_piece(version=version, sha256=BIG_SHA, piece=piece, stream=stream, now=now)
            except Conflict as error:
                if error.code not in ("upload-busy", "upload-offset"):
                    raise
        raise AssertionError("it never ended")

    assert not failures(at_once(push, [random.Random(n) for n in range(4)]))
    with artifact_store().open(BIG_SHA) as file:
        assert hashlib.sha256(file.read()).hexdigest() == BIG_SHA
    assert Blob.objects.filter(sha256=BIG_SHA).count() == 1


# --- Straight into a bucket ---------------------------------------------------------------------

LARGE = random.Random(6).randbytes(11 * MIB + 17)
LARGE_SHA = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server, settings: Any, monkeypatch: pytest.MonkeyPatch) -> S3Settings:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(multipart, "PART_BYTES", 5 * MIB)
    settings.WAYPOST_S3 = s3_server.bucket("artifacts")
    return settings.WAYPOST_S3


@pytest.fixture
def large(now: datetime) -> Version:
    files = {**version_files("large"), "weights.bin": LARGE}
    return make_version(registered=False, files=files, now=now)


def begin(version: Version, *, first: int = 1, now: datetime) -> Multipart:
    return begin_multipart(
        version=version, sha256=LARGE_SHA, size_bytes=len(LARGE), first=first, now=now
    )


def put_part(url: str, data: bytes) -> httpx2.Response:
    with httpx2.Client(trust_env=False) as client:
        return client.put(url, content=data, headers={"Content-Length": str(len(data))})


def put_parts(made: Multipart, data: bytes = LARGE) -> dict[int, str]:
    etags = {}
    for part in made.parts:
        answer = put_part(part.url, data[part.offset : part.offset + part.size_bytes])
        assert answer.status_code == 200, answer.text
        etags[part.number] = answer.headers["ETag"]
    return etags


def complete(version: Version, upload: str, parts: dict[int, str], *, now: datetime) -> bool:
    return complete_multipart(
        version=version, sha256=LARGE_SHA, upload=upload, parts=parts, now=now
    )


@pytest.mark.usefixtures("bucket")
class TestBucket:
    def test_a_large_file_goes_there_in_parts_and_counts_when_it_was_read(
        self, large: Version, s3_server: S3Server, now: datetime
    ) -> None:
        assert upload_state(version=large, sha256=LARGE_SHA).in_parts
        made = begin(large, now=now)
        assert [part.size_bytes for part in made.parts] == [5 * MIB, 5 * MIB, MIB + 17]
        etags = put_parts(made)
        assert not Blob.objects.exists()
        assert complete(large, made.upload, etags, now=now) is True
        (kept_object,) = s3_server.objects("artifacts")
        where = f"models/sha256/{LARGE_SHA[:2]}/{LARGE_SHA[2:4]}/{LARGE_SHA}"
        assert kept_object == s3_server.place("artifacts") / where
        assert kept_object.read_bytes() == LARGE
        assert Blob.objects.get().size_bytes == len(LARGE)
        assert not MultipartUpload.objects.exists()
        assert begin(large, now=now).done
        assert complete(large, made.upload, etags, now=now) is False

    def test_one_that_was_cut_sends_only_the_parts_that_are_not_there(
        self, large: Version, now: datetime
    ) -> None:
        made = begin(large, now=now)
        second = made.parts[1]
        put_part(second.url, LARGE[second.offset : second.offset + second.size_bytes])
        again = begin(large, now=now)
        assert again.upload == made.upload
        assert [part.number for part in again.held] == [2]
        assert [part.number for part in again.parts] == [1, 3]
        with pytest.raises(Conflict) as caught:
            complete(large, made.upload, {}, now=now)
        assert (caught.value.code, caught.value.extra["numbers"]) == ("parts-missing", [1, 3])
        put_parts(again)
        assert complete(large, made.upload, {}, now=now) is True

    def test_urls_come_a_page_at_a_time(
        self, large: Version, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        monkeypatch.setattr(multipart, "URLS_A_PAGE", 2)
        made = begin(large, now=now)
        assert ([part.number for part in made.parts], made.next) == ([1, 2], 3)
        put_parts(made)
        rest = begin(large, first=3, now=now)
        assert ([part.number for part in rest.parts], rest.next) == ([3], None)

    @pytest.mark.parametrize("extra", [-1, 1])
    def test_a_url_takes_the_very_size_and_part_it_was_signed_for(
        self, large: Version, extra: int, now: datetime
    ) -> None:
        last = begin(large, now=now).parts[-1]
        assert put_part(last.url, b"x" * (last.size_bytes + extra)).status_code == 403
        forged = last.url.replace("partNumber=3", "partNumber=2")
        assert put_part(forged, b"x" * last.size_bytes).status_code == 403

    def test_other_bytes_are_found_when_they_are_read_and_leave_nothing(
        self, large: Version, s3_server: S3Server, now: datetime
    ) -> None:
        made = begin(large, now=now)
        etags = put_parts(made, LARGE[:-1] + b"?")
        with pytest.raises(InvalidInput) as caught:
            complete(large, made.upload, etags, now=now)
        assert caught.value.code == "digest-mismatch"
        assert s3_server.objects("artifacts") == []
        assert not Blob.objects.exists()
        assert not MultipartUpload.objects.exists()
        fresh = begin(large, now=now)
        assert complete(large, fresh.upload, put_parts(fresh), now=now) is True

    def test_a_part_that_was_changed_after_it_was_sent_is_told(
        self, large: Version, now: datetime
    ) -> None:
        made = begin(large, now=now)
        etags = put_parts(made)
        put_part(made.parts[1].url, b"?" * made.parts[1].size_bytes)
        with pytest.raises(Conflict) as caught:
            complete(large, made.upload, etags, now=now)
        assert (caught.value.code, caught.value.extra["numbers"]) == ("parts-changed", [2])
        assert not Blob.objects.exists()

    def test_what_is_changed_between_the_putting_together_and_the_look_is_found(
        self, large: Version, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        store = s3_store()
        assert store is not None
        together = store.complete

        def tampered(*arguments: Any) -> None:
            together(*arguments)
            (whole,) = s3_server.objects("artifacts")
            whole.write_bytes(whole.read_bytes()[:-1] + b"?")

        monkeypatch.setattr(store, "complete", tampered)
        made = begin(large, now=now)
        etags = put_parts(made)
        with pytest.raises(InvalidInput):
            complete(large, made.upload, etags, now=now)
        assert s3_server.objects("artifacts") == []

    def test_a_call_that_was_cut_after_the_putting_together_goes_on_at_the_next(
        self, large: Version, monkeypatch: pytest.MonkeyPatch, now: datetime
    ) -> None:
        store = s3_store()
        assert store is not None

        def cut(key: str) -> None:
            raise StoreUnavailable("store-unavailable", "cut")

        made = begin(large, now=now)
        etags = put_parts(made)
        with monkeypatch.context() as patch:
            patch.setattr(store, "digest_of", cut)
            with pytest.raises(StoreUnavailable):
                complete(large, made.upload, etags, now=now)
        again = begin(large, now=now)
        assert (again.upload, again.parts, again.next) == (made.upload, (), None)
        assert complete(large, again.upload, {}, now=now) is True

    def test_an_end_takes_everything_along(
        self, large: Version, s3_server: S3Server, now: datetime
    ) -> None:
        made = begin(large, now=now)
        etags = put_parts(made)
        abort_multipart(version=large, sha256=LARGE_SHA, upload=made.upload)
        with pytest.raises(NotFound) as caught:
            complete(large, made.upload, etags, now=now)
        assert caught.value.code == "upload-unknown"
        assert s3_server.objects("artifacts") == []
        assert begin(large, now=now).upload != made.upload

    def test_abandoned_ones_go_after_a_day(self, large: Version, now: datetime) -> None:
        later = datetime.now(UTC) + timedelta(hours=25)
        made = begin(large, now=datetime.now(UTC))
        assert drop_stale_uploads(now=later - timedelta(hours=3)) == 0
        assert drop_stale_uploads(now=later) >= 0
        assert not MultipartUpload.objects.exists()
        assert begin(large, now=now).upload != made.upload

    def test_a_wrong_size_is_refused_before_anything_begins(
        self, large: Version, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            begin_multipart(version=large, sha256=LARGE_SHA, size_bytes=5, now=now)
        assert caught.value.code == "size-mismatch"
        assert not MultipartUpload.objects.exists()

    def test_small_files_pass_through_us_hashed(
        self, version: Version, s3_server: S3Server, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput):
            store_blob(version=version, sha256=BIG_SHA, stream=io.BytesIO(BIG[::-1]), now=now)
        assert s3_server.objects("artifacts") == []
        assert store_blob(version=version, sha256=BIG_SHA, stream=io.BytesIO(BIG), now=now)
        store = artifact_store()
        assert store.holds(BIG_SHA, len(BIG))
        with store.open(BIG_SHA, 1000) as body:
            assert body.read(500) == BIG[1000:1500]
        with store.reader(BIG_SHA) as read:
            assert read(len(BIG) - 10, 100) == BIG[-10:]
            assert read(len(BIG) + 10, 100) == b""
            assert read(5, 7) == BIG[5:12]
        with store.local(BIG_SHA) as path:
            assert path.read_bytes() == BIG
        assert not path.exists()
        store.remove(BIG_SHA)
        assert not store.holds(BIG_SHA, len(BIG))
        with pytest.raises(FileNotFoundError):
            store.open(BIG_SHA)

    def test_an_empty_file_is_kept_too(self, now: datetime) -> None:
        files = {**version_files("empty"), "empty": b""}
        version = make_version(registered=False, files=files, now=now)
        digest = hashlib.sha256(b"").hexdigest()
        assert store_blob(version=version, sha256=digest, stream=io.BytesIO(b""), now=now)
        with artifact_store().open(digest) as body:
            assert body.read() == b""

    def test_pieces_are_for_disks(self, version: Version, now: datetime) -> None:
        with pytest.raises(Conflict) as caught:
            send(version, 0, 100, now=now)
        assert caught.value.code == "upload-in-parts"


def test_parts_are_for_buckets(version: Version, now: datetime) -> None:
    with pytest.raises(Conflict) as caught:
        begin_multipart(version=version, sha256=BIG_SHA, size_bytes=len(BIG), now=now)
    assert caught.value.code == "upload-not-in-parts"


class TestSettings:
    GIVEN = {
        "bucket": "models", "endpoint": "https://s3.example.com/", "prefix": "/waypost/",
        "region": "eu-west-1", "access_key": "", "secret_key": "",
    }  # fmt: skip

    def test_are_taken_as_they_are_meant(self) -> None:
        made = s3_settings(**self.GIVEN)
        assert made is not None
        assert (made.endpoint, made.prefix) == ("https://s3.example.com", "waypost")

    def test_without_a_bucket_files_are_on_disk(self) -> None:
        assert s3_settings(**{**self.GIVEN, "bucket": "", "endpoint": "", "prefix": ""}) is None

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"bucket": ""}, "WAYPOST_S3_ENDPOINT and WAYPOST_S3_PREFIX without WAYPOST_S3_BUCKET"),
            ({"bucket": "No Such"}, "WAYPOST_S3_BUCKET is 'No Such'"),
            ({"endpoint": "s3.example.com"}, "WAYPOST_S3_ENDPOINT is 's3.example.com'"),
            ({"access_key": "a"}, "WAYPOST_S3_SECRET_KEY go together"),
        ],
    )
    def test_that_make_no_sense_are_told(self, changes: dict[str, str], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            s3_settings(**{**self.GIVEN, **changes})

    def test_never_show_the_key(self) -> None:
        made = s3_settings(**{**self.GIVEN, "access_key": "visible-a", "secret_key": "visible-b"})
        assert "visible" not in repr(made)

    def test_that_lead_nowhere_say_so(self, bucket: S3Settings, settings: Any) -> None:
        for changes, says in (
            ({"bucket": "nothere"}, "there is no bucket nothere"),
            ({"secret_key": "wrong"}, "it refuses our keys"),
            ({"endpoint": "http://127.0.0.1:9"}, "store-unavailable"),
        ):
            settings.WAYPOST_S3 = S3Settings(**{**vars(bucket), **changes})
            store = s3_store()
            assert store is not None
            with pytest.raises(StoreUnavailable) as caught:
                store.check()
            assert says in f"{caught.value.code} {caught.value.detail}"


def test_the_store_on_disk_keeps_its_promises_for_readers(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    store.put(stream=io.BytesIO(BIG), sha256=BIG_SHA, size_bytes=len(BIG))
    with store.open(BIG_SHA, 7) as file:
        assert file.read(3) == BIG[7:10]
    with store.local(BIG_SHA) as path:
        assert path.read_bytes() == BIG
    with pytest.raises(FileNotFoundError), store.local("0" * 64):
        pass
