"""What a hostile caller sends: names, manifests, bytes and bodies that must be refused by a clear
code, never by a 5xx, and leave nothing behind in the store or the catalogue."""

import gzip
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.catalog.models import Blob, Model, Version
from controlplane.fleet.models import Site
from tests.api.calls import ApiCaller, assert_problem
from tests.factories import manifest_of, version_files

DIGEST = hashlib.sha256(b"x").hexdigest()
NAMES = [
    "..",
    ".",
    "a/../b",
    "/etc/passwd",
    "1/../../etc/passwd",
    "a\\b",
    "..\\..\\x",
    "a\0b",
    ".. ",
    " ..",
    "a ",
    " a",
    "%2e%2e/x",
    "..%2fx",
    "a\u202eb",
    "a\u200bb",
    "a\u0301",
    "\ufeffa",
    "x" * 129,
    "/".join("abcde"),
    "CON/" * 5,
    ".git/config",
    ".hidden",
    "1/.nfs001",
    "-rf",
    "a\nb",
    "a\tb",
    "\x1b[31m",
    "",
    "/",
    "//",
    "a//b",
    "a/",
    "file:///etc/passwd",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "😀",
    "\uff41",
]
BODIES = [
    b"{",
    b"",
    b"[]",
    b"null",
    b'"x"',
    b"1",
    b'{"manifest": NaN}',
    b'{"manifest": Infinity}',
    b'{"manifest": 1e999}',
    b'{"manifest": ' + b"9" * 5000 + b"}",
    b'{"manifest": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"manifest": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    b'{"manifest": "\\ud800"}',
    b'{"manifest": "a\\u0000b"}',
    b"\xff\xfe",
    "{}".encode("utf-16"),
    gzip.compress(b"{}"),
    b'{"manifest": {}, "manifest": {}}',
    b'{"manifest": {"schema": "waypost.manifest/1", "files": []}}',
    b'{"manifest": {"schema": "waypost.manifest/9", "files": []}}',
    b'{"manifest": {"schema": "waypost.manifest/1", "files": {}}}',
    b'{"version": "../1", "manifest": {}}',
    b'{"version": "1e3", "manifest": {}}',
    b'{"version": "\xd9\xa1", "manifest": {}}',
]


@pytest.fixture(autouse=True)
def _fast(settings: Any) -> None:
    settings.WAYPOST_API_RATE = 0


@pytest.fixture(autouse=True)
def _nothing_stays(artifacts: Path) -> Any:
    """After each of these tests the store and the catalogue hold what they held before."""
    yield
    assert not Blob.objects.exists()
    held = [path for path in artifacts.rglob("*") if path.is_file()] if artifacts.exists() else []
    assert held == []


def entry(path: str = "config.pbtxt", size: Any = 1, sha256: Any = DIGEST, **more: Any) -> Any:
    return {"path": path, "size": size, "sha256": sha256, **more}


def push(api: ApiCaller, files: list[Any], model: str = "vad") -> Any:
    body = {"manifest": {"schema": "waypost.manifest/1", "files": files}}
    return api.post(f"models/{model}/versions", body)


def refused(response: Any) -> dict[str, Any]:
    assert 400 <= response.status_code < 500, (response.status_code, response.content[:300])
    return assert_problem(response, response.status_code, response.json()["code"])


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_called_so(api: ApiCaller, name: str) -> None:
    refused(push(api, [entry("config.pbtxt"), entry(name)]))
    assert not Version.objects.exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1/model.onnx", "1/Model.onnx"),
        ("1/model.onnx", "1/model.onnx"),
        ("1", "1/model.onnx"),
        ("1/straße", "1/strasse"),
        ("1/K", "1/\u212a"),
    ],
)
def test_no_two_files_are_one(api: ApiCaller, first: str, second: str) -> None:
    refused(push(api, [entry("config.pbtxt"), entry(first), entry(second)]))
    assert not Version.objects.exists()


# Blanks around a name are taken off before it is looked at; a site may begin with a dash.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("a ", " a", "-rf")])
def test_no_model_and_no_site_is_called_so(api: ApiCaller, name: str) -> None:
    refused(api.post("models", {"name": name}))
    refused(api.post("sites", {"name": name, "tier": "edge", "region": "x"}))
    assert not Model.objects.exists()
    assert not Site.objects.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": 1 << 62},
        {"size": 1 << 63},
        {"size": 1 << 70},
        {"size": 1.5},
        {"size": "1"},
        {"size": True},
        {"size": None},
        {"sha256": "0"},
        {"sha256": DIGEST.upper()},
        {"sha256": f"sha256:{DIGEST}"},
        {"sha256": "../" + DIGEST[3:]},
        {"sha256": None},
        {"sha256": [DIGEST]},
        {"chunks": "x"},
        {"chunks": [DIGEST, DIGEST]},
        {"chunks": ["0"]},
        {"mode": 0o4755},
        {"link": "/etc/passwd"},
    ],
)
def test_no_file_is_described_so(api: ApiCaller, changes: dict[str, Any]) -> None:
    refused(push(api, [{**entry(), **changes}]))
    assert not Version.objects.exists()


