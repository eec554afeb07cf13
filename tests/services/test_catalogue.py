"""A version goes in whole and never changes; wrong bytes leave nothing behind."""

import errno
import hashlib
import io
from datetime import datetime
from pathlib import Path

import pytest

from controlplane.audit.models import Event
from controlplane.catalog import services
from controlplane.catalog.builds import Build
from controlplane.catalog.models import Blob, Model, Version, VersionFile, VersionState
from controlplane.catalog.queries import blob_store, manifest_of, missing_digests
from controlplane.catalog.services import (
    create_model,
    create_version,
    discard_upload,
    finalise_version,
    store_blob,
)
from controlplane.catalog.store import BlobStore, StoreFull
from controlplane.catalog.uploads import upload_state
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from tests.factories import ACTOR, version_files
from tests.factories import manifest_of as manifest_for
from tests.services.threads import at_once, failures

FILES = version_files("catalogue")
MODEL_BYTES = FILES["model.py"]
CONFIG_SHA = hashlib.sha256(FILES["config.pbtxt"]).hexdigest()
MODEL_SHA = hashlib.sha256(MODEL_BYTES).hexdigest()


def reserve(
    files: dict[str, bytes] = FILES, number: int | None = None, *, model: str = "vad", now: datetime
) -> tuple[Version, bool]:
    return create_version(
        model_name=model, number=number, manifest=manifest_for(files), actor=ACTOR, now=now
    )


def put(
    version: Version, data: bytes = MODEL_BYTES, sha256: str = MODEL_SHA, *, now: datetime
) -> bool:
    return store_blob(version=version, sha256=sha256, stream=io.BytesIO(data), now=now)


def put_all(version: Version, files: dict[str, bytes] = FILES, *, now: datetime) -> None:
    for data in files.values():
        put(version, data, hashlib.sha256(data).hexdigest(), now=now)


def kept(artifacts: Path) -> list[Path]:
    return [path for path in artifacts.rglob("*") if path.is_file()]


