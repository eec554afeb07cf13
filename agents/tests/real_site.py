"""A whole site for tests: a real Triton, a fake centre over HTTP, and agents as real processes."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.triton.wheel_server import Ports, WheelTriton
from fake_centre import TOKEN, FakeCentre
from versions import MODEL
from waypost_agent.agent import Agent
from waypost_agent.cli import main, only_one
from waypost_agent.config import load_config
from waypost_agent.identity import Identity
from waypost_agent.log import set_up
from waypost_agent.model_config import overlay
from waypost_agent.server import make_triton
from waypost_agent.triton import PbtxtCodec

CHECKOUT = Path(__file__).resolve().parents[2]
TRITON_ENVIRONMENT = CHECKOUT / ".triton"

# Importing gRPC and numpy takes long: one process does it once, each agent is its fork.
_processes = multiprocessing.get_context("forkserver")
# Each start also asks every known process whether it ended, and only the first to ask learns the
# exit status; the others read 255.
_one_at_a_time = threading.Lock()
_processes.set_forkserver_preload(["waypost_agent.cli", "real_site"])


def run_agent(
    config_path: Path, die_at: str | None, log_path: Path, limits: Mapping[str, float]
) -> None:
    """The body of an agent process: dies by SIGKILL at the checkpoint `die_at`."""
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    set_up()

    def die(name: str) -> None:
        if name == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    config = load_config(config_path)
    config = replace(config, limits=replace(config.limits, **limits))
    membership = Identity(config.state_dir).membership()
    assert membership is not None
    with only_one(config.state_dir):
        Agent(config, membership, checkpoint=die).run()


class Site:
    """`with Site(folder) as site:` has a Triton that runs and an agent that joined."""

    def __init__(
        self, folder: Path, *, start_triton: bool = True, timeouts: str = "", triton: str = ""
    ) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.repository.mkdir()
        self.ports = Ports.free()
        self.centre = FakeCentre()
        self.triton = WheelTriton(
            environment=TRITON_ENVIRONMENT,
            repository=self.repository,
            ports=self.ports,
            log_file=folder / "triton.log",
            secret_file=folder / "secret",
        )
        self._start_triton = start_triton
        self.config_path = folder / "agent.toml"
        self.config_path.write_text(
            f'state_dir = "{folder}/state"\n'
            "allow_executable = true\n"  # the versions of these tests are of the python backend
            "[triton]\n"
            f'grpc_url = "127.0.0.1:{self.ports.grpc}"\n'
            f'http_url = "http://127.0.0.1:{self.ports.http}"\n'
            f'metrics_url = "http://127.0.0.1:{self.ports.metrics}/metrics"\n'
            f'repository = "{self.repository}"\n'
            f'secret_file = "{folder}/secret"\n'
            f"{triton}\n"
            "[limits]\nreserve_bytes = 1048576\n"
            "[timeouts]\n"
            "observe_seconds = 0.3\n"
            "busy_poll_seconds = 0.05\n"
            "poll_shortest_seconds = 0.05\n"
            "retry_first_seconds = 0.2\n"
            f"{timeouts}\n"
        )

    def __enter__(self) -> Self:
        self.centre.__enter__()
        if self._start_triton:
            self.triton.start()
            self.triton.wait_live()
        command = ["join", self.centre.url, "--token", TOKEN, "--config", str(self.config_path)]
        assert main(command) == 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.triton.kill()
        self.centre.close()

    def start_agent(
        self, die_at: str | None = None, limits: Mapping[str, float] | None = None
    ) -> BaseProcess:
        """`limits` are put over those of the site's configuration."""
        process = _processes.Process(
            target=run_agent,
            args=(self.config_path, die_at, self.folder / "agent.log", limits or {}),
        )
        with _one_at_a_time:
            process.start()
        return process

    @contextmanager
    def agent(self) -> Iterator[BaseProcess]:
        """An agent that is asked to stop at the end, and must."""
        process = self.start_agent()
        try:
            yield process
        finally:
            process.terminate()
            stopped = exit_status(process, timeout_seconds=30)
            if stopped is None:
                process.kill()
                exit_status(process, timeout_seconds=30)
        log = (self.folder / "agent.log").read_text()[-3000:]
        assert stopped == 0, f"exit status {stopped}\n{log}"

    def ask(
        self, model: str = MODEL, timeout_seconds: float = 5.0, ports: Ports | None = None
    ) -> tuple[str, float] | str:
        """One user's request: `(version, value)`, or what went wrong."""
        port = (ports or self.ports).http
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)
        try:
            return _ask_over(connection, model)
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()

    def index_states(self) -> dict[str, str]:
        """`model/version` to its state, by the agent's own client."""
        config = load_config(self.config_path)
        client = make_triton(config, config.servers[0])
        try:
            return {
                f"{model}/{version}": entry.state
                for model, versions in client.index().items()
                for version, entry in versions.items()
            }
        finally:
            client.close()

    def control(self, model: str, version: str | None) -> None:
        """What an operator's own hand does at the server: load one version alone, or unload."""
        config = load_config(self.config_path)
        client = make_triton(config, config.servers[0])
        try:
            if version is None:
                client.unload(model)
                return
            text = (self.repository / model / "config.pbtxt").read_text()
            fields = PbtxtCodec().parse(text)
            client.load(model, overlay(fields, name=model, version=version), timeout_seconds=10)
        finally:
            client.close()


class Users:
    """One user who asks without pause; `with Users(site) as users:` and read what he saw."""

    def __init__(self, site: Site, model: str = MODEL, pause_seconds: float = 0.0) -> None:
        self._site = site
        self._model = model
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)
        self.answers: set[tuple[str, float]] = set()
        self.failures: list[str] = []
        self.count = 0
        self.longest_gap_seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._site.ports.http, timeout=5.0)
        connection.connect()
        assert connection.sock is not None
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        last = time.monotonic()
        while not self._stop.wait(self._pause_seconds):
            try:
                answer = _ask_over(connection, self._model)
            except (OSError, http.client.HTTPException) as error:
                answer = repr(error)
                connection.close()
            now = time.monotonic()
            self.longest_gap_seconds = max(self.longest_gap_seconds, now - last)
            last = now
            self.count += 1
            if isinstance(answer, str):
                self.failures.append(answer)
            else:
                self.answers.add(answer)
        connection.close()


def _ask_over(connection: http.client.HTTPConnection, model: str) -> tuple[str, float] | str:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}))
    response = connection.getresponse()
    body = json.loads(response.read() or b"null")
    if response.status != 200:
        return f"{response.status} {body}"
    return body["model_version"], body["outputs"][0]["data"][0]


def exit_status(process: BaseProcess, timeout_seconds: float) -> int | None:
    """The status of a process that ends within the time, else None. Negative: ended by a signal."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        with _one_at_a_time:
            process.join(0)
            status = process.exitcode
        if status is not None or time.monotonic() > deadline:
            return status
        time.sleep(0.01)


def wait_until(happened: Callable[[], bool], what: str, timeout_seconds: float = 30.0) -> None:
    """Poll a real process until something happened, with a deadline."""
    deadline = time.monotonic() + timeout_seconds
    while not happened():
        assert time.monotonic() < deadline, f"within {timeout_seconds:g} s: {what}"
        time.sleep(0.02)
