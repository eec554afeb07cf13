"""Measures a push and a pull of one large version: `waypost push` and the agent against the centre,
beside MLflow's artifact proxy and nginx, with the same bytes on the same disk, in turn."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import footprint_rows
from benchmarks.agents import admit
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.servers import free_port, run_python, server_environment, web_server
from benchmarks.sites import MODEL
from benchmarks.transfers import (
    MIB,
    PIECE_BYTES,
    Blob,
    Source,
    Took,
    agent_fetch,
    measured,
    nginx,
    run_command,
    summary,
    transfer_table,
)

NAME = "push"
PRODUCT = "controlplane.config.settings"
LARGE = "weights.bin"
OURS = {"push": "waypost push", "pull": "agent, 2 connections"}
_WAYPOST = Path(sys.executable).with_name("waypost")
_MLFLOW = Path(".mlflow/bin")
_READY_SECONDS = 120.0
_LOCATIONS = "location / {{ root {files}; dav_methods PUT; }}"
Figures = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One client of one server. `push` takes the version's folder, `pull` brings `LARGE` of it."""

    source: Source
    push: Callable[[Path], Took] | None = None
    pull: Callable[[Blob, Path], Took] | None = None


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document. Every push has bytes that no server has seen."""
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as home, ExitStack() as stack:
        home_folder = Path(home)
        home_folder.chmod(0o755)  # nginx may serve as another user
        say(f"{options.push_mib} MiB of random bytes")
        version = _version(home_folder / "version", options.push_mib)
        centre = _Centre(home_folder / "centre")
        ways: dict[str, Way] = {OURS["push"]: stack.enter_context(centre.serving())}
        missing = []
        for name, opened in (("MLflow", _mlflow_ways), ("nginx", _nginx_ways)):
            with_peer = opened(home_folder)
            if isinstance(with_peer, str):
                missing.append(with_peer)
            else:
                say(f"{name} starts")
                ways |= stack.enter_context(with_peer)
        pushed = _pushes(ways, version, options, say)
        ways[OURS["pull"]] = centre.agent()
        pulled = _pulls(ways, version, home_folder, options, say)
    title = f"{options.push_mib} MiB"
    cases = {"push": pushed, "pull": pulled}
    ratios = {"push": _ratios(pushed, OURS["push"]), "pull": _ratios(pulled, OURS["pull"])}
    texts = [
        f"{transfer_table(f'{name} {title}', case)}\n{_told(OURS[name], ratios[name])}"
        for name, case in cases.items()
    ]
    document = {"size_mib": options.push_mib, "cases": cases, "ratios": ratios}
    return "\n\n".join([*missing, *texts]), document


def _ratios(figures: Figures, ours: str) -> dict[str, float]:
    """How many times as fast ours is as each of the others, by the medians."""
    speed = {name: figure["mb_per_second"]["median"] for name, figure in figures.items()}
    return {name: round(speed[ours] / each, 3) for name, each in speed.items() if name != ours}


def _told(ours: str, ratios: Mapping[str, float]) -> str:
    others = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items())
    return f"{ours} is {others or 'alone'}"


def _pushes(
    ways: Mapping[str, Way], version: Path, options: Options, say: Callable[[str], None]
) -> Figures:
    kept: dict[str, list[Took]] = {name: [] for name, way in ways.items() if way.push}
    for number in range(1, options.rounds + 1):
        say(f"push: round {number}")
        _stamp(version / LARGE, number)
        for name in list(kept) if number % 2 else reversed(list(kept)):
            push, server = ways[name].push, ways[name].source.pid
            assert push is not None
            kept[name].append(measured(server, partial(push, version)))
    size = (version / LARGE).stat().st_size
    return {name: summary(size, took) for name, took in kept.items()}


def _pulls(
    ways: Mapping[str, Way],
    version: Path,
    folder: Path,
    options: Options,
    say: Callable[[str], None],
) -> Figures:
    blob = _blob(version / LARGE)
    kept: dict[str, list[Took]] = {name: [] for name, way in ways.items() if way.pull}
    for number in range(1, options.rounds + 1):
        say(f"pull: round {number}")
        for name in list(kept) if number % 2 else reversed(list(kept)):
            kept[name].append(_pulled(ways[name], blob, folder))
    return {name: summary(blob.size, took) for name, took in kept.items()}


def _pulled(way: Way, blob: Blob, folder: Path) -> Took:
    pull = way.pull
    assert pull is not None
    with tempfile.TemporaryDirectory(dir=folder) as place:
        took = measured(way.source.pid, lambda: pull(blob, Path(place)))
        (found,) = Path(place).iterdir()
        with found.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.sha256:
                raise BenchmarkVoid(f"other bytes came back from {way.source.name}")
    return took


# The version


def _version(folder: Path, mib: int) -> Path:
    """A folder as `waypost push` takes it, with one large file of bytes that do not repeat."""
    folder.mkdir()
    for name, data in footprint_rows.files_of(1).items():
        named = data.replace(footprint_rows.MODEL.encode(), MODEL.encode())
        (folder / name).write_bytes(named)
    with (folder / LARGE).open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return folder


def _stamp(file: Path, number: int) -> None:
    """Other bytes than before: none of them may be known from the last round."""
    with file.open("r+b") as opened:
        opened.write(number.to_bytes(8, "big"))


def _blob(path: Path) -> Blob:
    whole, chunks = hashlib.sha256(), list[str]()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            whole.update(piece)
            chunks.append(hashlib.sha256(piece).hexdigest())
    size = path.stat().st_size
    return Blob(path=path, size=size, sha256=whole.hexdigest(), chunks=tuple(chunks))


# The centre


class _Centre:
    """One web process as in production, on SQLite, with its store in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._env = server_environment(
            data_dir=folder / "data", database_url=f"sqlite:///{folder}/bench.sqlite3"
        )
        self._pid = self._port = 0

    @contextmanager
    def serving(self) -> Iterator[Way]:
        self._python("manage.py", "migrate", "--verbosity=0")
        token = self._python("-m", "benchmarks.push_rows", "token")
        # Uploads are spooled where the artifacts go, as `manage.py up` has it.
        incoming = self._folder / "data" / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        with web_server(
            application="controlplane.config.asgi",
            settings=PRODUCT,
            env=self._env,
            log=self._folder / "web.log",
            extra={"TMPDIR": str(incoming)},
        ) as server:
            self._pid, self._port = server.pid, server.port
            env = {**os.environ, "WAYPOST_URL": self._url, "WAYPOST_TOKEN": token}

            def push(version: Path) -> Took:
                return run_command([str(_WAYPOST), "push", MODEL, str(version)], env=env)

            yield Way(source=self._source(token), push=push)

    def agent(self) -> Way:
        """Of a site that wishes for the version that was pushed last."""
        tokens = json.loads(self._python("-m", "benchmarks.push_rows", "wish"))
        (member,) = admit(self._port, tokens)
        source = self._source(member.token)

        def pull(blob: Blob, folder: Path) -> Took:
            return agent_fetch(source, blob, folder, connections=2)

        return Way(source=source, pull=pull)

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _source(self, token: str) -> Source:
        return Source(name="the centre", pid=self._pid, url=self._url, token=token)

    def _python(self, *arguments: str) -> str:
        return run_python([*arguments], settings=PRODUCT, env=self._env)


