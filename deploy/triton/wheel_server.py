"""Runs one real tritonserver from `.triton` as a child process that never outlives its parent.

Decides how the process is started, watched and ended. What it is told on its command line is
decided by `waypost_agent.triton_flags`; it knows nothing of models, agents or the control plane.
"""

from __future__ import annotations

import http.client
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from waypost_agent.triton_flags import (
    TritonSettings,
    keep_supported,
    supported_options,
    triton_command,
)

from deploy.triton.install import ServerTree, read_tree

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.05
_GUARD = Path(__file__).with_name("guard.py")
# The watcher needs milliseconds; this bounds the wait on a machine that swaps.
_CLEAN_UP_SECONDS = 10.0


class TritonFailed(Exception):
    """The server did not start or answer; the message ends with the last lines of its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The three ports of one server, on loopback."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Self:
        """Three ports that were free a moment ago (another process may still be quicker)."""
        with ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(3)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            http_port, grpc, metrics = (each.getsockname()[1] for each in sockets)
        return cls(http=http_port, grpc=grpc, metrics=metrics)


class WheelTriton:
    """One tritonserver: `with WheelTriton(...) as triton:` starts it, waits for it, ends it.

    `repository` is served and never changed. `log_file` is appended to. `secret_file` holds,
    from `start` on, the secret of this boot for the agent to read (mode 0600, one line).
    `environment` is the `.triton` folder that `bootstrap.py triton` made. Not thread-safe.
    The server ends with the process that started it, even when that is killed.
    """

    def __init__(
        self,
        *,
        environment: Path,
        repository: Path,
        ports: Ports,
        log_file: Path,
        secret_file: Path,
        load_models: Sequence[str] = (),
    ) -> None:
        self.repository = repository
        self.ports = ports
        self.log_file = log_file
        self.secret_file = secret_file
        self.load_models = tuple(load_models)
        self.notes: tuple[str, ...] = ()
        self._tree = read_tree(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: socket.socket | None = None
        self._prefix = f"waypost_{secrets.token_hex(4)}_"

    @property
    def pid(self) -> int | None:
        """The process id of the tritonserver, None while none runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server with a new secret; returns at once (`wait_live` waits for it)."""
        if self.running:
            raise RuntimeError(f"tritonserver is running already, as process {self.pid}")
        if not self.repository.is_dir():
            # tritonserver would go on without ever answering: one bad model must not end it.
            raise TritonFailed(f"there is no model repository at {self.repository}")
        self.kill()  # what a server that crashed has left
        command, self.notes = keep_supported(
            triton_command(self._settings(self._new_secret())),
            _options_of(self._tree.binary, self._tree.library_folders),
        )
        for note in self.notes:
            _log.info("triton: %s", note)
        self._spawn(command)

    def wait_live(self, timeout_seconds: float = 60.0) -> None:
        """Return once the server answers that it lives.

        Raises `TritonFailed` when it ends before that, or does not answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._is_live():
            if self._process is None or self._process.poll() is not None:
                status = None if self._process is None else self._process.returncode
                raise TritonFailed(f"tritonserver ended with status {status}\n{self._log_end()}")
            if time.monotonic() > deadline:
                raise TritonFailed(
                    f"tritonserver did not answer on port {self.ports.http} "
                    f"within {timeout_seconds:g} s\n{self._log_end()}"
                )
            time.sleep(_POLL_SECONDS)

    def stop(self, grace_seconds: float = 15.0) -> None:
        """End the server and its stubs: politely, and by force after the grace. Idempotent."""
        if self._process is None:
            return
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                _log.warning("triton: did not stop within %g s, killing it", grace_seconds)
        self.kill()

    def kill(self) -> None:
        """End the server and its stubs at once, as a crash would. Idempotent."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._await_clean_up()
        self._process = None

    def restart(self, timeout_seconds: float = 60.0) -> None:
        """Stop, start, and wait until it answers. The secret is a new one afterwards."""
        self.stop()
        self.start()
        self.wait_live(timeout_seconds)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_live()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _settings(self, secret: str) -> TritonSettings:
        return TritonSettings(
            binary=self._tree.binary,
            backend_directory=self._tree.backends,
            repository=self.repository,
            http_port=self.ports.http,
            grpc_port=self.ports.grpc,
            metrics_port=self.ports.metrics,
            secret=secret,
            load_models=self.load_models,
            shared_memory_prefix=self._prefix,
        )

    def _new_secret(self) -> str:
        secret = secrets.token_urlsafe(32)
        new = self.secret_file.with_name(self.secret_file.name + ".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret + "\n")
        # Renamed into place: a reader sees the old secret or the new one, never half of it.
        new.replace(self.secret_file)
        return secret

    def _spawn(self, command: list[str]) -> None:
        self._guard, theirs = socket.socketpair()
        wrapper = [sys.executable, "-I", "-S", str(_GUARD), str(theirs.fileno()), self._prefix]
        with theirs, self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(self._tree),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def _await_clean_up(self) -> None:
        """Return when the watcher has ended the stubs and closed its end of the socket."""
        if self._guard is None:
            return
        with self._guard as guard:
            guard.settimeout(_CLEAN_UP_SECONDS)
            try:
                guard.recv(1)
            except TimeoutError:
                _log.warning("triton: its processes may still be ending")
        self._guard = None

    def _is_live(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports.http, timeout=2.0)
        try:
            connection.request("GET", "/v2/health/live")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _log_end(self, lines: int = 15) -> str:
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])


def _environment(tree: ServerTree) -> dict[str, str]:
    """The variables of the child. The stub finds its Python, hence its numpy, by the PATH."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "PATH": os.pathsep.join([str(tree.programs), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in tree.library_folders),
        # Several servers share the demo's machine: each model instance takes one thread.
        "OMP_NUM_THREADS": "1",
    }


@lru_cache
def _options_of(binary: Path, library_folders: tuple[Path, ...]) -> frozenset[str]:
    variables = {"LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in library_folders)}
    # It prints its help on stderr and exits with 1 on some versions, so neither is judged.
    asked = subprocess.run(
        [str(binary), "--help"], capture_output=True, text=True, env=variables, check=False
    )
    try:
        return supported_options(asked.stdout + asked.stderr)
    except ValueError as error:
        raise TritonFailed(f"{binary} cannot run: {asked.stderr.strip()[-500:]}") from error
