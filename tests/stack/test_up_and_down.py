"""`manage.py up` and `down`: one control plane per data folder, clear refusals, nothing left."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stack.conftest import HOME, free_port
from tests.stack.processes import end_all, marked, wait_until, what_stays

pytestmark = pytest.mark.stack


@dataclass(kw_only=True)
class Installation:
    """A data folder and the commands run on it."""

    env: dict[str, str]
    mark: str
    output: Path

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=HOME,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def start_up(self) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=HOME,
                env=self.env,
                stdout=output,
                stderr=output,
            )

    def said(self) -> str:
        return self.output.read_text()


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    value = secrets.token_hex(8)
    dropped = ("BROKER_URL", "DJANGO_SETTINGS_MODULE", "WAYPOST_SECRET_KEY", "DATABASE_URL")
    env = {k: v for k, v in os.environ.items() if k not in dropped} | {
        "WAYPOST_TEST_MARK": value,
        "WAYPOST_DATA_DIR": str(tmp_path / "data"),
        "WAYPOST_PORT": str(free_port()),
        "WAYPOST_TICK_SECONDS": "1",
    }
    mark = f"WAYPOST_TEST_MARK={value}"
    yield Installation(env=env, mark=mark, output=tmp_path / "output")
    end_all(marked(mark))


def test_up_makes_an_admin_serves_refuses_a_second_and_down_ends_all(
    installation: Installation,
) -> None:
    url = f"http://127.0.0.1:{installation.env['WAYPOST_PORT']}"
    up = installation.start_up()
    wait_until(
        lambda: "Waypost is up" in installation.said(),
        seconds=90,
        what="it is up",
        end=installation.said,
    )
    assert f"Waypost is up: {url}" in installation.said()
    assert re.search(r"Log in as admin with the password \S{12,}", installation.said())
    with urllib.request.urlopen(f"{url}/healthz/engine", timeout=5) as answer:
        assert json.load(answer)["status"] == "ok"

    second = installation.manage("up", "--port", str(free_port()))
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert "make down" in second.stderr

    down = installation.manage("down")
    assert down.returncode == 0, down.stderr
    assert up.wait(20) == 0
    assert what_stays(lambda: marked(installation.mark)) == {}
    assert installation.manage("down").stdout == "nothing runs here\n"


def test_up_names_a_port_that_is_taken(installation: Installation) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", int(installation.env["WAYPOST_PORT"])))
        held.listen()
        done = installation.manage("up")
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{installation.env['WAYPOST_PORT']}" in done.stderr
    assert "WAYPOST_PORT=" in done.stderr
    assert "Traceback" not in done.stderr
    assert what_stays(lambda: marked(installation.mark)) == {}


def test_a_token_is_printed_alone_so_that_a_script_can_take_it(installation: Installation) -> None:
    assert installation.manage("migrate", "-v0").returncode == 0
    refused = installation.manage("create_token", "ci", "--scope", "push")
    assert refused.returncode == 1
    assert "There is no user 'admin'" in refused.stderr
    installation.env["DJANGO_SUPERUSER_PASSWORD"] = secrets.token_hex(8)
    made = installation.manage(
        "createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.com"
    )
    assert made.returncode == 0, made.stderr
    done = installation.manage("create_token", "ci", "--scope", "push", "--days", "1")
    assert re.fullmatch(r"wpt_[\w-]{43}\n", done.stdout)
