"""The last word of a push: what is wrong is named whole and leaves nothing behind."""

import hashlib
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.dry_run import Would, try_push
from controlplane.catalog.models import Blob, Model, Version, VersionFile, VersionState
from controlplane.catalog.queries import blob_store
from controlplane.catalog.services import create_version, finalise_version, store_blob
from controlplane.catalog.uploads import upload_state
from controlplane.domain.errors import Conflict, InvalidInput
from tests.factories import ACTOR, golden_file, make_version, manifest_of, version_files
from tests.services.threads import at_once, failures

BAD_CONFIG = b"""name: "other"
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
model_repository_agents { agents { name: "x" } }
"""


def push(files: dict[str, bytes], *, now: datetime, **asked: Any) -> Version:
    version, _ = create_version(
        model_name="vad", number=None, manifest=manifest_of(files), actor=ACTOR, now=now, **asked
    )
    for data in files.values():
        digest = hashlib.sha256(data).hexdigest()
        store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
    return version


def bad_files(label: str = "bad") -> dict[str, bytes]:
    return {**version_files(label), "config.pbtxt": BAD_CONFIG, "golden.json": b"{}"}


def kept(artifacts: Path) -> set[str]:
    return {path.name for path in artifacts.rglob("*") if path.is_file()}


class TestFaults:
    def test_are_named_all_at_once_and_nothing_is_left(
        self, artifacts: Path, now: datetime
    ) -> None:
        version = push(bad_files(), now=now)

        with pytest.raises(InvalidInput) as caught:
            finalise_version(version=version, actor=ACTOR, now=now)

        assert caught.value.code == "version-invalid"
        places = {fault.field.split()[0].split(":")[0] for fault in caught.value.errors}
        assert {"config.pbtxt", "golden.json"} <= places
        assert not Version.objects.exists()
        assert not VersionFile.objects.exists()
        assert not Blob.objects.exists()
        assert kept(artifacts) == set()
        event = Event.objects.get(action="version.discarded")
        assert "faults, the first: " in event.reason

    def test_free_the_number(self, now: datetime) -> None:
        with pytest.raises(InvalidInput):
            finalise_version(version=push(bad_files(), now=now), actor=ACTOR, now=now)
        assert push(version_files("good"), now=now).number == 1

    def test_leave_the_bytes_that_another_version_names(
        self, artifacts: Path, now: datetime
    ) -> None:
        good = make_version(files=version_files("x"), now=now)
        shared = version_files("x")["model.py"]
        # Of the same bytes here: one file of a registered version, one of a push under way.
        under_way = {**version_files("y"), "extra.py": b"# of both\n"}
        push(under_way, now=now)
        bad = {**bad_files(), "model.py": shared, "extra.py": b"# of both\n"}

        with pytest.raises(InvalidInput):
            finalise_version(version=push(bad, now=now), actor=ACTOR, now=now)

        still = {hashlib.sha256(data).hexdigest() for data in version_files("x").values()}
        still |= {hashlib.sha256(data).hexdigest() for data in under_way.values()}
        assert kept(artifacts) == still
        assert set(Blob.objects.values_list("sha256", flat=True)) == still
        assert finalise_version(version=good, actor=ACTOR, now=now).state == "approved"

    def test_of_a_shadowing_library_are_refused(self, artifacts: Path, now: datetime) -> None:
        config = version_files("so")["config.pbtxt"].replace(b"python", b"onnxruntime")
        files = {
            "config.pbtxt": config,
            "golden.json": golden_file("so"),
            "model.onnx": b"no onnx",
            "libtriton_onnxruntime.so": b"\x7fELF",
            "model.py": b"import os\n",
        }
        with pytest.raises(InvalidInput) as caught:
            finalise_version(version=push(files, now=now), actor=ACTOR, now=now)
        named = " ".join(fault.field for fault in caught.value.errors)
        assert "libtriton_onnxruntime.so" in named
        assert "model.py" in named
        assert "model.onnx" in named
        assert kept(artifacts) == set()

    @pytest.mark.usefixtures("transactional_db")
    def test_two_at_once_discard_once(self, now: datetime) -> None:
        version = push(bad_files(), now=now)
        results = at_once(
            lambda _: finalise_version(version=version, actor=ACTOR, now=now), range(2)
        )
        assert len(failures(results)) == 2
        assert Event.objects.filter(action="version.discarded").count() == 1
        assert not Version.objects.exists()

    @pytest.mark.usefixtures("transactional_db")
    def test_while_another_push_of_some_of_the_bytes_ends_lose_it_nothing(
        self, artifacts: Path, now: datetime
    ) -> None:
        shared = b"# of both\n"
        bad = push({**bad_files(), "extra.py": shared}, now=now)
        good = push({**version_files("good"), "extra.py": shared}, now=now)

        results = at_once(lambda v: finalise_version(version=v, actor=ACTOR, now=now), [bad, good])

        assert [type(error) for error in failures(results)] == [InvalidInput]
        good.refresh_from_db()
        assert good.state == VersionState.VALIDATED
        for file in good.files.all():
            assert upload_state(version=good, sha256=file.sha256).done
            assert blob_store().holds(file.sha256, file.size_bytes)


