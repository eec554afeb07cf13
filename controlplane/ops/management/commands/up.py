"""`manage.py up`: the whole control plane on this machine, from nothing to a URL."""

import argparse
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, TextIO

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from controlplane.accounts.models import User
from controlplane.ops.broker import ensure_broker
from controlplane.ops.supervisor import Supervisor

STEPS = 6
READY_SECONDS = 60.0


class Command(BaseCommand):
    help = "Start web, worker, beat and, if none is named, a private broker; Ctrl-C stops them."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--host", default=os.environ.get("WAYPOST_HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=int(os.environ.get("WAYPOST_PORT", "8000")))
        parser.add_argument("--worker-processes", type=int, default=2)

    def handle(self, *_: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        with _only_one(settings.DATA_DIR) as lock:
            self.step = 0
            _refuse_taken_port(host, port)
            self._say("database: applying migrations")
            call_command("migrate", verbosity=0, interactive=False)
            self._say("console: collecting static files")
            call_command("collectstatic", verbosity=0, interactive=False)
            password = self._first_admin()
            supervisor = Supervisor(
                say=lambda text: print(text, file=sys.stderr, flush=True),
                log_dir=settings.DATA_DIR / "logs",
            )
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, supervisor.request_stop)
            try:
                self._start(supervisor, host, port, options["worker_processes"])
                self._announce(host, port, password, supervisor, lock)
                supervisor.watch()
            finally:
                supervisor.stop()
                print("stopped", file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        self.step += 1
        print(f"[{self.step}/{STEPS}] {text}", file=sys.stderr, flush=True)

    def _first_admin(self) -> str | None:
        """The password of the admin that was made now, or None if there was one."""
        if User.objects.filter(is_superuser=True).exists():
            self._say("accounts: an admin exists")
            return None
        password = os.environ.get("WAYPOST_ADMIN_PASSWORD") or secrets.token_urlsafe(12)
        User.objects.create_superuser("admin", password=password)
        self._say("accounts: made the first admin")
        return password

    def _start(self, supervisor: Supervisor, host: str, port: int, processes: int) -> None:
        broker = ensure_broker(given=os.environ.get("BROKER_URL", ""), data_dir=settings.DATA_DIR)
        url = os.environ.get("WAYPOST_PUBLIC_URL", f"http://{_shown(host)}:{port}")
        env = {**os.environ, "BROKER_URL": broker.url, "WAYPOST_PUBLIC_URL": url}
        self._say(f"broker: {broker.described}")
        if broker.command:
            supervisor.add("broker", broker.command, env)
        workers = f"worker with {processes}, courier, packer, beat"
        self._say(f"processes: web on {host}:{port}, {workers}")
        web = [sys.executable, "-m", "uvicorn", "controlplane.config.asgi:application"]
        web += ["--host", host, "--port", str(port), "--lifespan", "off", "--no-access-log"]
        web += ["--no-server-header"]  # each poll of each site would carry it
        web += ["--timeout-graceful-shutdown", "5"]
        # Uploads are spooled to disk before they are checked: where the artifacts go, not in /tmp,
        # which may be memory.
        incoming = settings.DATA_DIR / "incoming"
        incoming.mkdir(exist_ok=True)
        web_env = {**env, "WAYPOST_DATABASE_POOL": "true", "TMPDIR": str(incoming)}
        supervisor.add("web", web, web_env)
        celery = [sys.executable, "-m", "celery", "-A", "controlplane.config", "--quiet"]
        worker = [*celery, "worker", "-c", str(processes), "--without-gossip", "--without-mingle"]
        supervisor.add("worker", worker, env)
        # Its heartbeat is left out: the worker's sign of life must be the engine's worker's.
        courier = [*celery, "worker", "-P", "solo", "-Q", "webhooks", "-n", "courier@%h"]
        courier += ["--without-heartbeat", "--without-gossip", "--without-mingle"]
        supervisor.add("courier", courier, env)
        # Chunk maps are in no hurry: whatever else runs here goes first.
        packer = ["nice", "-n", "10", *celery, "worker", "-P", "solo", "-Q", "chunk-maps"]
        packer += ["-n", "packer@%h", "--without-heartbeat", "--without-gossip", "--without-mingle"]
        supervisor.add("packer", packer, env)
        if settings.WAYPOST_MLFLOW_URL:
            importer = [*celery, "worker", "-P", "solo", "-Q", "imports", "-n", "importer@%h"]
            importer += ["--without-heartbeat", "--without-gossip", "--without-mingle"]
            supervisor.add("importer", importer, env)
        # The schedule stands in the settings; beat has nothing to remember between starts.
        supervisor.add("beat", [*celery, "beat", "-S", "celery.beat:Scheduler"], env)

    def _announce(
        self, host: str, port: int, password: str | None, supervisor: Supervisor, lock: TextIO
    ) -> None:
        url = f"http://{_shown(host)}:{port}"
        self._say("waiting until it is ready")
        _wait_ready(f"{url}/healthz/ready", supervisor)
        _wait_ready(f"{url}/healthz/engine", supervisor)
        if supervisor.stopping:
            return
        _write_state(lock, url)
        print(f"Waypost is up: {url}", flush=True)
        if password:
            print(
                f"Log in as admin with the password {password} (shown this once; change it with "
                "manage.py changepassword admin)",
                flush=True,
            )


def _only_one(data_dir: Path) -> TextIO:
    """Holds a lock for as long as this process lives: two engines in one data folder would be
    harmless, two brokers on one socket would not."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "up.json").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise CommandError(
            f"Waypost already runs on {data_dir} ({file.read().strip() or 'starting'}). "
            "Stop it with make down, or name another folder in WAYPOST_DATA_DIR."
        ) from error
    file.truncate(0)
    json.dump({"pid": os.getpid()}, file)
    file.flush()
    return file


def _write_state(lock: TextIO, url: str) -> None:
    lock.seek(0)
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "url": url}, lock)
    lock.flush()


def _refuse_taken_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"Cannot listen on {host}:{port}: {error.strerror}. "
                "Choose another with WAYPOST_PORT=NNNN."
            ) from error


def _wait_ready(url: str, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + READY_SECONDS
    last = "no answer"
    while not supervisor.stopping:
        supervisor.look()
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            last = error.read(500).decode(errors="replace")
        except OSError as error:
            last = str(error)
        if time.monotonic() > deadline:
            raise CommandError(f"{url} is not ready after {READY_SECONDS:.0f} s: {last}")
        time.sleep(0.2)


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.getfqdn()
    return f"[{host}]" if ":" in host else host
