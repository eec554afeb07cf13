"""Renews the images' lock files: what the tested ones pin, without the tools for development.

    python3 deploy/docker/lock.py

Run it after the lock files it follows were renewed. Knows nothing of how images are built.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_RESOLVER = "uv>=0.8,<1"
_OLDEST_PYTHON = "3.11"


class ImageLock(NamedTuple):
    """`output` pins what `project` needs to run, to the versions that `tested` pins."""

    output: str
    project: str
    tested: str


LOCKS = (
    ImageLock("deploy/docker/requirements.lock", "pyproject.toml", "requirements.lock"),
    ImageLock(
        "deploy/docker/agent-requirements.lock", "agents/pyproject.toml", "agents/requirements.lock"
    ),
)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="waypost-lock-") as folder:
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            programs = Path(folder) / "bin"
            pip = [str(programs / "python"), "-m", "pip", "install", "-q"]
            subprocess.run([*pip, "--disable-pip-version-check", _RESOLVER], check=True)
            for lock in LOCKS:
                _renew(lock, programs / "uv")
        except subprocess.CalledProcessError as failed:
            print(f"error: {' '.join(map(str, failed.cmd[:5]))} ... failed", file=sys.stderr)
            return 1
    return 0


def _renew(lock: ImageLock, resolver: Path) -> None:
    print(f"{lock.output}: resolving ...", file=sys.stderr)
    command = [str(resolver), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version", _OLDEST_PYTHON, "--no-emit-index-url", "--no-emit-find-links"]
    # Stands in the header in place of the command line, which names this machine's folders.
    command += ["--custom-compile-command", "python3 deploy/docker/lock.py"]
    command += ["--constraint", lock.tested, "--output-file", lock.output, lock.project]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