class TestWhatIsKept:
    def test_class_backend_and_warnings(self, now: datetime) -> None:
        files = version_files("policy")
        files["config.pbtxt"] += b"version_policy { latest { num_versions: 2 } }\n"
        version = finalise_version(version=push(files, now=now), actor=ACTOR, now=now)

        assert (version.content_class, version.state) == ("executable", "validated")
        (sentence,) = version.warnings
        assert sentence.startswith("config.pbtxt:6 version_policy: ")
        build = version.variants.get()
        assert (build.name, build.content_class, build.backend) == (
            "default", "executable", "python",
        )  # fmt: skip

    def test_author_and_lineage(self, now: datetime) -> None:
        version = push(
            version_files("lineage"), author="ana", lineage={"git_commit": "abc1234"}, now=now
        )
        assert (version.author, version.lineage) == ("ana", {"git_commit": "abc1234"})
        with pytest.raises(InvalidInput):
            push(version_files("other"), lineage={"git_commit": "HEAD"}, now=now)

    def test_bytes_that_the_store_lost_are_missing(self, now: datetime) -> None:
        files = version_files("lost")
        version = push(files, now=now)
        digest = hashlib.sha256(files["model.py"]).hexdigest()
        blob_store().remove(digest)
        with pytest.raises(Conflict) as caught:
            finalise_version(version=version, actor=ACTOR, now=now)
        assert (caught.value.code, caught.value.extra) == ("blobs-missing", {"missing": [digest]})


class TestQuotas:
    def test_of_versions(self, now: datetime) -> None:
        make_version(now=now)
        Model.objects.update(quota_versions=2)
        push(version_files("two"), now=now)
        with pytest.raises(Conflict, match="has 2 versions, and its quota is 2") as caught:
            push(version_files("three"), now=now)
        assert caught.value.code == "quota-exceeded"
        assert caught.value.extra["versions"] == 2
        push(version_files("two"), now=now)  # is there already

    def test_of_bytes(self, now: datetime) -> None:
        size = make_version(now=now).size_bytes
        Model.objects.update(quota_bytes=size + 1)
        with pytest.raises(Conflict, match="would exceed its quota") as caught:
            push(version_files("more"), now=now)
        assert caught.value.extra["quota_bytes"] == size + 1

    @pytest.mark.usefixtures("transactional_db")
    def test_hold_for_pushes_at_once(self, now: datetime) -> None:
        make_version(now=now)
        Model.objects.update(quota_versions=3)
        labels = [f"racer {n}" for n in range(5)]
        results = at_once(lambda label: push(version_files(label), now=now), labels)
        assert Version.objects.count() == 3
        assert {getattr(error, "code", error) for error in failures(results)} == {"quota-exceeded"}


class TestDryRun:
    def ask(self, files: dict[str, bytes], **changes: Any) -> Any:
        texts = {path: files[path].decode() for path in ("config.pbtxt", "golden.json")}
        asked: dict[str, Any] = {
            "model_name": "vad", "number": None, "manifest": manifest_of(files), "texts": texts,
        }  # fmt: skip
        return try_push(**{**asked, **changes})

    def test_of_what_is_good_says_what_would_be_sent_and_keeps_nothing(self, now: datetime) -> None:
        found = self.ask(version_files("new"))
        assert (found.findings, found.would) == ((), Would.CREATE)
        assert len(found.missing) == 3
        assert (found.content_class, found.rule.needed, found.rule.by_others) == (
            "executable", 2, True,
        )  # fmt: skip
        assert not Model.objects.exists()
        assert not Event.objects.exists()

    def test_names_the_faults_of_manifest_texts_labels_and_lineage_together(self) -> None:
        manifest = manifest_of({**bad_files(), "../x": b""})
        found = self.ask(
            bad_files(), manifest=manifest, labels={"a": "x" * 300}, lineage={"who": "me"}
        )
        fields = [finding.field for finding in found.findings]
        assert "labels" in fields
        assert "lineage.who" in fields
        assert any(field.startswith("manifest.files[") for field in fields)
        assert {"config.pbtxt", "golden.json"} <= {finding.file for finding in found.findings}

    def test_finds_what_finalise_would(self, now: datetime) -> None:
        found = self.ask(bad_files())
        with pytest.raises(InvalidInput) as caught:
            finalise_version(version=push(bad_files(), now=now), actor=ACTOR, now=now)
        assert {each.place for each in found.findings} == {e.field for e in caught.value.errors}

    def test_of_what_is_there_already(self, now: datetime) -> None:
        make_version(files=version_files("there"), now=now)
        same = self.ask(version_files("there"))
        assert (same.would, same.version, same.missing) == (Would.SAME, 1, ())
        other = self.ask(version_files("other"), number=1)
        assert (other.would, other.conflict.code) == (Would.CONFLICT, "version-exists")
        Model.objects.update(quota_versions=1)
        full = self.ask(version_files("other"))
        assert (full.would, full.conflict.code) == (Would.CONFLICT, "quota-exceeded")

    @pytest.mark.parametrize(
        "manifest",
        [None, 7, [], {}, {"files": 7}, {"files": [7, {"path": 7, "size": "x"}]},
         {"schema": "waypost.manifest/2", "variants": [7, {"name": 7, "files": {}}]},
         {"schema": "waypost.manifest/2", "variants": {"a": 1}}],
    )  # fmt: skip
    def test_of_nonsense_is_told_and_no_crash(self, manifest: object, now: datetime) -> None:
        found = self.ask(version_files("x"), manifest=manifest, model_name="a b\0")
        assert any(each.field.startswith("manifest") for each in found.findings)
        assert found.missing == ()
