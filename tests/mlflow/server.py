"""A real MLflow server on loopback and a CI job beside it, both in the environment `.mlflow`."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".mlflow" / "bin"
_READY_SECONDS = 120.0
_SECRET = "only-for-tests"


@dataclass(kw_only=True)
class MlflowServer:
    """Start it, use `call`, stop it. All state lies in `folder`."""

    folder: Path
    port: int = 0
    _server: "subprocess.Popen[bytes] | None" = None
    _job: "subprocess.Popen[str] | None" = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Begins to start; `wait_ready` before anything is asked of it."""
        self.port = _free_port()
        self.env = {
            **{key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ},
            "HOME": str(self.folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": self.url,
            # Webhooks go to loopback here; the server knows no better name for the two.
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            # A webhook that was added counts for the next event, not a minute later.
            "MLFLOW_WEBHOOK_CACHE_TTL": "0",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
            "GIT_PYTHON_REFRESH": "quiet",
            "OMP_NUM_THREADS": "1",
        }
        command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        with (self.folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.folder,
                start_new_session=True,
            )

    def stop(self) -> None:
        for process in (self._job, self._server):
            if process is not None:
                _end(process)

    def call(self, verb: str, **asked: Any) -> dict[str, Any]:
        """Has the CI job do something. Raises `AssertionError` with what MLflow says."""
        if self._job is None:
            with (self.folder / "job.log").open("wb") as log:
                self._job = subprocess.Popen(
                    [str(BIN / "python"), str(Path(__file__).with_name("ci_job.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.env,
                    cwd=self.folder,
                    start_new_session=True,
                )
        assert self._job.stdin is not None
        assert self._job.stdout is not None
        self._job.stdin.write(json.dumps({"verb": verb, **asked}) + "\n")
        self._job.stdin.flush()
        line = self._job.stdout.readline()
        assert line, (self.folder / "job.log").read_text()[-2000:]
        answer: dict[str, Any] = json.loads(line)
        assert answer.pop("ok"), answer["error"]
        return answer

    def wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            assert self._server is not None
            assert self._server.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])


def is_there() -> bool:
    return (BIN / "mlflow").exists()


def _end(process: "subprocess.Popen[Any]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
