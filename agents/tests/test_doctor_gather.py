"""The facts a doctor judges are those of the machine; nothing is changed by looking."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from fake_centre import TOKEN, FakeCentre, Handler
from waypost_agent.cli import main
from waypost_agent.config import Config, ServerConfig, TritonConfig
from waypost_agent.doctor.gather import ask_centre, gather, look_at_folder, mount_of
from waypost_agent.doctor.look import command_line, listeners
from waypost_agent.journal import Journal
from waypost_agent.situation import Record, Target

CONFIG = Config(
    state_dir=Path("/s"),
    servers=(ServerConfig(state_dir=Path("/s"), triton=TritonConfig(repository=Path("/m"))),),
)


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """A site whose Triton is not running."""
    (tmp_path / "models").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n'
        f'[triton]\nrepository = "{tmp_path}/models"\ngrpc_url = "127.0.0.1:1"\n'
        'http_url = "http://127.0.0.1:1"\n'
        "[timeouts]\ncall_timeout_seconds = 1.0\n"
    )
    return path


def lives(handler: Handler) -> bool:
    handler.send_json(200, {"status": "ok"})
    return True


def test_a_joined_agent_at_a_living_centre_is_seen_so(
    centre: FakeCentre, config_path: Path, tmp_path: Path
) -> None:
    assert main(["join", centre.url, "--token", TOKEN, "--config", str(config_path)]) == 0
    centre.sabotage[""] = lives  # /healthz/live is not a path of the agents' API
    asked = len(centre.requests)
    (facts,) = gather(config_path)
    disk = shutil.disk_usage(tmp_path)
    assert facts.host.disk_bytes == disk.total
    assert facts.host.free_bytes is not None
    assert facts.host.free_bytes < disk.total
    assert facts.identity.site == "edge-1"
    assert facts.identity.key_mode == 0o600
    assert facts.centre is not None
    assert (facts.centre.status, facts.centre.is_centre) == (200, True)
    assert facts.centre.ahead_seconds is not None
    assert abs(facts.centre.ahead_seconds) < 30
    assert [path for _, path, _ in centre.requests[asked:]] == ["/healthz/live"]
    assert facts.server is not None
    assert not facts.server.live


def test_looking_changes_nothing(config_path: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state/journal")
    journal.prepare()
    journal.save("vad", Record(committed=Target(version="1", digest="sha256:1")))
    (tmp_path / "state/journal/models/echo.json").write_text("{")
    (tmp_path / "state/journal/models/noise.json").write_text('{"committed": 7}')
    before = files(tmp_path)
    (facts,) = gather(config_path)
    assert files(tmp_path) == before
    assert facts.journal.unreadable == ("echo.json", "noise.json")
    (model,) = facts.models
    assert (model.model, model.committed, model.committed_on_disk) == ("vad", "1", False)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def test_damaged_wishes_and_what_was_set_aside_are_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.prepare()
    assert journal.faults() == ((), ())
    (tmp_path / "desired.json").write_text('{"desired": 7}')
    (tmp_path / "models/vad.json.damaged").write_text("")
    assert journal.faults() == (("desired.json",), ("vad.json.damaged",))


def test_a_configuration_that_cannot_be_read_is_the_only_fact(tmp_path: Path) -> None:
    (facts,) = gather(tmp_path / "none.toml")
    assert facts.config is None
    assert "none.toml" in (facts.config_fault or "")


def test_a_portal_is_not_taken_for_the_centre(centre: FakeCentre) -> None:
    def page(handler: Handler) -> bool:
        handler.send(200, b"<html>please log in</html>")
        return True

    centre.sabotage[""] = page
    seen = ask_centre(CONFIG, centre.url)
    assert (seen.status, seen.is_centre) == (200, False)


def test_a_centre_without_tls_where_it_is_expected_is_told(centre: FakeCentre) -> None:
    seen = ask_centre(CONFIG, centre.url.replace("http://", "https://"))
    assert seen.status is None
    assert seen.fault


def test_a_centre_that_is_gone_or_has_no_name_is_told() -> None:
    gone = ask_centre(CONFIG, "http://127.0.0.1:1")
    assert (gone.addresses, gone.status) == (("127.0.0.1",), None)
    nameless = ask_centre(CONFIG, "http://nobody.invalid")
    assert nameless.name_fault


def test_the_clock_is_compared_with_the_date_of_the_answer(centre: FakeCentre) -> None:
    centre.sabotage[""] = lives
    seen = ask_centre(CONFIG, centre.url, now=lambda: 0.0)
    assert seen.ahead_seconds is not None
    assert seen.ahead_seconds > 1_700_000_000


def test_a_folder_is_described(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    seen = look_at_folder(tmp_path)
    assert (seen.exists, seen.is_folder, seen.mode, seen.uid) == (True, True, 0o750, os.getuid())
    assert seen.mount is not None
    assert tmp_path.is_relative_to(seen.mount)
    assert not look_at_folder(tmp_path / "none").exists


MOUNTS = r"""36 35 98:0 / / rw - ext4 /dev/root rw
37 36 98:0 /srv /srv rw - ext4 /dev/root rw
38 36 98:0 /srv/m /srv/a\040b rw - ext4 /dev/root rw
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [("/srvx", "/"), ("/srv/state", "/srv"), ("/srv/a b/models", "/srv/a b"), ("/srv/a", "/srv")],
)
def test_the_mount_of_a_path_is_the_nearest_above_it(tmp_path: Path, path: str, mount: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert mount_of(Path(path), table) == mount
    assert mount_of(Path(path), tmp_path / "none") is None


def test_this_machine_says_where_a_port_is_bound() -> None:
    with socket.socket() as here, socket.socket() as everywhere:
        here.bind(("127.0.0.1", 0))
        everywhere.bind(("0.0.0.0", 0))
        for each in (here, everywhere):
            each.listen()
        ports = {here.getsockname()[1], everywhere.getsockname()[1]}
        assert listeners(ports) == {
            here.getsockname()[1]: frozenset({"127.0.0.1"}),
            everywhere.getsockname()[1]: frozenset({"0.0.0.0"}),
        }


def test_addresses_of_six_are_read_and_what_does_not_listen_is_left_out(tmp_path: Path) -> None:
    head = "  sl  local_address remote_address st\n"
    zero = "0" * 32
    (tmp_path / "tcp6").write_text(
        f"{head}   0: {zero}:1F41 {zero}:0000 0A\n"
        f"   1: 00000000000000000000000001000000:1F40 {zero}:0000 0A\n"
        f"   2: {zero}:1F42 {zero}:0000 01\n"
    )
    assert listeners({8000, 8001, 8002}, tmp_path) == {
        8000: frozenset({"::1"}),
        8001: frozenset({"::"}),
    }
    assert listeners({8000}, tmp_path / "none") is None


def test_the_command_line_is_that_of_the_triton_on_this_port(tmp_path: Path) -> None:
    for pid, words in {
        "1": ["/sbin/init"],
        "20": ["/opt/tritonserver", "--grpc-port=9001"],
        "30": ["/opt/tritonserver", "--grpc-port", "8001", "--strict-readiness=false"],
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes("\0".join(words).encode() + b"\0")
    assert command_line(8001, tmp_path) == (
        "/opt/tritonserver",
        "--grpc-port",
        "8001",
        "--strict-readiness=false",
    )
    assert command_line(7001, tmp_path) is None


@pytest.mark.parametrize("status", [404, 401])
def test_a_mirror_is_asked_for_no_file_with_the_secret(
    centre: FakeCentre, config_path: Path, tmp_path: Path, status: int
) -> None:
    (tmp_path / "mirror.secret").write_text("s" * 32 + "\n")
    config_path.write_text(
        config_path.read_text()
        + f'[download]\nmirrors = ["{centre.url}"]\n'
        + f'[mirror]\nsecret_file = "{tmp_path}/mirror.secret"\n'
    )
    shown: list[tuple[str | None, str | None]] = []

    def answer(handler: Handler) -> bool:
        shown.append((handler.headers["Waypost-Mirror"], handler.headers["Authorization"]))
        handler.send_json(status, {})
        return True

    centre.sabotage["blobs"] = answer
    (facts,) = gather(config_path)
    assert facts.sharing is not None
    assert [(each.url, each.status) for each in facts.sharing.mirrors] == [(centre.url, status)]
    assert shown == [("s" * 32, None)]
    (tmp_path / "mirror.secret").write_text("short")
    (facts,) = gather(config_path)
    assert facts.sharing is not None
    assert "mirror.secret_file" in str(facts.sharing.secret_fault)


def test_the_command_ends_with_one_when_a_check_fails(
    config_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--config", str(config_path)]) == 1
    told = capsys.readouterr().out
    assert "fail" in told
    assert "waypost-agent join" in told
    assert main(["doctor", "--output", "json", "--config", "/none.toml"]) == 1
    assert '"verdict": "fail"' in capsys.readouterr().out
