"""Large files go in pieces: a cut costs at most one, and everything wrong is told at once."""

import json
import os
from pathlib import Path

import pytest
from conftest import Pauses, Waypost
from fake_api import FakeApi, Reply, problem
from test_push import UNAVAILABLE, push_it
from waypost_cli import ci_origin, push, uploading
from waypost_cli.api import Api
from waypost_cli.bundle import read_bundle
from waypost_cli.errors import FileChangedError, UnavailableError

PIECE = 1 << 20
SIZE = 7 * PIECE + 333


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(uploading, "PIECE_BYTES", PIECE)


@pytest.fixture
def large(folder: Path) -> str:
    """The SHA-256 of a file of the folder that is longer than a piece."""
    (folder / "large.bin").write_bytes(os.urandom(SIZE))
    return next(f.sha256 for f in read_bundle(folder).files if f.path == "large.bin")


def test_a_large_file_goes_in_pieces(api: Api, fake: FakeApi, folder: Path, large: str) -> None:
    pushed = push_it(api, folder)

    assert fake.blobs[large] == SIZE
    assert pushed.uploaded_files == 5
    ranges = [seen.headers["content-range"] for seen in fake.requests("PUT", large)]
    assert ranges[0] == f"bytes 0-{PIECE - 1}/{SIZE}"
    assert ranges[-1] == f"bytes {7 * PIECE}-{SIZE - 1}/{SIZE}"
    assert len(ranges) == 8


def test_a_cut_costs_no_more_than_its_piece(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path, large: str
) -> None:
    fake.intervene("PUT", large, None, UNAVAILABLE, None, None, UNAVAILABLE, UNAVAILABLE)

    push_it(api, folder)

    assert fake.blobs[large] == SIZE
    small = sum(f.size for f in read_bundle(folder).files if f.sha256 != large)
    assert fake.received_bytes == SIZE + small + 3 * PIECE
    assert len(pauses.seconds) == 3


def test_a_push_that_was_ended_goes_on_where_it_was(
    api: Api, fake: FakeApi, folder: Path, large: str
) -> None:
    fake.intervene("PUT", large, None, None, None, *[UNAVAILABLE] * 5)
    with pytest.raises(UnavailableError):
        push_it(api, folder)
    before = len(fake.requests("PUT", large))

    push_it(api, folder)

    first = fake.requests("PUT", large)[before]
    assert first.headers["content-range"].startswith(f"bytes {3 * PIECE}-")
    assert fake.versions["vad", "1"].state == "registered"


def test_a_server_that_stays_broken_ends_it(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path, large: str
) -> None:
    fake.intervene("PUT", large, *[UNAVAILABLE] * 40)
    with pytest.raises(UnavailableError, match="HTTP 503"):
        push_it(api, folder)
    assert len(pauses.seconds) == 4


def test_the_servers_wish_for_a_pause_is_obeyed(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path, large: str
) -> None:
    busy = Reply(status=503, body=b"busy", content_type="text/plain", headers={"Retry-After": "9"})
    fake.intervene("PUT", large, busy)
    push_it(api, folder)
    assert pauses.seconds == [9.0]


def test_another_push_of_the_same_file_is_waited_for(
    api: Api, fake: FakeApi, pauses: Pauses, folder: Path, large: str
) -> None:
    fake.intervene("PUT", large, problem(409, "upload-busy"), problem(409, "upload-busy"))
    push_it(api, folder)
    assert fake.blobs[large] == SIZE
    assert pauses.seconds == [1.0, 1.0]


def test_bytes_that_change_meanwhile_are_explained(
    api: Api, fake: FakeApi, folder: Path, large: str
) -> None:
    bundle = read_bundle(folder)
    (folder / "large.bin").write_bytes(os.urandom(SIZE))
    from test_push import Silent

    with pytest.raises(FileChangedError, match=r"large\.bin changed while it was being pushed"):
        push.push(api, model="vad", version=None, bundle=bundle, labels={}, observer=Silent())
    assert large not in fake.blobs


class TestDryRun:
    def test_names_three_mistakes_at_once_and_keeps_nothing(
        self, waypost: Waypost, fake: FakeApi, folder: Path
    ) -> None:
        (folder / "golden.json").unlink()
        (folder / "link.bin").symlink_to(folder / "model.py")
        finding = {
            "level": "fault", "file": "config.pbtxt", "line": 3, "field": "instance_group.count",
            "message": "is 0", "cure": "Give 1 or more.",
        }  # fmt: skip
        fake.answers["POST", "models/vad/versions"] = {"findings": [finding], "would": "refuse"}

        ran = waypost("push", "vad", str(folder), "--dry-run", "-o", "json")

        assert ran.exit_code == 1
        places = {(row["file"], row["line"]) for row in json.loads(ran.stdout)["findings"]}
        assert places == {("golden.json", None), ("link.bin", None), ("config.pbtxt", 3)}
        assert "3 faults; nothing was sent or kept" in ran.stderr
        (asked,) = fake.seen
        assert asked.query == {"dry_run": "true"}
        assert asked.body["texts"] == {"config.pbtxt": 'backend: "python"\n'}
        assert fake.versions == {}

    def test_says_what_a_push_would_be(self, waypost: Waypost, fake: FakeApi, folder: Path) -> None:
        fake.answers["POST", "models/vad/versions"] = {"findings": [], "would": "create"}
        ran = waypost("push", "vad", str(folder), "--dry-run")
        assert ran.exit_code == 0
        assert "a push would be: create" in ran.stderr

    def test_is_a_document_for_ci_too(self, waypost: Waypost, fake: FakeApi, folder: Path) -> None:
        (folder / ".hidden").touch()
        fake.answers["POST", "models/vad/versions"] = {"findings": [], "would": "create"}
        ran = waypost("push", "vad", str(folder), "--dry-run", "-o", "junit")
        assert ran.exit_code == 1
        assert 'name=".hidden"' in ran.stdout
        assert 'failures="1"' in ran.stdout


GITHUB = {
    "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "me/vad", "GITHUB_SHA": "a" * 40, "GITHUB_RUN_ID": "77",
}  # fmt: skip
GITLAB = {
    "GITLAB_CI": "true", "CI_PROJECT_URL": "https://gitlab.example/me/vad",
    "CI_COMMIT_SHA": "b" * 40, "CI_JOB_URL": "https://gitlab.example/me/vad/-/jobs/7",
}  # fmt: skip


class TestOrigin:
    def test_is_what_the_ci_system_says(self) -> None:
        assert ci_origin.lineage_of({}, GITHUB) == {
            "git_repository": "https://github.example/me/vad",
            "git_commit": "a" * 40,
            "ci_run": "https://github.example/me/vad/actions/runs/77",
        }
        assert ci_origin.lineage_of({}, GITLAB) == {
            "git_repository": "https://gitlab.example/me/vad",
            "git_commit": "b" * 40,
            "ci_run": "https://gitlab.example/me/vad/-/jobs/7",
        }
        assert ci_origin.lineage_of({"git_commit": None}, {}) == {}

    def test_is_what_was_given_first(self) -> None:
        made = ci_origin.lineage_of({"git_commit": "c" * 40, "dataset": "d"}, GITHUB)
        assert (made["git_commit"], made["dataset"]) == ("c" * 40, "d")

    def test_goes_with_the_version(
        self, waypost: Waypost, fake: FakeApi, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in GITLAB.items():
            monkeypatch.setenv(name, value)
        waypost("push", "vad", str(folder))
        (created,) = fake.requests("POST", "versions$")
        assert created.body["lineage"]["git_commit"] == "b" * 40
