"""What MLflow's answers may be and what becomes of those that may not, over real HTTP."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog.registry import (
    MAX_FILES,
    Changed,
    Refused,
    RegistryError,
    RemoteFile,
    RemoteVersion,
    Unavailable,
)
from controlplane.catalog.registry.fetching import Fetcher
from controlplane.catalog.registry.http import MAX_JSON_BYTES, RegistryHttp, check_url
from controlplane.catalog.registry.mlflow_source import MlflowSource
from tests.unit.registry_server import Answer, Asked, RegistryServer, Reply

ROOT = "1/models/m-1/artifacts"
REMOTE = RemoteVersion(
    remote_name="iris",
    remote_version="3",
    source_uri="models:/m-1",
    location=f"mlflow-artifacts:/{ROOT}",
)
Serve = Callable[[Answer], RegistryServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RegistryServer] = []

    def make(answer: Answer) -> RegistryServer:
        servers.append(RegistryServer(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def source_of(server: RegistryServer, **more: Any) -> MlflowSource:
    return MlflowSource(RegistryHttp(url=server.url, read_seconds=2, **more))


def said(document: object) -> Reply:
    return Reply(body=json.dumps(document).encode())


def version(**changes: Any) -> dict[str, Any]:
    known = {"name": "iris", "version": "3", "source": "models:/m-1", "status": "READY"}
    return {"model_version": {**known, **changes}}


def answering(
    *, found: object = None, location: str = f"mlflow-artifacts:/{ROOT}", files: object = ()
) -> Answer:
    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/get-download-uri"):
            return said({"artifact_uri": location})
        if asked.path.endswith("/mlflow-artifacts/artifacts"):
            return said({"files": files})
        return said(version() if found is None else found)

    return answer


def test_a_version_is_resolved_with_its_place(serve: Serve) -> None:
    tags = [{"key": "a", "value": "b"}]
    server = serve(answering(found=version(run_id="r1", tags=tags)))
    found = source_of(server).resolve("iris", version="3")
    assert (found.remote_version, found.source_uri) == ("3", "models:/m-1")
    assert found.location == f"mlflow-artifacts:/{ROOT}"
    assert (found.run_id, found.tags) == ("r1", {"a": "b"})
    assert found.lineage["mlflow_run"] == "r1"


def test_credentials_go_to_the_named_server_alone(serve: Serve) -> None:
    elsewhere = serve(answering())
    away = {"Location": f"{elsewhere.url}/api"}
    server = serve(lambda asked: Reply(status=302, headers=away))
    source = source_of(server, authorization="Bearer secret")
    with pytest.raises(Unavailable, match="redirect"):
        source.resolve("iris", version="3")
    assert server.asked[0].headers["authorization"] == "Bearer secret"
    assert elsewhere.asked == []


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_named_as_such(status: int, serve: Serve) -> None:
    server = serve(lambda asked: Reply(status=status))
    with pytest.raises(Unavailable, match="WAYPOST_MLFLOW_USERNAME"):
        source_of(server).resolve("iris", version="3")


def test_what_the_registry_does_not_know_is_refused(serve: Serve) -> None:
    body = json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no \x1b[31m"}).encode()
    server = serve(lambda asked: Reply(status=404, body=body))
    with pytest.raises(Refused, match="does not know version 3") as raised:
        source_of(server).resolve("iris", version="3")
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500, body=b"<html>"),
        Reply(body=b"not json"),
        Reply(body=b"[]"),
        Reply(body=b"{" * 100_000),
        Reply(body=b"x" * (MAX_JSON_BYTES + 1)),
        Reply(body=json.dumps({"model_version": 3}).encode()),
        Reply(body=json.dumps({"model_version": {"tags": "x"}}).encode()),
        Reply(body=json.dumps(version(version="../3")).encode()),
        Reply(body=json.dumps(version(version="4")).encode()),
        Reply(body=json.dumps(version(version="9" * 50)).encode()),
        Reply(body=json.dumps(version(status="PENDING_REGISTRATION")).encode()),
        Reply(body=b'{"model', length=100),
    ],
)
def test_an_answer_that_cannot_be_used_may_be_better_later(reply: Reply, serve: Serve) -> None:
    with pytest.raises(Unavailable):
        source_of(serve(lambda asked: reply)).resolve("iris", version="3")


def test_nobody_listens() -> None:
    source = MlflowSource(RegistryHttp(url="http://127.0.0.1:9", connect_seconds=1))
    with pytest.raises(Unavailable, match="refuses connections"):
        source.resolve("iris", version="3")


@pytest.mark.parametrize("text", ["/etc", "file:///etc", "C:\\models", "", "dbfs:/x"])
def test_a_disk_is_never_read(text: str, serve: Serve) -> None:
    server = serve(answering(found=version(source=text)))
    with pytest.raises(Refused):
        source_of(server).resolve("iris", version="3")


@pytest.mark.parametrize(
    "location",
    [
        "mlflow-artifacts://other-host/1/a",
        "mlflow-artifacts://user:pw@host:80/1/a",
        "mlflow-artifacts:/",
        "mlflow-artifacts:/1/../../2",
        "mlflow-artifacts:/./1",
        "http://169.254.169.254/latest",
        "https://example.org/a",
        "file:///etc",
        "ftp://x/y",
        "dbfs:/models/1",
        "http://[",
    ],
)
def test_files_anywhere_else_are_not_read(location: str, serve: Serve) -> None:
    server = serve(answering(location=location))
    with pytest.raises(Refused):
        source_of(server).resolve("iris", version="3")


@pytest.mark.parametrize(
    "files",
    [
        [],
        [{"path": "../x", "is_dir": False, "file_size": 1}],
        [{"path": "/etc/passwd", "is_dir": False, "file_size": 1}],
        [{"path": "..", "is_dir": True}],
        [{"path": "a/b", "is_dir": False, "file_size": 1}],
        [{"path": "a\nb", "is_dir": False, "file_size": 1}],
        [{"path": "a\0", "is_dir": False, "file_size": 1}],
        [{"path": 7, "is_dir": False, "file_size": 1}],
        [{"path": "a", "is_dir": False}],
        [{"path": "a", "is_dir": False, "file_size": -1}],
        [{"path": "a", "is_dir": False, "file_size": 1 << 60}],
        [{"path": "a", "is_dir": False, "file_size": True}],
        [{"path": "a", "is_dir": False, "file_size": "1e9"}],
        [{"path": "a", "is_dir": False, "file_size": 1}] * 2,
        [{"path": f"f{n}", "is_dir": False, "file_size": 1} for n in range(MAX_FILES + 1)],
        ["a"],
        "files",
        # Each folder holds itself, for ever.
        [{"path": "deeper", "is_dir": True}],
        [{"path": f"d{n}", "is_dir": True} for n in range(600)],
    ],
)
def test_a_listing_that_cannot_be_is_refused(files: object, serve: Serve) -> None:
    with pytest.raises(RegistryError):
        source_of(serve(answering(files=files))).files(REMOTE)


def test_folders_are_walked(serve: Serve) -> None:
    tree = {
        ROOT: [{"path": "1", "is_dir": True}, {"path": "c", "is_dir": False, "file_size": "2"}],
        f"{ROOT}/1": [{"path": "m", "is_dir": False, "file_size": 3}],
    }
    server = serve(lambda asked: said({"files": tree[asked.query["path"]]}))
    assert source_of(server).files(REMOTE) == [
        RemoteFile(path="1/m", size=3),
        RemoteFile(path="c", size=2),
    ]


def test_watched_names_only_and_only_numbers(serve: Serve) -> None:
    aliases = [{"alias": "prod", "version": "3"}, {"alias": "odd", "version": "x"}]
    latest = [version(current_stage="Production")["model_version"]]
    model = {"name": "iris", "aliases": aliases, "latest_versions": latest}
    server = serve(lambda asked: said({"registered_model": model}))
    found = source_of(server).watched(
        "iris", aliases=["prod", "odd", "none"], stages=["Production", "Staging"]
    )
    assert (found.aliases, found.stages) == ({"prod": "3"}, {"Production": "3"})


BODY = bytes(range(256)) * 40
FILE = RemoteFile(path="model.onnx", size=len(BODY))


def file_server(
    *, etag: str = '"one"', cuts: int = 0, step: int = 3000, ranges: bool = True
) -> Any:
    """Hands out BODY, and breaks off so many times after `step` bytes."""
    left = [cuts]

    def answer(asked: Asked) -> Reply:
        offset = 0
        headers = {"ETag": etag} if etag else {}
        wanted = asked.headers.get("range")
        if wanted and ranges and asked.headers.get("if-range") in (None, etag):
            offset = int(wanted.removeprefix("bytes=").removesuffix("-"))
            headers["Content-Range"] = f"bytes {offset}-{len(BODY) - 1}/{len(BODY)}"
        cut = None
        if left[0]:
            left[0] -= 1
            cut = step if offset or not wanted else offset + step
        status = 206 if offset else 200
        return Reply(status=status, body=BODY[offset:], headers=headers, cut=cut)

    return answer


def fetch(server: RegistryServer, folder: Path, keep_going: Any = lambda: True) -> Any:
    fetcher = Fetcher(
        source=source_of(server), remote=REMOTE, folder=folder, still_mine=lambda: None
    )
    return fetcher.fetch(FILE, keep_going), fetcher.place(FILE.path)


def test_a_download_that_is_cut_goes_on_where_it_was(serve: Serve, tmp_path: Path) -> None:
    server = serve(file_server(cuts=2))
    done, place = fetch(server, tmp_path)
    assert done
    assert place.read_bytes() == BODY
    assert [a.headers.get("range") for a in server.asked] == [None, "bytes=3000-", "bytes=6000-"]
    assert {a.headers.get("if-range") for a in server.asked[1:]} == {'"one"'}


def test_a_later_turn_goes_on_too(serve: Serve, tmp_path: Path) -> None:
    server = serve(file_server(cuts=3, step=1000))
    turns = iter([True, False])
    done, _ = fetch(server, tmp_path, keep_going=lambda: next(turns, False))
    assert not done
    done, place = fetch(server, tmp_path)
    assert done
    assert place.read_bytes() == BODY
    assert server.asked[1].headers["range"] == "bytes=1000-"


def test_a_server_without_ranges_is_read_past_what_is_held(serve: Serve, tmp_path: Path) -> None:
    done, place = fetch(serve(file_server(cuts=1, ranges=False)), tmp_path)
    assert done
    assert place.read_bytes() == BODY


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_tag_nothing_is_continued(etag: str, serve: Serve, tmp_path: Path) -> None:
    server = serve(file_server(etag=etag, cuts=1))
    done, place = fetch(server, tmp_path)
    assert done
    assert place.read_bytes() == BODY
    assert all("range" not in asked.headers for asked in server.asked)


def test_a_file_that_changes_between_is_read_anew(serve: Serve, tmp_path: Path) -> None:
    other = BODY[::-1]

    def answer(asked: Asked) -> Reply:
        if len(server.asked) == 1:
            return Reply(body=BODY, headers={"ETag": '"one"'}, cut=3000)
        return Reply(body=other, headers={"ETag": '"two"'})

    server = serve(answer)
    done, place = fetch(server, tmp_path)
    assert done
    assert place.read_bytes() == other


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=BODY + b"x"),
        Reply(body=BODY[:-1]),
        Reply(body=BODY, headers={"Content-Encoding": "gzip"}),
        Reply(status=206, body=BODY, headers={"Content-Range": f"bytes 1-{FILE.size}/9"}),
        Reply(status=500),
        Reply(body=BODY, cut=0),
    ],
)
def test_bytes_that_are_not_the_listed_ones_are_given_up(
    reply: Reply, serve: Serve, tmp_path: Path
) -> None:
    server = serve(lambda asked: reply)
    with pytest.raises(Unavailable):
        fetch(server, tmp_path)
    assert len(server.asked) <= 3


def test_a_range_that_does_not_fit_is_no_continuation(serve: Serve) -> None:
    headers = {"ETag": '"one"', "Content-Range": f"bytes 7-{len(BODY) - 1}/{len(BODY)}"}
    server = serve(lambda asked: Reply(status=206, body=BODY[7:], headers=headers))
    with pytest.raises(Changed):
        source_of(server).open(REMOTE, FILE, offset=9, etag='"one"')


@pytest.mark.parametrize(
    "reply",
    [
        Reply(
            status=206,
            body=BODY[9:],
            headers={"ETag": '"two"', "Content-Range": f"bytes 9-{len(BODY) - 1}/{len(BODY)}"},
        ),
        Reply(body=BODY, headers={"ETag": '"two"'}),
        Reply(body=BODY),
    ],
)
def test_bytes_of_another_file_are_no_continuation(reply: Reply, serve: Serve) -> None:
    server = serve(lambda asked: reply)
    with pytest.raises(Changed):
        source_of(server).open(REMOTE, FILE, offset=9, etag='"one"')


def test_an_answer_is_read_to_its_limit_and_no_further(serve: Serve) -> None:
    server = serve(lambda asked: Reply(body=b" " * MAX_JSON_BYTES + b"{}"))
    with pytest.raises(Unavailable, match="more than"):
        source_of(server).resolve("iris", version="3")


def test_a_file_that_is_not_there_is_refused(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not have it"):
        fetch(serve(lambda asked: Reply(status=404)), tmp_path)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://mlflow:5000", True),
        ("https://example.org/mlflow", True),
        ("ftp://example.org", False),
        ("http://", False),
        ("http://user:pw@host", False),
        ("http://host?x=1", False),
        ("http://host:0", False),
        ("http://[", False),
        ("sqlite:///x", False),
    ],
)
def test_the_address_in_the_settings(url: str, good: bool) -> None:
    assert (check_url(url) == "") is good


def test_a_password_is_never_shown() -> None:
    http = RegistryHttp(url="http://127.0.0.1:5", authorization="Bearer secret")
    assert "secret" not in repr(http)
