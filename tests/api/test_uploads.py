"""Pieces, parts and lies over HTTP; an agent fetches from a bucket as from the disk."""

import hashlib
import random
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.api.body_limit import PIECE_BYTES
from controlplane.catalog.models import Blob, Version
from controlplane.catalog.queries import manifest_of, missing_digests
from controlplane.catalog.stores import artifact_store
from tests.api.calls import ApiCaller, assert_problem
from tests.factories import make_version, version_files
from tests.s3_server import S3Server, running_s3

BIG = random.Random(3).randbytes(200_000)
SHA = hashlib.sha256(BIG).hexdigest()


@pytest.fixture
def blob(now: datetime) -> str:
    files = {**version_files("api"), "weights.bin": BIG}
    version = make_version(registered=False, files=files, now=now)
    return f"models/vad/versions/{version.number}/blobs/{SHA}"


def head(api: ApiCaller, path: str) -> Any:
    return api.client.head(f"/api/v1/{path}", headers={"Authorization": f"Bearer {api.secret}"})


def put(api: ApiCaller, path: str, given: str, body: bytes) -> Any:
    return api.put(path, body, headers={"Content-Range": given})


def test_a_file_goes_in_pieces(api: ApiCaller, blob: str) -> None:
    asked = head(api, blob)
    assert (asked.status_code, asked["Upload-Offset"], asked["Upload-Method"]) == (
        204,
        "0",
        "pieces",
    )
    first = put(api, blob, f"bytes 0-99999/{len(BIG)}", BIG[:100_000])
    assert (first.status_code, first["Upload-Offset"]) == (204, "100000")
    assert head(api, blob)["Upload-Offset"] == "100000"
    again = put(api, blob, f"bytes 0-99999/{len(BIG)}", BIG[:100_000])
    assert assert_problem(again, 409, "upload-offset")["offset"] == 100_000
    last = put(api, blob, f"bytes 100000-199999/{len(BIG)}", BIG[100_000:])
    assert last.status_code == 201
    assert head(api, blob).status_code == 200
    assert Blob.objects.get(sha256=SHA).size_bytes == len(BIG)
    assert api.put(blob, b"").status_code == 200


@pytest.mark.parametrize(
    ("given", "body", "code"),
    [
        ("bytes 0-99/100", BIG[:100], "content-range-invalid"),
        ("bytes 0-99/*", BIG[:100], "content-range-invalid"),
        ("bytes */200000", BIG[:100], "content-range-invalid"),
        ("bytes 5-4/200000", BIG[:1], "content-range-invalid"),
        ("bytes 0-200000/200000", BIG, "content-range-invalid"),
        ("bytes -1-5/200000", BIG[:6], "content-range-invalid"),
        ("lines 0-5/200000", BIG[:6], "content-range-invalid"),
        (f"bytes 0-{PIECE_BYTES}/{1 << 40}", BIG[:6], "content-range-invalid"),
        ("bytes 0-99/200000", BIG[:101], "size-mismatch"),
        ("bytes 0-99/200000", BIG[:99], "size-mismatch"),
        ("bytes 0-99/200000", b"", "size-mismatch"),
    ],
)
def test_a_lie_is_refused_and_nothing_is_kept(
    api: ApiCaller, blob: str, artifacts: Any, given: str, body: bytes, code: str
) -> None:
    assert_problem(put(api, blob, given, body), 422, code)
    assert not [path for path in artifacts.rglob("*") if path.is_file()]


def test_parts_are_not_for_disks(api: ApiCaller, blob: str) -> None:
    assert_problem(api.post(f"{blob}/multipart", {"size": len(BIG)}), 409, "upload-not-in-parts")
    body = {"upload": "x"}
    assert_problem(api.post(f"{blob}/multipart/complete", body), 409, "upload-not-in-parts")
    assert_problem(api.post(f"{blob}/multipart/abort", body), 409, "upload-not-in-parts")
    assert_problem(api.post(f"{blob}/multipart", {"size": 0}), 422, "invalid-request")


def test_a_list_knows_what_each_push_still_lacks_without_a_look_for_each(
    api: ApiCaller, now: datetime
) -> None:
    shared = version_files("shared")

    def reserve(number: int, model: str = "vad") -> Version:
        files = {**shared, "labels.txt": b"x", "weights.bin": str(number).encode()}
        return make_version(model, number, registered=False, files=files, now=now)

    def look() -> tuple[dict[str, list[str]], int]:
        with CaptureQueriesContext(connection) as asked:
            page = api.get("models/vad/versions?state=uploading").json()["results"]
        return {each["version"]: each["missing"] for each in page}, len(asked)

    def put(version: Version, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        path = f"models/{version.model}/versions/{version.number}/blobs/{digest}"
        assert api.put(path, data).status_code in (200, 201)

    put(reserve(1), b"1")
    put(reserve(3, "asr"), b"3")  # another model's bytes are still to be sent for this one
    make_version(files=shared, now=now)
    _, of_one = look()
    for number in range(3, 8):
        put(reserve(number), shared["model.py"])
    put(Version.objects.get(model__name="vad", number=5), b"x")
    missing, of_many = look()
    assert of_many == of_one
    assert len(missing) == 6
    for version in Version.objects.filter(model__name="vad", state="uploading"):
        expected = missing_digests(manifest_of(version), version.model)
        assert missing[str(version.number)] == expected
        path = f"models/vad/versions/{version.number}"
        assert api.get(path).json()["missing"] == expected


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3-api")) as server:
        yield server


def test_a_bucket_takes_a_file_in_parts(
    api: ApiCaller,
    blob: str,
    s3_server: S3Server,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import httpx2

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings.WAYPOST_S3 = s3_server.bucket("from-api")
    assert head(api, blob)["Upload-Method"] == "parts"
    assert_problem(put(api, blob, "bytes 0-9/200000", BIG[:10]), 409, "upload-in-parts")
    made = api.post(f"{blob}/multipart", {"size": len(BIG)}).json()
    (part,) = made["parts"]
    with httpx2.Client(trust_env=False) as client:
        headers = {"Content-Length": str(len(BIG))}
        sent = client.put(part["url"], content=BIG, headers=headers)
    parts = [{"number": 1, "etag": sent.headers["ETag"]}]
    body = {"upload": made["upload"], "parts": parts}
    assert api.post(f"{blob}/multipart/complete", body).status_code == 201
    assert api.post(f"{blob}/multipart/complete", body).status_code == 200
    assert head(api, blob).status_code == 200
    with artifact_store().open(SHA, 5) as stream:
        assert stream.read() == BIG[5:]
