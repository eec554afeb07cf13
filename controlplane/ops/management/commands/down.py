"""`manage.py down`: stops what `up` started on this data folder."""

import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

STOP_SECONDS = 30.0


class Command(BaseCommand):
    help = "Stop the control plane that `up` started on this data folder."

    def handle(self, *_: Any, **__: Any) -> None:
        path = settings.DATA_DIR / "up.json"
        if not path.exists() or not _is_held(path):
            self.stdout.write("nothing runs here")
            return
        pid = int(json.loads(path.read_text())["pid"])
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while _is_held(path):
            if time.monotonic() > deadline:
                raise CommandError(f"process {pid} did not stop within {STOP_SECONDS:.0f} s")
            time.sleep(0.1)
        self.stdout.write("stopped")


def _is_held(path: Path) -> bool:
    """Whether `up` lives: its lock says so, where a process id may long be another's."""
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
