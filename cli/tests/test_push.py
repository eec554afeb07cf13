"""`waypost push`: what is refused, what is sent, and what a repetition does."""

import hashlib
import json
import os
import socket
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Pauses, Waypost
from fake_api import FakeApi, Reply, problem
from waypost_cli.api import Api
from waypost_cli.bundle import LocalFile, read_bundle
from waypost_cli.errors import ApiError, CliError, FileChangedError, UnavailableError
from waypost_cli.push import PARALLEL_UPLOADS, Pushed, push

UNAVAILABLE = Reply(status=503, body=b"busy", content_type="text/plain")


def _message(number: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((number << 3 | 2, len(body))) + body


def _value(name: bytes) -> bytes:
    """FP32 of any size by 3."""
    shape = _message(2, _message(1, _message(2, b"n")), _message(1, b"\x08\x03"))
    return _message(1, name) + _message(2, _message(1, b"\x08\x01", shape))


ONNX = (
    b"\x08\x08"
    + _message(7, _message(11, _value(b"x")), _message(12, _value(b"y")))
    + _message(8, b"\x10\x11")
)


class Silent:
    """An observer that adds up what it is told."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    def uploading(self, files: int, size_bytes: int) -> None: ...

    def sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes

    def uploaded(self, file: LocalFile) -> None: ...


def push_it(
    api: Api, folder: Path, version: str | None = None, labels: Mapping[str, str] | None = None
) -> Pushed:
    return push(
        api,
        model="vad",
        version=version,
        bundle=read_bundle(folder),
        labels=labels or {},
        observer=Silent(),
    )


def test_a_folder_becomes_a_registered_version(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    ran = waypost("push", "vad", str(folder), "--label", "commit=1a2b", "--output", "json")

    assert ran.exit_code == 0, ran.stderr
    version = fake.versions["vad", "1"]
    assert version.state == "registered"
    assert version.labels == {"commit": "1a2b"}
    assert [f["path"] for f in version.manifest["files"]] == [
        "config.pbtxt", "golden.json", "model.py", "weights/a.bin",
    ]  # fmt: skip
    result = json.loads(ran.stdout)
    assert result["version"] == "1"
    assert result["already_registered"] is False
    assert result["uploaded_files"] == 4
    assert result["manifest_digest"].startswith("sha256:")


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 2500])
def test_a_file_longer_than_a_piece_carries_the_digests_of_its_pieces(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("waypost_cli.bundle.PIECE_BYTES", 1000)
    monkeypatch.setattr("waypost_cli.bundle._HASH_BYTES", 300)
    data = os.urandom(size)
    (folder / "weights/a.bin").write_bytes(data)
    (entry,) = (
        each
        for each in read_bundle(folder).manifest()["files"]  # type: ignore[attr-defined]
        if each["path"] == "weights/a.bin"
    )
    pieces = [hashlib.sha256(data[at : at + 1000]).hexdigest() for at in range(0, size, 1000)]
    assert (entry["size"], entry["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    assert entry.get("chunks") == (pieces if size > 1000 else None)


def test_a_second_push_of_the_same_bytes_sends_nothing_and_says_so(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    waypost("push", "vad", str(folder))
    uploads = len(fake.requests("PUT"))

    ran = waypost("push", "vad", str(folder), "--output", "json")

    assert ran.exit_code == 0
    assert len(fake.requests("PUT")) == uploads
    assert list(fake.versions) == [("vad", "1")]
    assert json.loads(ran.stdout)["already_registered"] is True
    assert "nothing was sent" in ran.stderr


def test_only_the_bytes_that_are_missing_are_sent(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    waypost("push", "vad", str(folder))
    (folder / "model.py").write_text("print('better')\n")
    uploads = len(fake.requests("PUT"))

    ran = waypost("push", "vad", str(folder), "--output", "json")

    assert json.loads(ran.stdout)["version"] == "2"
    assert len(fake.requests("PUT")) == uploads + 1


def test_files_with_equal_bytes_are_sent_once(api: Api, fake: FakeApi, folder: Path) -> None:
    (folder / "twin.py").write_bytes((folder / "model.py").read_bytes())

    pushed = push_it(api, folder)

    assert pushed.uploaded_files == 4
    assert fake.versions["vad", "1"].state == "registered"


def test_an_empty_file_is_pushed_like_any_other(api: Api, fake: FakeApi, folder: Path) -> None:
    (folder / "__init__.py").touch()

    push_it(api, folder)

    assert 0 in fake.blobs.values()
    assert fake.versions["vad", "1"].state == "registered"


def test_the_same_number_with_other_bytes_is_refused_with_the_way_out(
    waypost: Waypost, folder: Path
) -> None:
    waypost("push", "vad", str(folder), "--version", "7")
    (folder / "model.py").write_text("print('other')\n")

    ran = waypost("push", "vad", str(folder), "--version", "7")

    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert "vad 7 has other bytes" in ran.stderr
    assert "code version-exists, request id req-1" in ran.stderr
    assert "next free number" in ran.stderr


def test_an_upload_is_repeated_after_a_5xx_with_growing_pauses(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path
) -> None:
    sha256 = read_bundle(folder).files[2].sha256
    fake.intervene("PUT", sha256, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE)

    push_it(api, folder)

    assert fake.versions["vad", "1"].state == "registered"
    assert len(fake.requests("PUT", sha256)) == 4
    assert len(pauses.seconds) == 3
    assert 0.25 <= pauses.seconds[0] <= 0.5
    assert 1.0 <= pauses.seconds[2] <= 2.0


def test_the_servers_own_wish_for_a_pause_is_obeyed(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path
) -> None:
    busy = problem(429, "too-many-requests")
    busy.headers["Retry-After"] = "7"
    fake.intervene("PUT", "", busy)

    push_it(api, folder)

    assert pauses.seconds == [7.0]


def test_a_server_that_stays_broken_ends_the_push_with_its_status(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    fake.intervene("PUT", "", *[UNAVAILABLE] * 40)

    with pytest.raises(UnavailableError, match="HTTP 503"):
        push_it(api, folder)

    assert fake.versions["vad", "1"].state == "uploading"


def test_a_call_is_named_once_however_often_it_is_sent(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path
) -> None:
    """What was cut off while it was under way is waited for, longer than for a server in trouble;
    a long call that repeats without harm has no name, and neither has a read."""
    under_way = [problem(409, "call-under-way") for _ in range(60)]
    fake.intervene("POST", "/versions$", UNAVAILABLE, *under_way)

    push_it(api, folder)

    keys = [seen.headers["idempotency-key"] for seen in fake.requests("POST", "/versions$")]
    assert (len(keys), len(set(keys))) == (62, 1)
    assert len(pauses.seconds) == 61
    others = [seen for seen in fake.seen if not seen.path.endswith("/versions")]
    assert fake.requests("POST", "finalise")
    assert not [seen for seen in others if "idempotency-key" in seen.headers]


def test_a_call_that_stays_under_way_is_not_waited_for_without_end(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    fake.intervene("POST", "/versions$", *[problem(409, "call-under-way")] * 200)
    with pytest.raises(UnavailableError, match="call-under-way"):
        push_it(api, folder)
    assert len(fake.requests("POST", "/versions$")) == 76


def test_progress_is_taken_back_when_an_upload_starts_over(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    fake.intervene("PUT", "", UNAVAILABLE, UNAVAILABLE)
    observer, bundle = Silent(), read_bundle(folder)

    push(api, model="vad", version=None, bundle=bundle, labels={}, observer=observer)

    assert observer.sent_bytes == bundle.size_bytes


def test_bytes_that_change_between_hashing_and_upload_are_caught_by_the_server_and_explained(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    bundle = read_bundle(folder)
    (folder / "weights" / "a.bin").write_bytes(b"b" * 1000)

    with pytest.raises(FileChangedError, match=r"weights/a\.bin changed while it was being pushed"):
        push(api, model="vad", version=None, bundle=bundle, labels={}, observer=Silent())

    assert fake.versions["vad", "1"].state == "uploading"
    assert len(fake.blobs) <= 3


@pytest.mark.parametrize("size", [999, 1001, 0])
def test_a_size_that_changes_after_hashing_is_caught_before_the_server_sees_it(
    api: Api, folder: Path, size: int
) -> None:
    bundle = read_bundle(folder)
    (folder / "weights" / "a.bin").write_bytes(b"a" * size)

    with pytest.raises(FileChangedError, match=r"weights/a\.bin changed"):
        push(api, model="vad", version=None, bundle=bundle, labels={}, observer=Silent())


def test_a_file_that_becomes_a_link_after_hashing_is_not_followed(api: Api, folder: Path) -> None:
    bundle = read_bundle(folder)
    target = folder / "weights" / "a.bin"
    target.rename(folder.parent / "elsewhere.bin")
    target.symlink_to(folder.parent / "elsewhere.bin")

    with pytest.raises(FileChangedError, match="can no longer be read"):
        push(api, model="vad", version=None, bundle=bundle, labels={}, observer=Silent())


def test_a_blob_that_vanished_before_the_end_is_sent_again(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    def sweep() -> None:
        fake.blobs.popitem()

    fake.on("POST", "finalise", sweep)

    pushed = push_it(api, folder)

    assert fake.versions["vad", "1"].state == "registered"
    assert pushed.uploaded_files == 5


def test_a_push_that_was_cut_goes_on_where_it_stopped(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    fake.intervene("POST", "finalise", problem(403, "scope-missing"))
    with pytest.raises(ApiError, match="scope-missing"):
        push_it(api, folder)

    pushed = push_it(api, folder)

    assert pushed.uploaded_files == 0
    assert fake.versions["vad", "1"].state == "registered"


def test_at_most_four_uploads_run_at_once(api: Api, fake: FakeApi, folder: Path) -> None:
    for number in range(24):
        (folder / f"part{number}.bin").write_bytes(os.urandom(400_000))

    push_it(api, folder)

    assert 1 < fake.most_concurrent_uploads <= PARALLEL_UPLOADS


def test_a_large_file_is_streamed_and_never_held_in_memory(
    api: Api, fake: FakeApi, folder: Path
) -> None:
    with (folder / "large.bin").open("wb") as file:
        file.truncate(48 * 1024 * 1024)

    tracemalloc.start()
    try:
        push_it(api, folder)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert fake.versions["vad", "1"].state == "registered"
    assert peak_bytes < 12 * 1024 * 1024


def test_every_fault_of_a_folder_is_named_at_once_and_nothing_is_sent(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    (folder / "config.pbtxt").unlink()
    (folder / ".DS_Store").touch()
    (folder / "link.bin").symlink_to(folder / "model.py")
    (folder / "linked").symlink_to(folder / "weights")
    (folder / "two words.bin").touch()
    (folder / "-dash.bin").touch()
    os.mkfifo(folder / "pipe")
    (folder / "MODEL.py").touch()
    deep = folder / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (deep / "e.bin").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "sock"))

    ran = waypost("push", "vad", str(folder))

    assert ran.exit_code == 1
    assert fake.seen == []
    for line in (
        ".DS_Store: is hidden",
        "link.bin: is a symbolic link",
        "linked: is a symbolic link",
        "two words.bin: has a name that cannot be used",
        "-dash.bin: has a name that cannot be used",
        "pipe: is neither a file nor a folder",
        "sock: is neither a file nor a folder",
        "model.py: differs from MODEL.py by case only",
        "a/b/c/d: lies too deep; a path has at most 4 parts",
        "config.pbtxt: is missing at the top of the folder",
    ):
        assert line in ran.stderr


def test_a_config_is_made_of_an_onnx_file_where_there_is_none(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    (folder / "config.pbtxt").unlink()
    (folder / "model.onnx").write_bytes(ONNX)
    ran = waypost("push", "vad", str(folder))
    assert "config.pbtxt: is missing" in ran.stderr
    assert "--generate-config writes one from the ONNX file" in ran.stderr

    ran = waypost("push", "vad", str(folder), "--generate-config", "--max-batch-size", "4")

    assert ran.exit_code == 0, ran.stderr
    text = (folder / "config.pbtxt").read_text()
    assert 'name: "vad"' in text
    assert "max_batch_size: 4" in text
    assert 'input [\n  { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }\n]' in text
    sent = fake.versions["vad", "1"].manifest["files"]
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert {"path": "config.pbtxt", "size": len(text), "sha256": digest} in sent


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "model.onnx is no ONNX model: it is empty"), (b"x", "model.onnx is no ONNX model")],
)
def test_no_config_is_made_of_anything_else(
    waypost: Waypost, fake: FakeApi, folder: Path, content: bytes, says: str
) -> None:
    (folder / "config.pbtxt").unlink()
    (folder / "model.onnx").write_bytes(content)
    ran = waypost("push", "vad", str(folder), "--generate-config")
    assert ran.exit_code == 1
    assert says in ran.stderr
    assert not fake.seen
    assert not (folder / "config.pbtxt").exists()


def test_a_folder_one_level_too_high_is_recognised(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CliError) as caught:
        read_bundle(tmp_path)

    assert any("found model/config.pbtxt; push the folder" in d for d in caught.value.details)


def test_a_folder_without_a_model_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").touch()
    (tmp_path / "golden.json").touch()

    with pytest.raises(CliError) as caught:
        read_bundle(tmp_path)

    assert any("no model file" in detail for detail in caught.value.details)


def test_a_name_in_another_encoding_is_shown_escaped(tmp_path: Path, folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))).touch()

    with pytest.raises(CliError) as caught:
        read_bundle(folder)

    assert any(r"caf\udce9: has a name" in detail for detail in caught.value.details)


def test_tritons_own_layout_brings_a_warning(waypost: Waypost, folder: Path) -> None:
    (folder / "1").mkdir()
    (folder / "model.py").rename(folder / "1" / "model.py")
    (folder / "weights").rename(folder / "1" / "weights")

    ran = waypost("push", "vad", str(folder))

    assert ran.exit_code == 0
    assert "warning: every model file lies in 1/" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["vad", "/nowhere"], "/nowhere is not a folder"),
        (["v/d", "."], "'v/d' is not a name for a model"),
        (["vad", ".", "--version", "01"], "'01' is not a version number"),
        (["vad", ".", "--label", "commit"], "the label 'commit' is not key=value"),
        (["vad", ".", "--label", "a=1", "--label", "a=2"], "the label 'a' is given twice"),
    ],
)
def test_a_mistake_in_the_call_is_named_before_anything_is_sent(
    waypost: Waypost, fake: FakeApi, arguments: list[str], says: str
) -> None:
    ran = waypost("push", *arguments)

    assert ran.exit_code == 1
    assert says in ran.stderr
    assert fake.seen == []


def test_the_faults_the_server_finds_are_shown_line_by_line(
    waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    errors = [{"field": "manifest.files[2].path", "message": "\x1b[31m[bold]is bad[/bold]"}]
    fake.intervene("POST", "versions", problem(422, "manifest-invalid", errors=errors))

    ran = waypost("push", "vad", str(folder))

    assert ran.exit_code == 1
    assert "error: Manifest invalid: This is manifest-invalid." in ran.stderr
    assert "  manifest.files[2].path:  [31m[bold]is bad[/bold]" in ran.stderr
    assert "\x1b" not in ran.stderr


def test_what_a_version_asks_of_machines_is_part_of_it(
    waypost: Waypost, fake: FakeApi, folder: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "requires.json"
    asked.write_text('{"memory_bytes": 2000000000, "backends": ["python"]}')

    ran = waypost("push", "vad", str(folder), "--requires", str(asked), "--output", "json")

    assert ran.exit_code == 0, ran.stderr
    assert fake.versions["vad", "1"].manifest["requires"] == {
        "memory_bytes": 2000000000,
        "backends": ["python"],
    }


@pytest.mark.parametrize("text", ["", "[]", "memory_bytes = 5"])
def test_a_file_that_asks_for_nothing_readable_is_refused_before_anything_is_sent(
    waypost: Waypost, fake: FakeApi, folder: Path, tmp_path: Path, text: str
) -> None:
    asked = tmp_path / "requires.json"
    asked.write_text(text)

    ran = waypost("push", "vad", str(folder), "--requires", str(asked))

    assert ran.exit_code != 0
    assert str(asked) in ran.stderr
    assert not fake.versions
