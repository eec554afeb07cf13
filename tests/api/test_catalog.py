"""The way of a push: manifest, missing bytes, finalise; and again."""

import hashlib
from datetime import datetime
from typing import Any

import pytest

from controlplane.catalog.models import Blob, Version
from tests.api.calls import ApiCaller, assert_problem
from tests.factories import manifest_of, version_files

FILES = version_files("api")


def push(api: ApiCaller, files: dict[str, bytes] = FILES, **body: object) -> Any:
    return api.post("models/vad/versions", {"manifest": manifest_of(files), **body})


def put_all(api: ApiCaller, files: dict[str, bytes] = FILES, version: str = "1") -> list[int]:
    return [
        api.put(
            f"models/vad/versions/{version}/blobs/{hashlib.sha256(data).hexdigest()}", data
        ).status_code
        for data in files.values()
    ]


def test_a_whole_push(api: ApiCaller) -> None:
    reserved = push(api, labels={"commit": "abc"})
    assert reserved.status_code == 201
    document = reserved.json()
    assert (document["model"], document["version"], document["state"]) == ("vad", "1", "uploading")
    assert sorted(document["missing"]) == sorted(
        hashlib.sha256(data).hexdigest() for data in FILES.values()
    )

    assert put_all(api) == [201, 201, 201]
    finalised = api.post("models/vad/versions/1/finalise")

    assert finalised.status_code == 200
    assert (finalised.json()["state"], finalised.json()["missing"]) == ("validated", [])
    assert finalised.json()["created_by"] == "token:ci"
    assert finalised.json()["labels"] == {"commit": "abc"}
    assert api.get("models/vad/versions/1").json() == finalised.json()
    assert api.get("models/vad/versions").json()["results"] == [finalised.json()]
    assert api.get("models/vad").json()["latest_version"] == "1"


def test_the_same_push_again_gets_the_same_answer(api: ApiCaller) -> None:
    push(api)
    put_all(api)
    first = api.post("models/vad/versions/1/finalise").json()

    again = push(api)
    assert again.status_code == 200
    assert again.json() == first
    assert put_all(api) == [200, 200, 200]
    assert api.post("models/vad/versions/1/finalise").json() == first


def test_other_bytes_under_a_number_are_a_conflict(api: ApiCaller) -> None:
    push(api, version="1")
    response = push(api, version_files("other"), version="1")
    assert_problem(response, 409, "version-exists")


def test_wrong_bytes_are_refused_and_leave_nothing(api: ApiCaller) -> None:
    push(api)
    sha256 = hashlib.sha256(FILES["model.py"]).hexdigest()
    path = f"models/vad/versions/1/blobs/{sha256}"

    assert_problem(api.put(path, b"x" * len(FILES["model.py"])), 422, "digest-mismatch")
    assert_problem(api.put(path, b"x"), 422, "size-mismatch")
    assert_problem(api.put(path, FILES["model.py"] * 2), 422, "size-mismatch")
    assert not Blob.objects.exists()


def test_bytes_no_version_names_are_refused(api: ApiCaller) -> None:
    push(api)
    response = api.put(f"models/vad/versions/1/blobs/{'0' * 64}", b"x")
    assert_problem(response, 404, "blob-not-in-manifest")


def test_an_unfinished_push_is_not_registered(api: ApiCaller) -> None:
    push(api)
    document = assert_problem(api.post("models/vad/versions/1/finalise"), 409, "blobs-missing")
    assert len(document["missing"]) == 3


def test_a_hostile_manifest_names_every_fault(api: ApiCaller) -> None:
    manifest = manifest_of({**FILES, "../x": b"", "/etc/passwd": b"", "MODEL.py": b""})
    response = api.post("models/vad/versions", {"manifest": manifest})

    document = assert_problem(response, 422, "manifest-invalid")

    assert len(document["errors"]) == 3
    assert all(error["field"].startswith("manifest.files") for error in document["errors"])


def test_a_push_can_be_discarded_until_it_is_registered(api: ApiCaller) -> None:
    push(api)
    assert api.delete("models/vad/versions/1").status_code == 204
    assert not Version.objects.exists()

    push(api)
    put_all(api)
    api.post("models/vad/versions/1/finalise")
    assert_problem(api.delete("models/vad/versions/1"), 409, "version-registered")


def test_a_model_can_be_made_before_its_versions_and_twice(api: ApiCaller) -> None:
    body = {"name": "ocr", "description": "reads"}
    assert api.post("models", body).status_code == 201
    assert api.post("models", {"name": "ocr", "description": "other"}).status_code == 200
    assert api.get("models/ocr").json()["description"] == "reads"
    assert_problem(api.post("models", {"name": "a b"}), 422, "model-name-invalid")


@pytest.mark.parametrize(
    ("query", "shown"), [("", 3), ("?limit=2", 2), ("?limit=2&offset=2", 1), ("?offset=9", 0)]
)
def test_lists_come_in_pages(query: str, shown: int, api: ApiCaller, now: datetime) -> None:
    for name in ("a", "b", "c"):
        api.post("models", {"name": name})

    page = api.get(f"models{query}").json()

    assert (page["count"], len(page["results"])) == (3, shown)
    assert bool(page["next"]) == (query == "?limit=2")
