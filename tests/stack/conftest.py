"""A whole control plane and two real sites, as processes, once for each module that asks."""

import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controlplane.ops.supervisor import Supervisor
from deploy.demo.models import MODEL_NAME
from deploy.demo.site import FLEET, DemoSite
from tests.stack.processes import children_of, end_all, marked, wait_until, what_stays

HOME = Path(__file__).resolve().parents[2]
COMPONENTS = {
    "web": ("uvicorn",),
    "worker": ("celery -A controlplane.config --quiet worker -c",),
    "courier": ("-Q webhooks -n courier@",),
    "beat": ("celery -A controlplane.config --quiet beat",),
    "broker": ("redis-server", "valkey-server"),
}
STAGES = ["canary tier=edge soak=1s", "regional tier=regional soak=1s"]


@dataclass(kw_only=True)
class Stack:
    """What a test may do to the running whole."""

    folder: Path
    url: str
    env: dict[str, str]
    supervisor: Supervisor
    sites: list[DemoSite] = field(default_factory=list)
    rolled_out: list[str] = field(default_factory=list)

    def pid(self, component: str) -> int:
        up = self.supervisor.pids()["control-plane"]
        words = COMPONENTS[component]
        found = [p for p, line in children_of(up).items() if any(word in line for word in words)]
        assert len(found) == 1, (component, children_of(up))
        return found[0]

    def waypost(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(HOME / ".venv/bin/waypost"), *arguments, "--output", "json"],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode in (0, 2), done.stderr
        return json.loads(done.stdout)

    def start_rollout(self, version: str) -> int:
        stages = [part for stage in STAGES for part in ("--stage", stage)]
        self.rolled_out.append(version)
        return int(self.waypost("rollout", "start", MODEL_NAME, version, *stages)["id"])

    def rollout(self, number: int) -> Any:
        return self.waypost("rollout", "status", str(number))

    def count_events(self, number: int, action: str) -> int:
        """Read from the database itself: what was written, however often a task ran."""
        with closing(sqlite3.connect(self.folder / "data" / "waypost.sqlite3")) as database:
            row = database.execute(
                "select count(*) from audit_event where object_type='rollout' and object_id=? "
                "and action=?",
                (str(number), action),
            ).fetchone()
        return int(row[0])

    def status_of(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def logs(self) -> str:
        """The last lines of every log, for the message of a failed test."""
        files = sorted(self.folder.rglob("*.log"))
        return "\n".join(
            f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-8:])
            for file in files
        )


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def demo_versions() -> dict[str, Path]:
    """The demo's versions by number; `make test` builds them first."""
    folder = HOME / ".demo" / "models"
    if not (HOME / ".triton").is_dir() or not (folder / "3").is_dir():
        pytest.skip("no real Triton here: run `make setup` (Linux x86_64 or aarch64)")
    return {number: folder / number for number in ("1", "2", "3")}


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, demo_versions: dict[str, Path]
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    mark = f"WAYPOST_TEST_MARK={secrets.token_hex(8)}"
    stack = _control_plane(folder, mark)
    try:
        _sites(stack)
        for number in ("1", "2"):
            stack.waypost("push", MODEL_NAME, str(demo_versions[number]), "--version", number)
        yield stack
    finally:
        stack.supervisor.stop()
        for site in stack.sites:
            site.stop()
        left = what_stays(lambda: {**marked(mark), **marked(str(folder))})
        end_all(left)
        assert not left, f"left behind: {left}"


def _control_plane(folder: Path, mark: str) -> Stack:
    port = free_port()
    data = folder / "data"
    name, _, value = mark.partition("=")
    env = {k: v for k, v in os.environ.items() if k not in ("BROKER_URL", "DJANGO_SETTINGS_MODULE")}
    env |= {
        name: value,
        "WAYPOST_DATA_DIR": str(data),
        "DATABASE_URL": f"sqlite:///{data}/waypost.sqlite3",
        "WAYPOST_URL": f"http://127.0.0.1:{port}",
        "WAYPOST_TICK_SECONDS": "1",
        "WAYPOST_POLL_SECONDS": "1",
        "WAYPOST_STALE_SECONDS": "10",
        "WAYPOST_ENGINE_STALE_SECONDS": "25",
    }
    env.pop("WAYPOST_SECRET_KEY", None)
    supervisor = Supervisor(say=print, log_dir=folder / "logs")
    stack = Stack(folder=folder, url=env["WAYPOST_URL"], env=env, supervisor=supervisor)
    up = [sys.executable, "manage.py", "up", "--port", str(port)]
    supervisor.add("control-plane", up, env)
    wait_until(
        lambda: stack.status_of("/healthz/engine") == 200,
        seconds=90,
        what="the control plane is ready",
        end=stack.logs,
    )
    scopes = ["--scope", "push", "--scope", "rollout", "--scope", "fleet"]
    make = [sys.executable, "manage.py", "create_token", "tests", *scopes]
    env["WAYPOST_TOKEN"] = subprocess.check_output(make, env=env, text=True).strip()
    return stack


def _sites(stack: Stack) -> None:
    for spec in [spec for spec in FLEET if spec.tier != "hyperscale"]:
        site = DemoSite(spec=spec, folder=stack.folder / "sites" / spec.name, home=HOME)
        stack.sites.append(site)
        site.triton.start()
    for site in stack.sites:
        spec = site.spec
        stack.waypost("sites", "add", spec.name, "--tier", spec.tier, "--region", spec.region)
        token = stack.waypost("sites", "token", spec.name)["token"]
        site.triton.wait_live()
        site.join(stack.url, token)
        site.run_agent(stack.supervisor, stack.env)
