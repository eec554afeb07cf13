"""Makes the environments this checkout runs in, inside the checkout, from the lock files.

    python3 deploy/bootstrap.py control-plane agent triton demo-models

Decides when an environment is still right and when it is built anew. Stdlib only, for a bare
python3; knows nothing of how the parts are started. A second run changes nothing and is fast.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from deploy.errors import CannotGoOn  # noqa: E402  a script's own folder is all python3 looks in

# This file must load on an older python3 too, up to _check_python, which says what is wrong.
_SUPPORTED = ((3, 11), (3, 12))
_STAMP = ".waypost-stamp.json"
_SHOWN_LINES = 12
_PINNED = re.compile(r"^[A-Za-z0-9][^\s=]*==", re.MULTILINE)


class Environment(NamedTuple):
    """A virtual environment: its folder, its lock file, and the projects linked into it."""

    title: str
    folder: str
    lock: str
    projects: tuple[str, ...]


ENVIRONMENTS: dict[str, Environment] = {
    "control-plane": Environment(
        "control plane environment", ".venv", "requirements.lock", ("cli", "agents")
    ),
    "agent": Environment(
        "agent environment", ".venv-agent", "agents/requirements.lock", ("agents",)
    ),
    "triton": Environment("Triton", ".triton", "deploy/triton/requirements.lock", ()),
    # Where an import from MLflow converts models; only an installation that wants that makes it.
    "convert": Environment("converter", ".convert", "deploy/convert/requirements.lock", ()),
    "mlflow": Environment(
        "MLflow server of the tests", ".mlflow", "deploy/mlflow/requirements.lock", ()
    ),
}
STEPS = (*ENVIRONMENTS, "demo-models")


def main(names: list[str]) -> int:
    """Make the named parts in the order given. Returns the exit status."""
    unknown = [name for name in names if name not in STEPS]
    if not names or unknown:
        problem = f"unknown: {' '.join(unknown)}\n" if unknown else ""
        print(f"{problem}usage: bootstrap.py {{{'|'.join(STEPS)}}} ...", file=sys.stderr)
        return 2
    try:
        _check_python()
        with _only_one():
            for number, name in enumerate(names, start=1):
                _make(name, f"[{number}/{len(names)}]")
    except CannotGoOn as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    return 0


def _check_python() -> None:
    version = sys.version_info[:2]
    if version not in _SUPPORTED:
        raise CannotGoOn(
            f"Python 3.11 or 3.12 is needed, {sys.executable} is {version[0]}.{version[1]}",
            "make PYTHON=python3.12   (Debian, Ubuntu: apt-get install python3.12-venv)",
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise CannotGoOn(
            f"{sys.executable} cannot make virtual environments (no venv or ensurepip module)",
            "apt-get install python3-venv",
        ) from None


@contextmanager
def _only_one() -> Iterator[None]:
    """Two makes at once would build the same folder; the second waits and then finds it made."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another bootstrap in this checkout ...")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _make(name: str, step: str) -> None:
    started = time.monotonic()
    if name == "demo-models":
        from deploy.demo.models import build_versions

        _say(f"{step} demo models: building three versions ...")
        build_versions(ROOT / ".demo" / "models", home=ROOT)
    elif not _make_environment(name, step):
        return
    _say(f"{step} done in {time.monotonic() - started:.1f} s")


def _make_environment(name: str, step: str) -> bool:
    """False when the environment was there and right already."""
    environment = ENVIRONMENTS[name]
    folder = ROOT / environment.folder
    wanted = _wanted_stamp(environment)
    if _read_stamp(folder) == wanted:
        _say(f"{step} {environment.title}: up to date")
        return False
    if name == "triton":
        from deploy.triton import install

        install.check_platform()
    count = len(_PINNED.findall((ROOT / environment.lock).read_text()))
    _say(f"{step} {environment.title}: installing {count} packages into {environment.folder} ...")
    _install(folder, environment)
    if name == "triton":
        install.prepare(folder)
    # Last of all: an environment without its stamp counts as half made.
    (folder / _STAMP).write_text(json.dumps(wanted, indent=1) + "\n")
    return True


def _install(folder: Path, environment: Environment) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    _run([sys.executable, "-m", "venv", str(folder)], "making a virtual environment")
    # A lock is complete, so nothing is resolved; wheels only, so nothing unpinned is fetched to
    # build one.
    lock = ["--no-deps", "--require-hashes", "--only-binary=:all:", "-r", environment.lock]
    _run([*_pip(folder), *lock], f"installing {environment.lock}")
    linked = [f"-e./{project}" for project in _present_projects(environment)]
    if linked:
        # The build backend comes from the lock as well.
        command = [*_pip(folder), "--no-deps", "--no-build-isolation", *linked]
        _run(command, f"linking {' '.join(linked)}")


def _pip(folder: Path) -> list[str]:
    python = str(folder / "bin" / "python")
    return [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-q"]


def _run(command: list[str], doing: str) -> None:
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode == 0:
        return
    last = "\n".join(f"  | {line}" for line in done.stdout.splitlines()[-_SHOWN_LINES:])
    raise CannotGoOn(
        f"{doing} failed (exit status {done.returncode}); its last lines:\n{last}",
        "check the network and the package index (pip config list), then run the same again",
    )


def _wanted_stamp(environment: Environment) -> dict[str, str]:
    """Everything an environment depends on; it is right as long as none of it has changed."""
    lock = ROOT / environment.lock
    if not lock.is_file():
        raise CannotGoOn(f"there is no {environment.lock} in {ROOT}", "make lock")
    stamp = {
        "python": sys.version,
        "interpreter": os.path.realpath(sys.executable),
        # A virtual environment and its links hold absolute paths: one that was moved is wrong.
        "root": str(ROOT),
        "lock": _digest(lock),
    }
    for project in _present_projects(environment):
        stamp[project] = _digest(ROOT / project / "pyproject.toml")
    if environment.folder == ".triton":
        stamp["recipe"] = _digest(ROOT / "deploy" / "triton" / "install.py")
    return stamp


def _read_stamp(folder: Path) -> dict[str, str]:
    try:
        stamp = json.loads((folder / _STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _present_projects(environment: Environment) -> list[str]:
    return [name for name in environment.projects if (ROOT / name / "pyproject.toml").is_file()]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
