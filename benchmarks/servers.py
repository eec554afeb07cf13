"""Starts the web process as production does, on a free port, and ends it by its pid."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkVoid

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running web process."""

    pid: int
    port: int


@contextmanager
def web_server(
    *,
    application: str,
    settings: str,
    env: Mapping[str, str],
    log: Path,
    extra: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The flags are those of `manage.py up`: one process, uvloop and httptools where they are."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"{application}:application"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--lifespan", "off"]
    command += ["--no-access-log", "--no-server-header", "--timeout-graceful-shutdown", "5"]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            env={**env, **(extra or {}), "DJANGO_SETTINGS_MODULE": settings},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        _wait_answering(process, port, log)
        yield Server(pid=process.pid, port=port)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_python(
    arguments: list[str], *, settings: str, env: Mapping[str, str], given: str | None = None
) -> str:
    """What a short command prints. Raises `BenchmarkVoid` with its error output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**env, "DJANGO_SETTINGS_MODULE": settings},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkVoid(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def server_environment(*, data_dir: Path, database_url: str) -> dict[str, str]:
    """The production environment of a web process, and nothing of the caller's configuration."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WAYPOST_") and name != "DJANGO_SETTINGS_MODULE"
    }
    return kept | {
        "WAYPOST_DATA_DIR": str(data_dir),
        "WAYPOST_DATABASE_POOL": "true",
        "WAYPOST_SECRET_KEY": "only-for-a-benchmark-on-loopback",
        "WAYPOST_POLL_SECONDS": "15",
        "DATABASE_URL": database_url,
        "BROKER_URL": "memory://",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_answering(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/agent/v1/desired", timeout=5).close()
        except urllib.error.HTTPError as error:
            if error.code == 401:  # without a token both servers must say just that
                return
            raise BenchmarkVoid(f"a poll without a token was answered {error.code}") from error
        except OSError:
            time.sleep(0.05)
    raise BenchmarkVoid(f"the web process does not answer; its log ends:\n{_end(log)}")


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
