"""A real S3-compatible server on loopback: `rclone serve s3`, which checks every signature. Buckets
are folders, so a test sees what is really kept and can change it behind everybody's back."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.catalog.s3_settings import S3Settings
from controlplane.catalog.store_s3 import S3Store

ACCESS, SECRET = "waypost-tests", "waypost-tests-secret"
_DEADLINE_SECONDS = 30


class S3Server:
    """Every bucket that is asked for is a new one: the server keeps in mind what it saw."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint = endpoint
        self.folder = folder
        self._made: dict[str, str] = {}

    def bucket(self, name: str) -> S3Settings:
        """An empty bucket, named like that and numbered."""
        bucket = f"{name}-{len(self._made) + secrets.randbelow(1 << 40)}"
        self._made[name] = bucket
        settings = S3Settings(
            bucket=bucket, endpoint=self.endpoint, prefix="models", access_key=ACCESS,
            secret_key=SECRET,
        )  # fmt: skip
        S3Store(settings)._client.create_bucket(Bucket=bucket)
        return settings

    def place(self, name: str) -> Path:
        """The folder of the latest bucket that was asked for by that name."""
        return self.folder / self._made[name]

    def objects(self, name: str) -> list[Path]:
        return sorted(path for path in self.place(name).rglob("*") if path.is_file())


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    rclone = Path(sys.executable).with_name("rclone")
    # Streamed multipart uploads of 1.75 hang when their parts are listed.
    process = subprocess.Popen(
        [rclone, "serve", "s3", "--addr", address, "--auth-key", f"{ACCESS},{SECRET}",
         "--local-no-check-updated", "--disable-multipart-streaming",
         "--config", os.devnull, "--cache-dir", folder / ".cache",
         folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(address, process)
        yield S3Server(f"http://{address}", folder)
    finally:
        process.terminate()
        process.wait(_DEADLINE_SECONDS)


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    host, _, port = address.partition(":")
    end = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("rclone does not serve S3")
