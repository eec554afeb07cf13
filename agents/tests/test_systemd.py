"""The service manager hears of readiness, states, and life only while the loop turns."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_triton import FakeClock
from waypost_agent import protocol as p
from waypost_agent.agent import sentence_of
from waypost_agent.config import load_config
from waypost_agent.systemd import Notifier, Turning, TurningClock, notifier_from

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "systemd/waypost-agent.service"


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        yield manager


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_each_word_is_one_datagram(manager: socket.socket, tmp_path: Path) -> None:
    notifier = notifier_from({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.ready()
    notifier.status("1 of 2 models\nas wished")
    notifier.stopping()
    assert heard(manager) == ["READY=1", "STATUS=1 of 2 models as wished", "STOPPING=1"]


def test_an_abstract_socket_is_understood() -> None:
    name = f"waypost-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.setblocking(False)
        notifier_from({"NOTIFY_SOCKET": "@" + name}).ready()
        assert heard(manager) == ["READY=1"]


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": str(tmp_path / "none")}):
        notifier = notifier_from({**environment, "WATCHDOG_USEC": "1000000"})
        notifier.ready()
        notifier.beat(1.0)


def test_a_manager_that_does_not_listen_holds_nothing_up(
    manager: socket.socket, tmp_path: Path
) -> None:
    notifier = notifier_from({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    for _ in range(2000):  # more than its queue takes
        notifier.status("still here")
    assert heard(manager)


def test_life_is_told_four_times_a_deadline_and_no_oftener(
    manager: socket.socket, tmp_path: Path
) -> None:
    notifier = notifier_from(
        {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "40000000"}
    )
    for second in range(40):
        notifier.beat(float(second))
    assert heard(manager) == ["WATCHDOG=1"] * 4


@pytest.mark.parametrize("given", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}])
def test_life_is_not_told_to_who_does_not_wait_for_it(
    manager: socket.socket, tmp_path: Path, given: dict[str, str]
) -> None:
    notifier_from({"NOTIFY_SOCKET": str(tmp_path / "notify"), **given}).beat(1.0)
    assert heard(manager) == []


def test_a_deadline_for_another_process_is_not_this_one(
    manager: socket.socket, tmp_path: Path
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    notifier_from({**environment, "WATCHDOG_PID": "1"}).beat(1.0)
    assert heard(manager) == []
    notifier_from({**environment, "WATCHDOG_PID": str(os.getpid())}).beat(1.0)
    assert heard(manager) == ["WATCHDOG=1"]


def test_of_several_loops_one_that_hangs_is_silence_however_the_others_turn(
    manager: socket.socket, tmp_path: Path
) -> None:
    turning = Turning(Notifier(str(tmp_path / "notify"), 40.0), ["cpu", "gpu"])
    cpu, gpu = turning.of("cpu"), turning.of("gpu")
    for second in range(100):
        cpu(float(second))
    assert heard(manager) == []
    gpu(100.0)
    assert heard(manager) == ["WATCHDOG=1"]
    for second in range(101, 200):
        cpu(float(second))
    assert heard(manager) == []
    for second in range(200, 240):
        cpu(float(second))
        gpu(float(second))
    assert heard(manager) == ["WATCHDOG=1"] * 4


def test_the_clock_tells_of_life_when_asked_and_keeps_silent_over_a_step_that_hangs(
    manager: socket.socket, tmp_path: Path
) -> None:
    inner = FakeClock()
    clock = TurningClock(inner, Notifier(str(tmp_path / "notify"), 40.0).beat)

    def step(seconds: float, *, hangs: bool) -> int:
        for _ in range(10):
            inner.now += seconds / 10
            if not hangs:
                clock.monotonic()
        return len(heard(manager))

    assert step(100.0, hangs=False) == 10
    assert step(100.0, hangs=True) == 0
    assert step(100.0, hangs=False) == 10
    assert clock.boottime() == inner.boottime()


def report(model: str, phase: str, code: str) -> p.ModelReport:
    return p.ModelReport(
        model=model, generation=1, deployment=None, target="2", phase=phase, serving="2",
        healthy=True, reason_code=code, reason="why",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reports", "sentence"),
    [
        ((), "nothing is wished of this site"),
        ((report("a", p.SUCCEEDED, "ok"),), "1 of 1 models as wished"),
        (
            (report("a", p.SUCCEEDED, "ok"), report("b", p.STAGED, "max-unavailable")),
            "1 of 2 models as wished; b staged (max-unavailable)",
        ),
    ],
)
def test_the_state_of_a_site_is_one_sentence(
    reports: tuple[p.ModelReport, ...], sentence: str
) -> None:
    assert sentence_of(reports) == sentence


# The unit


def unit() -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            keys.setdefault(name, []).append(value)
    return keys


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = unit()["ExecStart"][0].split()[0]
    copy = tmp_path / UNIT.name
    # Only the program is not where the unit has it.
    copy.write_text(UNIT.read_text().replace(program, shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_unit_is_closed_and_watched() -> None:
    keys = unit()
    assert keys["Type"] == ["notify"]
    assert keys["WatchdogSec"] == ["10min"]
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID"):
        assert keys[key] == ["true"], key
    assert keys["ProtectSystem"] == ["strict"]
    assert keys["CapabilityBoundingSet"] == [""]


def test_the_unit_and_the_example_configuration_speak_of_the_same_folders() -> None:
    """Each writable entry is a mount of its own: both folders must lie below one."""
    (writable,) = unit()["ReadWritePaths"]
    config = load_config(DEPLOY / "agent.example.toml")
    assert config.state_dir.is_relative_to(writable)
    assert config.servers[0].triton.repository.is_relative_to(writable)


def test_the_unit_runs_a_command_that_is_there() -> None:
    from waypost_agent.cli import main

    words = unit()["ExecStart"][0].split()
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--help"])
    assert ended.value.code == 0