class TestReserving:
    def test_numbers_rise_from_1_and_the_model_comes_with_the_first(self, now: datetime) -> None:
        numbers = [reserve(version_files(label), now=now)[0].number for label in "abc"]

        assert numbers == [1, 2, 3]
        assert Model.objects.get().name == "vad"

    def test_the_same_push_again_is_the_same_version(self, now: datetime) -> None:
        first, created = reserve(now=now)
        again, created_again = reserve(now=now)
        numbered, created_numbered = reserve(number=1, now=now)

        assert (created, created_again, created_numbered) == (True, False, False)
        assert first == again == numbered
        assert Event.objects.filter(action="version.created").count() == 1

    def test_other_bytes_under_a_number_are_refused_and_nothing_changes(
        self, now: datetime
    ) -> None:
        first, _ = reserve(number=7, now=now)

        with pytest.raises(Conflict) as caught:
            reserve(version_files("other"), number=7, now=now)

        assert caught.value.code == "version-exists"
        assert Version.objects.get().manifest_digest == first.manifest_digest
        assert VersionFile.objects.count() == 3

    def test_the_same_bytes_under_another_number_are_refused_and_say_where_they_are(
        self, now: datetime
    ) -> None:
        reserve(now=now)
        with pytest.raises(Conflict) as caught:
            reserve(number=2, now=now)
        assert (caught.value.code, caught.value.extra) == ("version-bytes-exist", {"version": "1"})

    def test_the_same_bytes_may_be_another_model(self, now: datetime) -> None:
        assert reserve(now=now)[1]
        assert reserve(model="ocr", now=now)[1]

    def test_a_bad_manifest_makes_no_model(self, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            create_version(model_name="vad", number=None, manifest={}, actor=ACTOR, now=now)
        assert caught.value.code == "manifest-invalid"
        assert not Model.objects.exists()

    def test_a_refused_number_makes_no_model_either(self, now: datetime) -> None:
        reserve(number=2_147_483_647, now=now)
        with pytest.raises(Conflict) as caught:
            reserve(version_files("next"), now=now)
        assert caught.value.code == "version-numbers-used-up"

    @pytest.mark.parametrize(
        "name", ["", "a/b", "..", ".vad", "-vad", "v ad", "v\0ad", "v" * 65, "vad\n", "v\u00e4d"]
    )
    def test_a_name_that_no_folder_should_have_is_refused(self, name: str, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            create_model(name=name, actor=ACTOR, now=now)
        assert caught.value.code == "model-name-invalid"

    def test_a_name_that_an_agent_uses_for_candidates_is_refused(self, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            create_model(name="vad--candidate", actor=ACTOR, now=now)
        assert caught.value.code == "model-name-invalid"

    @pytest.mark.parametrize(
        "labels", [{"a": 1}, {1: "a"}, {"a": "x" * 200}, {str(n): "" for n in range(51)}]
    )
    def test_labels_of_another_shape_are_refused(self, labels: object, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            create_version(
                model_name="vad",
                number=None,
                manifest=manifest_for(FILES),
                labels=labels,  # type: ignore[arg-type]  # wrong on purpose
                actor=ACTOR,
                now=now,
            )
        assert caught.value.code == "labels-invalid"


class TestBytes:
    def test_are_kept_under_their_digest(self, artifacts: Path, now: datetime) -> None:
        version, _ = reserve(now=now)

        assert put(version, now=now) is True

        (path,) = kept(artifacts)
        assert (path.name, path.read_bytes()) == (MODEL_SHA, MODEL_BYTES)
        assert Blob.objects.get().size_bytes == len(MODEL_BYTES)
        assert put(version, now=now) is False

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            pytest.param(MODEL_BYTES[:-1], "size-mismatch", id="one byte short"),
            pytest.param(MODEL_BYTES + b"x", "size-mismatch", id="one byte long"),
            pytest.param(b"", "size-mismatch", id="empty"),
            pytest.param(MODEL_BYTES[:-2] + b"x\n", "digest-mismatch", id="one byte other"),
        ],
    )
    def test_that_do_not_match_leave_nothing_behind(
        self, data: bytes, code: str, artifacts: Path, now: datetime
    ) -> None:
        version, _ = reserve(now=now)

        with pytest.raises(InvalidInput) as caught:
            put(version, data, now=now)

        assert caught.value.code == code
        assert kept(artifacts) == []
        assert not Blob.objects.exists()
        assert put(version, now=now) is True

    def test_that_the_version_does_not_name_are_not_even_read(self, now: datetime) -> None:
        version, _ = reserve(now=now)
        stream = io.BytesIO(b"x")
        with pytest.raises(NotFound) as caught:
            store_blob(version=version, sha256="0" * 64, stream=stream, now=now)
        assert caught.value.code == "blob-not-in-manifest"
        assert stream.tell() == 0

    def test_that_break_off_leave_nothing_behind(self, artifacts: Path, now: datetime) -> None:
        class Cut(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                raise ConnectionResetError(errno.ECONNRESET, "the client went away")

        version, _ = reserve(now=now)
        with pytest.raises(ConnectionResetError):
            store_blob(version=version, sha256=MODEL_SHA, stream=Cut(), now=now)
        assert kept(artifacts) == []
        assert not Blob.objects.exists()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_that_find_no_room_leave_nothing_behind(self, number: int, tmp_path: Path) -> None:
        class FullStore(BlobStore):
            def _publish(self, temporary: Path, final: Path) -> None:
                raise OSError(number, "no room")

        store = FullStore(tmp_path / "full")
        with pytest.raises(StoreFull) as caught:
            store.put(stream=io.BytesIO(MODEL_BYTES), sha256=MODEL_SHA, size_bytes=len(MODEL_BYTES))
        assert caught.value.code == "store-full"
        assert kept(tmp_path / "full") == []

    def test_that_the_disk_lost_can_be_pushed_again(self, artifacts: Path, now: datetime) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)
        finalise_version(version=version, actor=ACTOR, now=now)
        blob_store().path(MODEL_SHA).unlink()

        assert put(version, now=now) is True
        assert blob_store().path(MODEL_SHA).read_bytes() == MODEL_BYTES

    def test_of_an_empty_file_are_bytes_too(self, now: datetime) -> None:
        files = {**FILES, "empty": b""}
        version, _ = reserve(files, now=now)
        put_all(version, files, now=now)
        assert finalise_version(version=version, actor=ACTOR, now=now)


class TestFinalising:
    def test_wants_every_byte_and_names_what_is_missing(self, now: datetime) -> None:
        version, _ = reserve(now=now)
        put(version, now=now)

        with pytest.raises(Conflict) as caught:
            finalise_version(version=version, actor=ACTOR, now=now)

        assert caught.value.code == "blobs-missing"
        assert caught.value.extra == {
            "missing": missing_digests(manifest_of(version), version.model)
        }
        assert MODEL_SHA not in caught.value.extra["missing"]  # type: ignore[operator]  # a list
        version.refresh_from_db()
        assert version.state == VersionState.UPLOADING

    def test_twice_is_once(self, now: datetime) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)

        first = finalise_version(version=version, actor=ACTOR, now=now)
        again = finalise_version(version=version, actor=ACTOR, now=now.replace(year=2027))

        assert first.registered_at == again.registered_at == now
        assert Event.objects.filter(action="version.registered").count() == 1

    def test_bytes_that_are_here_need_not_be_sent_again(self, now: datetime) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)
        other, _ = reserve({**FILES, "model.py": b"other"}, now=now)

        assert missing_digests(manifest_of(other), other.model) == [
            hashlib.sha256(b"other").hexdigest()
        ]

    def test_bytes_that_another_model_brought_are_asked_for(
        self, artifacts: Path, now: datetime
    ) -> None:
        """To know a digest is not to have the file."""
        version, _ = reserve(now=now)
        put_all(version, now=now)
        finalise_version(version=version, actor=ACTOR, now=now)
        stranger, _ = reserve(model="ocr", now=now)
        digests = sorted(hashlib.sha256(data).hexdigest() for data in FILES.values())

        assert missing_digests(manifest_of(stranger), stranger.model) == digests
        assert not upload_state(version=stranger, sha256=MODEL_SHA).done
        with pytest.raises(Conflict) as caught:
            finalise_version(version=stranger, actor=ACTOR, now=now)
        assert (caught.value.code, caught.value.extra) == ("blobs-missing", {"missing": digests})
        with pytest.raises(InvalidInput):
            put(stranger, b"#" * len(MODEL_BYTES), now=now)
        assert MODEL_SHA in missing_digests(manifest_of(stranger), stranger.model)

        # Whoever has them sends them; they are kept once.
        before = sorted(kept(artifacts))
        assert put(stranger, now=now) is False
        put_all(stranger, now=now)
        assert sorted(kept(artifacts)) == before
        assert finalise_version(version=stranger, actor=ACTOR, now=now).registered_at == now

    def test_no_finding_quotes_bytes_that_were_not_sent(self, now: datetime) -> None:
        secret = {**FILES, "labels.txt": b"patient 4711: Mustermann\n"}
        version, _ = reserve(secret, now=now)
        put_all(version, secret, now=now)
        golden = version_files("thief")["golden.json"]
        thief, _ = reserve(
            {"config.pbtxt": secret["labels.txt"], "golden.json": golden, "model.py": b"x"},
            model="thief",
            now=now,
        )
        for data in (golden, b"x"):
            put(thief, data, hashlib.sha256(data).hexdigest(), now=now)
        with pytest.raises(Conflict) as caught:
            finalise_version(version=thief, actor=ACTOR, now=now)
        assert caught.value.code == "blobs-missing"
        assert "Mustermann" not in str(vars(caught.value))

    def test_what_a_discarded_push_sent_its_models_others_need_not_send(
        self, now: datetime
    ) -> None:
        first, _ = reserve(now=now)
        put_all(first, now=now)
        files = {**FILES, "model.py": b"other"}
        second, _ = reserve(files, now=now)
        put(second, b"other", hashlib.sha256(b"other").hexdigest(), now=now)
        discard_upload(version=first, actor=ACTOR, now=now)
        assert missing_digests(manifest_of(second), second.model) == []
        assert finalise_version(version=second, actor=ACTOR, now=now).registered_at == now

    def test_a_manifest_that_lies_about_the_size_of_bytes_that_are_here_is_not_registered(
        self, now: datetime
    ) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)
        manifest = manifest_for({**FILES, "extra.py": b"extra"})
        for entry in manifest["files"]:  # type: ignore[attr-defined]  # a list
            if entry["sha256"] == MODEL_SHA:
                entry["size"] += 1
        liar, _ = create_version(
            model_name="vad", number=None, manifest=manifest, actor=ACTOR, now=now
        )
        put(liar, b"extra", hashlib.sha256(b"extra").hexdigest(), now=now)

        with pytest.raises(Conflict) as caught:
            finalise_version(version=liar, actor=ACTOR, now=now)
        assert caught.value.extra == {"missing": [MODEL_SHA]}
        with pytest.raises(InvalidInput):
            put(liar, now=now)
        assert blob_store().path(MODEL_SHA).read_bytes() == MODEL_BYTES

    def test_an_unfinished_push_can_be_discarded_and_a_registered_one_can_not(
        self, now: datetime
    ) -> None:
        version, _ = reserve(now=now)
        discard_upload(version=version, actor=ACTOR, now=now)
        assert not Version.objects.exists()

        version, _ = reserve(now=now)
        assert version.number == 1
        put_all(version, now=now)
        finalise_version(version=version, actor=ACTOR, now=now)
        with pytest.raises(Conflict) as caught:
            discard_upload(version=version, actor=ACTOR, now=now)
        assert caught.value.code == "version-registered"
        assert Version.objects.count() == 1

    def test_what_was_discarded_meanwhile_is_said_to_be_gone(self, now: datetime) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)
        Version.objects.all().delete()

        with pytest.raises(NotFound) as caught:
            finalise_version(version=version, actor=ACTOR, now=now)
        assert caught.value.code == "version-unknown"

    def test_bytes_that_went_with_the_version_are_not_asked_for_again(self, now: datetime) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)
        discard_upload(version=Version.objects.get(pk=version.pk), actor=ACTOR, now=now)

        with pytest.raises(NotFound) as caught:
            finalise_version(version=version, actor=ACTOR, now=now)
        assert caught.value.code == "version-unknown"

    @pytest.mark.parametrize("discarded", [True, False])
    def test_bytes_that_go_while_they_are_read_are_said_to_be_gone(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch, discarded: bool
    ) -> None:
        version, _ = reserve(now=now)
        put_all(version, now=now)

        def read(row: Version) -> list[Build]:
            found = row.variants.all()
            assert len(found) == 1  # it had begun
            if discarded:
                discard_upload(version=row, actor=ACTOR, now=now)
            else:
                blob_store().remove(CONFIG_SHA)
            with blob_store().local(CONFIG_SHA):
                raise AssertionError("the file is there still")

        monkeypatch.setattr(services, "check_builds", read)
        with pytest.raises(NotFound if discarded else Conflict) as caught:
            finalise_version(version=version, actor=ACTOR, now=now)
        assert caught.value.code == ("version-unknown" if discarded else "blobs-missing")