def test_no_more_files_than_2000(api: ApiCaller) -> None:
    refused(push(api, [entry(f"f{number}") for number in range(2001)]))


@pytest.mark.parametrize("raw", BODIES)
def test_no_body_is_written_so(api: ApiCaller, raw: bytes) -> None:
    refused(api.post("models/vad/versions", raw))
    assert not Version.objects.exists()


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "x", "application/xml"])
def test_a_body_is_json(api: ApiCaller, kind: str) -> None:
    response = api._send("POST", "models", b"{}", content_type=kind)
    assert_problem(response, 415, "unsupported-media-type")


class TestBytes:
    @pytest.fixture
    def version(self, api: ApiCaller) -> str:
        files = {**version_files("hostile"), "notes.txt": b"abc"}
        manifest = manifest_of(files)
        response = api.post("models/vad/versions", {"manifest": manifest})
        assert response.status_code == 201, response.content
        return f"models/vad/versions/{response.json()['version']}"

    def test_other_bytes_than_the_name_says(self, api: ApiCaller, version: str) -> None:
        digest = hashlib.sha256(b"abc").hexdigest()
        for raw in (b"abd", b"ab", b"abcd", b"", b"x" * 1_000_000):
            refused(api.put(f"{version}/blobs/{digest}", raw))

    def test_bytes_that_nobody_announced(self, api: ApiCaller, version: str) -> None:
        digest = hashlib.sha256(b"other").hexdigest()
        refused(api.put(f"{version}/blobs/{digest}", b"other"))

    @pytest.mark.parametrize(
        "name", ["..", "%2e%2e%2f%2e%2e", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "%00"]
    )
    def test_a_name_that_is_no_digest(self, api: ApiCaller, version: str, name: str) -> None:
        refused(api.put(f"{version}/blobs/{name}", b"abc"))

    def test_a_version_is_not_finished_without_its_bytes(
        self, api: ApiCaller, version: str
    ) -> None:
        document = refused(api.post(f"{version}/finalise"))
        assert document["missing"]

    def test_a_length_that_is_a_lie(self, api: ApiCaller, version: str) -> None:
        digest = hashlib.sha256(b"abc").hexdigest()
        for length in ("2", "-1", "x"):
            response = api.put(f"{version}/blobs/{digest}", b"abc", CONTENT_LENGTH=length)
            refused(response)

    def test_of_another_person_without_the_scope(
        self, api: ApiCaller, version: str, with_scopes: Any
    ) -> None:
        digest = hashlib.sha256(b"abc").hexdigest()
        reader = with_scopes("read", name="reader")
        assert_problem(reader.put(f"{version}/blobs/{digest}", b"abc"), 403, "scope-missing")


@pytest.mark.parametrize(
    "path",
    [
        "models/%00",
        "models/..%2f..",
        "models/vad/versions/0",
        "models/vad/versions/-1",
        "models/vad/versions/99999999999999999999999999",
        "models/vad/versions/1e3",
        "sites/%00",
        "sites/%ff%fe",
        "rollouts/99999999999999999999999999",
        "webhooks/%00",
        "strategies/%00",
        "publishers/%00",
        "tokens/99999999999999999999999999",
        "windows/%00",
    ],
)
def test_no_path_leads_elsewhere(api: ApiCaller, path: str) -> None:
    assert refused(api.get(path))["status"] == 404


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:127.0.0.1]/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "http://example.org/",
        "https://user:secret@example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "https://",
        "https://exa mple.org/",
        "//example.org",
        "https://example.org\r\nX-Evil: 1",
    ],
)
def test_nothing_is_called_there(api: ApiCaller, url: str) -> None:
    body = {"name": "x", "url": url, "actions": ["*"]}
    assert_problem(api.post("webhooks", body), 422, "webhook-invalid")


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Basic eDp5", "Bearer wpt_\u00e9", "bearer  wpt_x", "x" * 9000]
)
def test_no_token_is_written_so(header: str, now: datetime) -> None:
    response = Client().get("/api/v1/models", headers={"Authorization": header})
    assert response.status_code == 401
    assert json.loads(response.content)["code"] in ("token-required", "token-invalid")


def test_text_of_a_stranger_is_told_as_it_is(api: ApiCaller) -> None:
    """JSON is no page: it is neither escaped nor shown as one."""
    text = "<img src=x onerror=alert(1)>"
    response = api.post("models", {"name": "vad", "description": text})
    assert response.json()["description"] == text
    assert response["Content-Type"] == "application/json"
    assert response["X-Content-Type-Options"] == "nosniff"
