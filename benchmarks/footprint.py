"""Measures what one agent in peace costs its site: memory before, during and after a switch, share
of a core, bytes an hour. A real agent beside a real Triton and a real control plane; all that is
counted is of the agent and the processes it starts."""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import databases
from benchmarks.errors import BenchmarkVoid
from benchmarks.footprint_rows import MODEL
from benchmarks.options import Options
from benchmarks.processes import TICKS_PER_SECOND, memory_of, tree_cpu_seconds
from benchmarks.relay import CountingRelay
from benchmarks.servers import run_python, server_environment, web_server
from benchmarks.tables import align
from deploy.triton.wheel_server import Ports, WheelTriton

NAME = "footprint"
ROOT = Path(__file__).resolve().parent.parent
AGENT = ROOT / ".venv-agent" / "bin" / "waypost-agent"
PRODUCT = "controlplane.config.settings"
APPLICATION = "controlplane.config.asgi"
GOALS = {"memory_mb": 60.0, "cpu_percent": 0.3, "kb_per_hour": 100.0}
_SETTLE_SECONDS = 10.0
_SWITCH_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class _Site:
    """The parts that are measured, and where the agent says how it is."""

    agent: subprocess.Popen[bytes]
    relay: CountingRelay
    said: Path


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The table and the document. Each phase lasts `options.footprint_seconds`."""
    seconds = options.footprint_seconds
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as name:
        folder = Path(name)
        with databases.sqlite(folder) as database:
            if isinstance(database, str):
                raise BenchmarkVoid(database)
            env = server_environment(data_dir=folder / "data", database_url=database.url)
            run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
            rows = ["-m", "benchmarks.footprint_rows"]
            token = run_python([*rows, "make"], settings=PRODUCT, env=env)
            with _site(folder, env, token) as site:
                for number, phase in enumerate(("before a switch", "after a switch"), start=1):
                    say(f"version {number} is wished")
                    run_python([*rows, "wish", str(number)], settings=PRODUCT, env=env)
                    most = _await_served(site, str(number))
                    time.sleep(_SETTLE_SECONDS)
                    say(f"{phase}: {seconds:g} s of peace")
                    results[phase] = _measure(site, seconds)
    results["most during the switch"] = most
    return _table(results), {"goals": GOALS, "seconds_of_peace": seconds, "phases": results}


@contextmanager
def _site(folder: Path, env: dict[str, str], token: str) -> Iterator[_Site]:
    if not AGENT.exists() or not (ROOT / ".triton").exists():
        raise BenchmarkVoid("no agent or no Triton here: run make setup")
    (folder / "repository").mkdir()
    ports = Ports.free()
    triton = WheelTriton(
        environment=ROOT / ".triton",
        repository=folder / "repository",
        ports=ports,
        log_file=folder / "triton.log",
        secret_file=folder / "secret",
    )
    config, log = folder / "agent.toml", folder / "agent.log"
    config.write_text(
        f'state_dir = "{folder}/state"\n'
        "allow_executable = true\n"  # its one version is of the python backend
        f'[triton]\nrepository = "{folder}/repository"\nsecret_file = "{folder}/secret"\n'
        f'grpc_url = "127.0.0.1:{ports.grpc}"\nhttp_url = "http://127.0.0.1:{ports.http}"\n'
        f'metrics_url = "http://127.0.0.1:{ports.metrics}/metrics"\n'
        "[limits]\nreserve_bytes = 1048576\n"
    )
    with (
        triton,
        web_server(
            application=APPLICATION, settings=PRODUCT, env=env, log=folder / "web.log"
        ) as web,
        CountingRelay(web.port) as relay,
        log.open("ab") as output,
    ):
        url = f"http://127.0.0.1:{relay.port}"
        joined = subprocess.run(
            [AGENT, "join", url, "--token", token, "--config", config],
            capture_output=True,
            text=True,
            check=False,
        )
        if joined.returncode:
            raise BenchmarkVoid(f"the agent could not join: {joined.stderr}")
        agent = subprocess.Popen([AGENT, "run", "--config", config], stderr=output)
        try:
            yield _Site(agent=agent, relay=relay, said=folder / "state" / "said.json")
        finally:
            agent.terminate()
            agent.wait(30)


def _await_served(site: _Site, version: str) -> dict[str, float]:
    """The most memory that was seen meanwhile."""
    most: dict[str, float] = {}
    deadline = time.monotonic() + _SWITCH_SECONDS
    while time.monotonic() < deadline:
        if site.agent.poll() is not None:
            raise BenchmarkVoid(f"the agent ended with status {site.agent.returncode}")
        seen = _memory(site.agent.pid)
        most = {key: max(value, most.get(key, 0.0)) for key, value in seen.items()}
        for report in _said(site.said):
            if (report["model"], report["serving"], report["phase"]) == (
                MODEL,
                version,
                "succeeded",
            ):
                return most
        time.sleep(0.2)
    raise BenchmarkVoid(f"version {version} is not served: {_said(site.said)}")


def _said(path: Path) -> list[dict[str, Any]]:
    try:
        reports: list[dict[str, Any]] = json.loads(path.read_text())["models"]
        return reports
    except (OSError, ValueError):
        return []


def _measure(site: _Site, seconds: float) -> dict[str, float]:
    carried, cpu, began = site.relay.total(), tree_cpu_seconds(site.agent.pid), time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {
        **_memory(site.agent.pid),
        "cpu_percent": 100 * (tree_cpu_seconds(site.agent.pid) - cpu) / passed,
        "cpu_resolution_percent": 100 / TICKS_PER_SECOND / passed,
        "kb_per_hour": (site.relay.total() - carried) / passed * 3600 / 1e3,
    }


def _memory(pid: int) -> dict[str, float]:
    """Of the agent and its children, in MB; one that ends meanwhile is left out."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [pid, *(int(child) for task in tasks for child in task.read_text().split())]
    total = {"rss_mb": 0.0, "pss_mb": 0.0, "anonymous_mb": 0.0}
    for each in pids:
        with suppress(FileNotFoundError, ProcessLookupError, KeyError):
            memory = memory_of(each)
            total["rss_mb"] += memory.rss / 1e6
            total["pss_mb"] += memory.pss / 1e6
            total["anonymous_mb"] += memory.anonymous / 1e6
    return total


def _table(results: dict[str, Any]) -> str:
    rows = [("", "RSS MB", "PSS MB", "anonymous MB", "CPU %", "kB/h")]
    rows += [
        (
            phase,
            f"{figures['rss_mb']:.1f}",
            f"{figures['pss_mb']:.1f}",
            f"{figures['anonymous_mb']:.1f}",
            f"{figures['cpu_percent']:.2f}" if "cpu_percent" in figures else "",
            f"{figures['kb_per_hour']:.0f}" if "kb_per_hour" in figures else "",
        )
        for phase, figures in results.items()
    ]
    goal = f"{GOALS['memory_mb']:g}"
    rows.append(
        ("goal, under", goal, goal, "", f"{GOALS['cpu_percent']:g}", f"{GOALS['kb_per_hour']:g}")
    )
    return "\n".join(["an agent in peace (HTTP bytes, both ways, without TLS)", *align(rows)])
