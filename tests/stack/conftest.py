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
from deploy.demo.site import FLEET, DemoSite, SiteSpec
from tests.stack.processes import children_of, end_all, marked, wait_until, what_stays

HOME = Path(__file__).resolve().parents[2]
COMPONENTS = {
    "web": ("uvicorn",),
    "worker": ("celery -A controlplane.config --quiet worker -c",),
    "courier": ("-Q webhooks -n courier@",),
    "packer": ("-Q chunk-maps -n packer@",),
    "beat": ("celery -A controlplane.config --quiet beat",),
    "broker": ("redis-server", "valkey-server"),
}
# Who asks for what; `tests` is whose token is used where none is named. One process makes them all.
PEOPLE = {
    "tests": ("push", "rollout", "fleet"),
    "lead": ("approve", "rollout"),
    "ana": ("approve",),
    "bo": ("approve",),
}
APPROVERS = ("ana", "bo")
_MAKE_PEOPLE = """
import json, sys
from django.utils import timezone
from controlplane.accounts.models import User
from controlplane.accounts.services import create_api_token
print(json.dumps({
    name: create_api_token(
        user=User.objects.create(username=name), name=name, scopes=scopes, actor="tests",
        now=timezone.now(),
    )[1]
    for name, scopes in json.loads(sys.argv[1]).items()
}))
"""
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
    # Of `PEOPLE`, by name.
    tokens: dict[str, str] = field(default_factory=dict)

    def pid(self, component: str) -> int:
        up = self.supervisor.pids()["control-plane"]
        words = COMPONENTS[component]
        found = [p for p, line in children_of(up).items() if any(word in line for word in words)]
        assert len(found) == 1, (component, children_of(up))
        return found[0]

    def waypost(self, *arguments: str, token: str = "") -> Any:
        done = subprocess.run(
            [str(HOME / ".venv/bin/waypost"), *arguments, "--output", "json"],
            env=self.env | ({"WAYPOST_TOKEN": token} if token else {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode in (0, 2), done.stderr + done.stdout
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

    def agent(self, site: str) -> Any:
        """What is known of the site's agent."""
        request = urllib.request.Request(
            f"{self.url}/api/v1/sites/{site}/agent",
            headers={"Authorization": f"Bearer {self.env['WAYPOST_TOKEN']}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

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
    stack = control_plane(folder, mark)
    try:
        for spec in [spec for spec in FLEET if spec.tier != "hyperscale"]:
            add_site(stack, spec)
        for number in ("1", "2"):
            stack.waypost("push", MODEL_NAME, str(demo_versions[number]), "--version", number)
            for name in APPROVERS:
                stack.waypost("approve", MODEL_NAME, number, token=stack.tokens[name])
        for site in stack.sites:
            let_in(stack, site)
        yield stack
    finally:
        end(stack, mark)


def end(stack: Stack, mark: str) -> None:
    """Ends all of it, and looks that nothing stays."""
    stack.supervisor.stop()
    for site in stack.sites:
        site.stop()
    left = what_stays(lambda: {**marked(mark), **marked(str(stack.folder))})
    end_all(left)
    assert not left, f"left behind: {left}"


def control_plane(folder: Path, mark: str, **settings: str) -> Stack:
    """A running one with `settings` in its environment; `end` ends it."""
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
        **settings,
    }
    env.pop("WAYPOST_SECRET_KEY", None)
    supervisor = Supervisor(say=print, log_dir=folder / "logs")
    stack = Stack(folder=folder, url=env["WAYPOST_URL"], env=env, supervisor=supervisor)
    up = [sys.executable, "manage.py", "up", "--port", str(port)]
    supervisor.add("control-plane", up, env)
    try:
        wait_until(
            lambda: stack.status_of("/healthz/engine") == 200,
            seconds=90,
            what="the control plane is ready",
            end=stack.logs,
        )
        setup = "import django; django.setup()\n" + _MAKE_PEOPLE
        make = [sys.executable, "-c", setup, json.dumps(PEOPLE)]
        settings_module = {"DJANGO_SETTINGS_MODULE": "controlplane.config.settings"}
        made = subprocess.check_output(make, cwd=HOME, env=env | settings_module, text=True)
        stack.tokens = json.loads(made)
        env["WAYPOST_TOKEN"] = stack.tokens["tests"]
    except BaseException:
        end(stack, mark)
        raise
    return stack


def add_site(stack: Stack, spec: SiteSpec) -> DemoSite:
    """A site whose Triton was started; `let_in` has its agent join."""
    site = DemoSite(spec=spec, folder=stack.folder / "sites" / spec.name, home=HOME)
    stack.sites.append(site)
    site.triton.start()
    stack.waypost("sites", "add", spec.name, "--tier", spec.tier, "--region", spec.region)
    return site


def let_in(stack: Stack, site: DemoSite) -> None:
    """Its agent joins and runs. It lets versions run code of their own, and may serve with a Triton
    below the security floor: the newest on PyPI is."""
    name = site.spec.name
    stack.waypost("sites", "waive-floor", name, "--reason", "Triton comes from PyPI here")
    token = stack.waypost("sites", "token", name)["token"]
    site.triton.wait_live()
    site.join(stack.url, token)
    site.run_agent(stack.supervisor, stack.env)
    # Before its first report nobody knows that it lets versions run code: plans leave it out.
    wait_until(
        lambda: stack.agent(name)["executable_allowed"] is not None,
        seconds=60,
        what=f"the agent of {name} has reported",
        end=stack.logs,
    )
