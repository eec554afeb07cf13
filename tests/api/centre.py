"""A real web process over the test's own database, the command line as a real process, and a wire
between them that can be cut. What they say to each other goes over sockets, as in production."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from controlplane.catalog.s3_settings import S3Settings

HOME = Path(__file__).resolve().parents[2]
_DEADLINE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Centre:
    """`incoming` is where Django spools bodies; `artifacts` the store on disk."""

    url: str
    address: tuple[str, int]
    pid: int
    artifacts: Path
    incoming: Path


@contextmanager
def running_centre(folder: Path, s3: S3Settings | None = None) -> Iterator[Centre]:
    port, incoming, log = _free_port(), folder / "incoming", folder / "web.log"
    incoming.mkdir(parents=True)
    env = {**os.environ, **_database(), **_bucket(s3)}
    env |= {
        "DJANGO_SETTINGS_MODULE": "controlplane.config.settings",
        "WAYPOST_DATA_DIR": str(folder / "data"),
        "WAYPOST_SECRET_KEY": secrets.token_hex(16),
        "BROKER_URL": "memory://",
        "TMPDIR": str(incoming),
        "NO_PROXY": "127.0.0.1",
    }
    static = folder / "data" / "static"
    static.mkdir(parents=True)
    with log.open("wb") as out:
        web = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "controlplane.config.asgi:application",
             "--port", str(port), "--lifespan", "off", "--no-access-log"],
            cwd=HOME, env=env, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_live(f"{url}/healthz/live", web, log)
        yield Centre(
            url=url, address=("127.0.0.1", port), pid=web.pid, incoming=incoming,
            artifacts=folder / "data" / "artifacts",
        )  # fmt: skip
    finally:
        web.terminate()
        web.wait(_DEADLINE_SECONDS)


@dataclass(kw_only=True)
class Pushing:
    """A `waypost push` that runs. `peak_mib`: the most memory it was seen to hold."""

    process: "subprocess.Popen[str]"
    peak_mib: float = 0.0

    def wait(self) -> str:
        """What it said, when it ended well."""
        while self.process.poll() is None:
            self.peak_mib = peak_mib(self.process.pid) or self.peak_mib
            time.sleep(0.02)
        out, err = self.process.communicate()
        assert self.process.returncode == 0, err
        return out + err

    def kill_when(self, event: threading.Event) -> None:
        """Ends it without a warning; fails at once when it ended by itself before."""
        end = time.monotonic() + _DEADLINE_SECONDS
        while not event.wait(0.05):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"it was not to end: {self.process.communicate()[1]}")
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def pushing(url: str, token: str, folder: Path, *more: str) -> Iterator[Pushing]:
    """The command itself, as a CI job runs it."""
    env = {**os.environ, "WAYPOST_URL": url, "WAYPOST_TOKEN": token, "NO_PROXY": "127.0.0.1"}
    waypost = Path(sys.executable).with_name("waypost")
    process = subprocess.Popen(
        [waypost, "push", "vad", folder, *more],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    running = Pushing(process=process)
    try:
        yield running
    finally:
        if process.poll() is None:
            running.kill()


class Wire:
    """Carries connections to `target` and counts what goes there; `cut_at` breaks all of them once
    so many bytes went, and every new one until it is `mended`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", int(self._listener.getsockname()[1]))
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.carried_bytes = 0
        self.broken = threading.Event()
        self._cuts: list[int] = []
        self._mends = False
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_at(self, *after_bytes: int, mended: bool = False) -> None:
        """`mended`: whoever connects again is carried, up to the next cut."""
        with self._lock:
            self._cuts, self._mends = sorted(after_bytes), mended

    def mend(self) -> None:
        self.broken.clear()
        self.cut_at()

    @property
    def cuts_left(self) -> int:
        return len(self._cuts)

    def close(self) -> None:
        self.broken.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._break_all()
        for thread in self._threads:
            thread.join(_DEADLINE_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.broken.is_set():
                near.close()
                continue
            self._threads.append(threading.Thread(target=self._both, args=(near,), daemon=True))
            self._threads[-1].start()

    def _both(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far:
            with self._lock:
                self._ends |= {near, far}
            back = threading.Thread(target=self._carry, args=(far, near, False), daemon=True)
            back.start()
            self._carry(near, far, True)
            back.join()
            with self._lock:
                self._ends -= {near, far}

    def _carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if counted and self._is_cut_by(len(data)):
                    self._break_all()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_cut_by(self, size: int) -> bool:
        with self._lock:
            self.carried_bytes += size
            if not self._cuts or self.carried_bytes < self._cuts[0]:
                return False
            self._cuts.pop(0)
            if not self._mends:
                self.broken.set()
            return True

    def _break_all(self) -> None:
        with self._lock:
            ends = set(self._ends)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def peak_mib(pid: int) -> float:
    """The most resident memory a process has had; 0 when it is gone."""
    with suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(match[1]) / 1024 if match else 0.0
    return 0.0


def forget_peak(pid: int) -> None:
    """From here on the peak counts anew (proc(5), `clear_refs`)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def held_on_disk(folder: Path, pid: int) -> int:
    """Bytes below `folder`, also of files without a name that the process still has open."""
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(folder) in os.readlink(entry) and not entry.stat().st_nlink:
                total += entry.stat().st_size
    return total


def remove(folder: Path) -> None:
    """Large files need not stay until pytest forgets them."""
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _database() -> dict[str, str]:
    """The database of this very test."""
    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return {"DATABASE_URL": f"sqlite:///{given['NAME']}"}
    user, host, port = given["USER"], given["HOST"] or "127.0.0.1", given["PORT"] or 5432
    if given["PASSWORD"]:
        user = f"{user}:{given['PASSWORD']}"
    return {"DATABASE_URL": f"postgres://{user}@{host}:{port}/{given['NAME']}"}


def _bucket(s3: S3Settings | None) -> dict[str, str]:
    if s3 is None:
        return {}
    return {
        "WAYPOST_S3_BUCKET": s3.bucket,
        "WAYPOST_S3_ENDPOINT": s3.endpoint,
        "WAYPOST_S3_PREFIX": s3.prefix,
        "WAYPOST_S3_REGION": s3.region,
        "WAYPOST_S3_ACCESS_KEY": s3.access_key,
        "WAYPOST_S3_SECRET_KEY": s3.secret_key,
    }


def _wait_live(url: str, web: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < end and web.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(f"the web process does not answer: {log.read_text()[-2000:]}")
