"""The agent as a service: a real process, watched by a manager, measured, told to log more."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_centre import TOKEN, FakeCentre
from versions import make_version
from waypost_agent.cli import main


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        yield manager


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\nlog_level = "INFO"\nmetrics_port = {free_port()}\n'
        f'[triton]\nrepository = "{tmp_path}/models"\ngrpc_url = "127.0.0.1:1"\n'
        "[timeouts]\ncall_timeout_seconds = 1.0\n"
    )
    return path


@pytest.fixture
def agent(
    centre: FakeCentre, config_path: Path, tmp_path: Path, manager: socket.socket
) -> Iterator[subprocess.Popen[str]]:
    assert main(["join", centre.url, "--token", TOKEN, "--config", str(config_path)]) == 0
    centre.publish(make_version("1"))
    with started(config_path, tmp_path) as process:
        yield process


@contextmanager
def started(config_path: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "waypost_agent", "run", "--config", str(config_path)],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "1000000",
        },
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_server_whose_disk_is_missing_keeps_no_other_waiting(
    centre: FakeCentre, tmp_path: Path, manager: socket.socket
) -> None:
    (tmp_path / "near").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n[timeouts]\ncall_timeout_seconds = 1.0\n'
        f'[[servers]]\nname = "near"\nmodels = ["near-*"]\nrepository = "{tmp_path}/near"\n'
        'grpc_url = "127.0.0.1:1"\n'
        f'[[servers]]\nname = "far"\nrepository = "{tmp_path}/far"\ngrpc_url = "127.0.0.1:2"\n'
        'http_url = "http://127.0.0.1:3"\nmetrics_url = "http://127.0.0.1:4"\n'
    )
    assert main(["join", centre.url, "--token", TOKEN, "--config", str(path)]) == 0
    with started(path, tmp_path) as process:
        event = next(event for event in events(process) if "has to wait" in event)
        assert f"server far has to wait: triton.repository: {tmp_path}/far is not a folder" in event
        for model in ("near-a", "other"):
            centre.publish(make_version("1", model=model), model=model)
        hear(manager, "STATUS=0 of 1 models as wished; near-a pending")
        (tmp_path / "far").mkdir()
        hear(manager, "STATUS=0 of 2 models as wished")
        hear(manager, "WATCHDOG=1")


def test_records_of_the_one_server_of_before_are_not_left_behind_unseen(
    centre: FakeCentre, config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(config_path)]
    assert main(["join", centre.url, "--token", TOKEN, *command]) == 0
    assert main(["once", *command]) == 0
    text = config_path.read_text().replace("[triton]", '[[servers]]\nname = "cpu"')
    config_path.write_text(text)
    assert main(["once", *command]) == 1
    assert f"{tmp_path}/state/servers/NAME" in capsys.readouterr().err
    assert main(["doctor", *command]) == 1
    assert f"{tmp_path}/state/servers/NAME" in capsys.readouterr().out


def hear(manager: socket.socket, beginning: str) -> str:
    while True:
        message = manager.recv(4096).decode()
        if message.startswith(beginning):
            return message


def events(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield json.loads(line)["event"]


def test_a_manager_hears_of_start_state_life_and_end(
    agent: subprocess.Popen[str], manager: socket.socket
) -> None:
    hear(manager, "READY=1")
    told = hear(manager, "STATUS=0 of 1")
    assert told == "STATUS=0 of 1 models as wished; echo pending (triton-unreachable)"
    for _ in range(3):
        hear(manager, "WATCHDOG=1")
    agent.send_signal(signal.SIGTERM)
    hear(manager, "STOPPING=1")
    assert agent.wait(timeout=30) == 0


def test_metrics_answer_and_hold_no_secret(
    agent: subprocess.Popen[str], centre: FakeCentre, manager: socket.socket, config_path: Path
) -> None:
    centre.wait_for_phase("pending", centre.generation)
    (line,) = (each for each in config_path.read_text().splitlines() if "metrics_port" in each)
    port = line.rpartition(" ")[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        told = answer.read().decode()
    assert 'waypost_agent_model_phase{model="echo",phase="pending"' in told
    assert "waypost_agent_last_contact_age_seconds" in told
    assert not any(token in told for token in centre.sessions)


def test_the_log_level_changes_without_a_restart(
    agent: subprocess.Popen[str], manager: socket.socket, config_path: Path
) -> None:
    hear(manager, "READY=1")
    config_path.write_text(config_path.read_text().replace('"INFO"', '"DEBUG"'))
    agent.send_signal(signal.SIGHUP)
    assert "log level DEBUG, before INFO" in events(agent)
    assert agent.poll() is None


def test_a_taken_port_for_metrics_does_not_stop_the_agent(
    centre: FakeCentre, config_path: Path, tmp_path: Path, manager: socket.socket
) -> None:
    assert main(["join", centre.url, "--token", TOKEN, "--config", str(config_path)]) == 0
    (line,) = (each for each in config_path.read_text().splitlines() if "metrics_port" in each)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(line.rpartition(" ")[2])))
        other.listen()
        with started(config_path, tmp_path) as process:
            assert any(event.startswith("no metrics: port") for event in events(process))
            process.terminate()
            process.communicate(timeout=30)
            assert process.returncode == 0
