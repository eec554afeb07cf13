"""The command itself: joining, exit statuses, one agent per folder, dry runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fake_centre import NEXT_TOKEN, TOKEN, FakeCentre, Handler
from fake_triton import FakeClock
from versions import make_version
from waypost_agent import protocol as p
from waypost_agent.cli import main, only_one
from waypost_agent.identity import Identity
from waypost_agent.journal import Journal
from waypost_agent.said import Said
from waypost_agent.situation import Record


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    """A site whose Triton is not running."""
    (tmp_path / "models").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n'
        f'[triton]\nrepository = "{tmp_path}/models"\ngrpc_url = "127.0.0.1:1"\n'
        "[timeouts]\ncall_timeout_seconds = 1.0\n"
    )
    return ["--config", str(path)]


def test_joining_binds_the_key_and_again_says_so_without_asking(
    centre: FakeCentre, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    join = ["join", centre.url, "--token", TOKEN, *config]
    assert main(join) == 0
    assert "joined" in capsys.readouterr().out
    asked = len(centre.requests)
    assert main(join) == 0
    assert "already joined" in capsys.readouterr().out
    assert len(centre.requests) == asked


def test_an_answer_lost_while_joining_does_not_strand_the_site(
    centre: FakeCentre, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(handler: Handler) -> bool:
        centre.enrol(json.loads(handler.body))
        handler.close_connection = True
        del centre.sabotage["enrol"]
        return True

    centre.sabotage["enrol"] = lose
    join = ["join", centre.url, "--token", TOKEN, *config]
    assert main(join) == 1
    assert main(join) == 0
    assert capsys.readouterr().out.startswith("joined")


def test_joining_anew_takes_a_new_key_which_no_copy_of_the_disk_has(
    centre: FakeCentre, config: list[str], tmp_path: Path
) -> None:
    assert main(["join", centre.url, "--token", TOKEN, *config]) == 0
    before = (tmp_path / "state" / "agent.key").read_bytes()
    assert main(["join", centre.url, "--token", "wpe_wrong", *config]) == 1
    assert (tmp_path / "state" / "agent.key").read_bytes() == before

    assert main(["join", centre.url, "--token", NEXT_TOKEN, *config]) == 0

    assert (tmp_path / "state" / "agent.key").read_bytes() != before
    assert Identity(tmp_path / "state").public_key() == centre.public_key
    assert not Identity(tmp_path / "state").has_next_key()


def test_an_answer_lost_while_joining_anew_does_not_strand_the_site_either(
    centre: FakeCentre, config: list[str], tmp_path: Path
) -> None:
    def lose(handler: Handler) -> bool:
        centre.enrol(json.loads(handler.body))
        handler.close_connection = True
        del centre.sabotage["enrol"]
        return True

    assert main(["join", centre.url, "--token", TOKEN, *config]) == 0
    centre.sabotage["enrol"] = lose
    join = ["join", centre.url, "--token", NEXT_TOKEN, *config]
    assert main(join) == 1
    assert main(join) == 0
    assert Identity(tmp_path / "state").public_key() == centre.public_key


def test_a_wrong_token_is_told_and_joins_nothing(
    centre: FakeCentre, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["join", centre.url, "--token", "wpe_wrong", *config]) == 1
    assert "enrolment-token-invalid" in capsys.readouterr().err
    assert main(["run", *config]) == 1
    assert "waypost-agent join URL --token" in capsys.readouterr().err


def test_a_token_is_never_sent_in_the_clear_beyond_loopback(
    config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["join", "http://centre.example", "--token", TOKEN, *config]) == 1
    assert "tokens in the clear" in capsys.readouterr().err


def test_a_missing_configuration_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--config", str(tmp_path / "none.toml")]) == 1
    assert "none.toml" in capsys.readouterr().err


def test_a_second_agent_in_the_same_folder_is_refused(
    centre: FakeCentre, config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", centre.url, "--token", TOKEN, *config])
    with only_one(tmp_path / "state"):
        assert main(["once", *config]) == 1
    assert "another agent is running" in capsys.readouterr().err


def test_a_dry_run_says_what_and_why_and_changes_nothing(
    centre: FakeCentre, config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", centre.url, "--token", TOKEN, *config])
    centre.publish(make_version("1"))
    before = _files(tmp_path)
    capsys.readouterr()
    assert main(["once", "--dry-run", *config]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^echo +1 +unknown +wait$", told, re.MULTILINE)
    assert "because Triton does not answer" in told
    assert main(["once", "--dry-run", "--output", "json", *config]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["models"]
    assert (plan["step"], plan["wished"], plan["serving"]) == ("Wait", "1", None)
    # A login counts up; besides that nothing may have changed.
    changed = {path for path, data in _files(tmp_path).items() if before.get(path) != data}
    assert {Path(path).name for path in changed} <= {"session_counter"}


def test_a_dry_run_beside_a_running_agent_does_not_end_its_session(
    centre: FakeCentre, config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", centre.url, "--token", TOKEN, *config])
    with only_one(tmp_path / "state"):
        asked = len(centre.requests)
        assert main(["once", "--dry-run", *config]) == 0
    assert len(centre.requests) == asked
    assert "an agent is running here" in capsys.readouterr().err


def test_once_ends_with_three_when_it_has_to_wait(
    centre: FakeCentre, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", centre.url, "--token", TOKEN, *config])
    centre.publish(make_version("1"))
    assert main(["once", *config]) == 3
    assert "echo: pending" in capsys.readouterr().out
    assert main(["once", "--output", "json", *config]) == 3
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["model"], model["phase"]) == ("echo", "pending")
    report = centre.report_of("echo")
    assert report is not None
    assert (report["phase"], report["reason_code"]) == ("pending", "triton-unreachable")


def test_status_works_without_centre_and_without_triton(
    config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--json", *config]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["site"] is None
    (server,) = document["servers"]
    assert (server["server"], server["triton"]["live"], server["models"]) == ("", False, [])


def test_status_says_why_a_model_waits_for_its_lease(
    centre: FakeCentre, config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["join", centre.url, "--token", TOKEN, *config])
    (tmp_path / "models/echo/1").mkdir(parents=True)
    waiting = p.ModelReport(
        model="echo",
        generation=1,
        deployment=1,
        target="1",
        phase=p.STAGED,
        serving=None,
        healthy=None,
        reason_code="max-unavailable",
        reason="1 of 4 sites may change at a time",
    )
    journal = Journal(tmp_path / "state/journal")
    journal.prepare()
    journal.save("echo", Record())
    Said(tmp_path / "state", FakeClock()).write((waiting,))
    capsys.readouterr()
    assert main(["status", *config]) == 0
    told = capsys.readouterr().out
    assert "staged (max-unavailable), as of 2026-11-23T13:12:00Z" in told
    assert "1 of 4 sites may change at a time" in told
    assert main(["status", "--json", *config]) == 0
    (model,) = json.loads(capsys.readouterr().out)["servers"][0]["models"]
    assert model["said"]["reason_code"] == "max-unavailable"
    assert model["said"]["lease"] is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 1}', '{"at": 1, "models": [{}]}'])
def test_status_does_without_what_was_said_when_it_cannot_be_read(
    config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/said.json").write_text(text)
    assert main(["status", *config]) == 0


def test_a_full_disk_does_not_stop_the_agent_from_saying(tmp_path: Path) -> None:
    Said(tmp_path / "missing", FakeClock()).write(())


def test_wrong_usage_ends_with_two() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "waypost_agent", "frobnicate"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