@pytest.mark.usefixtures("transactional_db")
class TestRaces:
    def test_pushes_of_other_bytes_get_numbers_of_their_own(self, now: datetime) -> None:
        labels = [f"racer {n}" for n in range(6)]

        results = at_once(lambda label: reserve(version_files(label), now=now)[0].number, labels)

        assert sorted(results) == [1, 2, 3, 4, 5, 6]  # type: ignore[type-var]  # numbers

    def test_pushes_of_the_same_bytes_are_one_version(self, now: datetime) -> None:
        results = at_once(lambda _: reserve(now=now)[1], range(6))

        assert sorted(results) == [False] * 5 + [True]  # type: ignore[type-var]  # booleans
        assert VersionFile.objects.count() == 3

    def test_of_two_pushes_under_one_number_one_wins(self, now: datetime) -> None:
        labels = [f"racer {n}" for n in range(4)]

        results = at_once(lambda label: reserve(version_files(label), number=5, now=now), labels)

        assert [getattr(e, "code", e) for e in failures(results)] == ["version-exists"] * 3
        assert Version.objects.count() == 1

    def test_the_same_bytes_from_two_jobs_are_kept_once(
        self, artifacts: Path, now: datetime
    ) -> None:
        version, _ = reserve(now=now)

        results = at_once(lambda _: put(version, now=now), range(6))

        assert failures(results) == []
        assert len(kept(artifacts)) == 1

    def test_a_version_is_never_registered_and_discarded_both(self, now: datetime) -> None:
        for turn in range(8):
            files = version_files(f"turn {turn}")
            version, _ = reserve(files, now=now)
            put_all(version, files, now=now)

            results = at_once(
                lambda verb, version=version: verb(version=version, actor=ACTOR, now=now),
                [finalise_version, discard_upload],
            )

            (error,) = failures(results)
            left = Version.objects.filter(pk=version.pk).first()
            code = getattr(error, "code", error)
            assert (left is not None, code) in [
                (True, "version-registered"),
                (False, "version-unknown"),
            ]