# The peers

Peers = Any  # a context manager of ways by name, or why there are none


def _mlflow_ways(folder: Path) -> Peers:
    if not (_MLFLOW / "mlflow").exists():
        return "skipped: there is no MLflow here: python3 deploy/bootstrap.py mlflow"
    return _mlflow(folder / "mlflow")


@contextmanager
def _mlflow(folder: Path) -> Iterator[dict[str, Way]]:
    """The client's CPU and seconds are the transfer's alone; those of curl the whole command's."""
    folder.mkdir()
    with _mlflow_server(folder) as source:
        env = {"PATH": os.environ["PATH"], "HOME": str(folder), "MLFLOW_TRACKING_URI": source.url}
        where = f"{source.url}/api/2.0/mlflow-artifacts/artifacts"

        def client(**plan: str) -> Took:
            done = subprocess.run(
                [str(_MLFLOW / "python"), "-m", "benchmarks.mlflow_fetch"],
                input=json.dumps({"uri": "mlflow-artifacts:/client", **plan}),
                env={**env, "MLFLOW_DISABLE_TELEMETRY": "true"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise BenchmarkVoid(f"MLflow's client failed: {done.stderr[-1000:]}")
            return Took(**json.loads(done.stdout))

        ways = {
            "MLflow client": Way(
                source=source,
                push=lambda version: client(way="up", file=str(version / LARGE)),
                pull=lambda blob, into: client(way="down", file=LARGE, folder=str(into)),
            )
        }
        if shutil.which("curl"):
            ways["curl, MLflow proxy"] = Way(
                source=source,
                push=lambda version: _put(version, f"{where}/curl/{LARGE}"),
                pull=lambda blob, into: _get(f"{where}/curl/{LARGE}", into),
            )
        yield ways


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[Source]:
    """One worker, the artifacts on the same disk as the centre's."""
    port = free_port()
    command = [str(_MLFLOW.absolute() / "mlflow"), "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(process, f"{url}/health")
        yield Source(name="MLflow", pid=process.pid, url=url, token="none")
    finally:
        process.terminate()
        process.wait(20)


def _wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise BenchmarkVoid("MLflow's server did not start")


def _nginx_ways(folder: Path) -> Peers:
    if not shutil.which("nginx") or not shutil.which("curl"):
        return "skipped: nginx and curl are not both installed"
    return _nginx(folder)


@contextmanager
def _nginx(folder: Path) -> Iterator[dict[str, Way]]:
    files = folder / "nginx"
    files.mkdir()
    files.chmod(0o777)  # its worker may be another user
    with nginx(files, _LOCATIONS.format(files=files)) as source:
        url = f"{source.url}/{LARGE}"
        yield {
            "curl, nginx": Way(
                source=source,
                push=lambda version: _put(version, url),
                pull=lambda blob, into: _get(url, into),
            ),
            "sha256sum and curl, nginx": Way(
                source=source,
                push=lambda version: _together(_digest(version / LARGE), _put(version, url)),
                pull=lambda blob, into: _together(_get(url, into), _digest(into / "whole")),
            ),
        }


def _put(version: Path, url: str) -> Took:
    return run_command(["curl", "--silent", "--fail", "--upload-file", str(version / LARGE), url])


def _get(url: str, into: Path) -> Took:
    return run_command(["curl", "--silent", "--fail", "--output", str(into / "whole"), url])


def _digest(file: Path) -> Took:
    return run_command(["sha256sum", str(file)])


def _together(first: Took, second: Took) -> Took:
    return Took(
        seconds=first.seconds + second.seconds,
        cpu_seconds=first.cpu_seconds + second.cpu_seconds,
        peak_mib=max(first.peak_mib, second.peak_mib),
    )
