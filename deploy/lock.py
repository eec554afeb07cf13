"""Renews every lock file in the same way, from what the projects say they need.

    python3 deploy/lock.py [--upgrade]

Without --upgrade a pin stays as it is for as long as it still satisfies its project. The resolver
(uv) is fetched into a temporary environment; knows nothing of how locks are installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_RESOLVER = "uv>=0.8,<1"
_OLDEST_PYTHON = "3.11"


class Lock(NamedTuple):
    """One lock file and the projects (pyproject.toml) or lists (.in) that it pins."""

    output: str
    inputs: tuple[str, ...]
    extras: tuple[str, ...] = ()
    settings: str | None = None


LOCKS = (
    Lock("requirements.lock", ("pyproject.toml", "cli/pyproject.toml"), extras=("dev",)),
    Lock("agents/requirements.lock", ("agents/pyproject.toml",), extras=("test",)),
    Lock(
        "deploy/triton/requirements.lock",
        ("deploy/triton/requirements.in",),
        settings="deploy/triton/uv.toml",
    ),
    Lock("deploy/convert/requirements.lock", ("deploy/convert/requirements.in",)),
    Lock("deploy/mlflow/requirements.lock", ("deploy/mlflow/requirements.in",)),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="lock.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    upgrade = bool(parser.parse_args().upgrade)
    with tempfile.TemporaryDirectory(prefix="waypost-lock-") as folder:
        try:
            resolver = _fetch_resolver(Path(folder))
            for lock in LOCKS:
                _renew(lock, resolver, upgrade=upgrade)
        except subprocess.CalledProcessError as failed:
            print(f"error: {' '.join(map(str, failed.cmd[:5]))} ... failed", file=sys.stderr)
            return 1
    return 0


def _fetch_resolver(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, "--disable-pip-version-check", _RESOLVER], check=True)
    return folder / "bin" / "uv"


def _renew(lock: Lock, resolver: Path, *, upgrade: bool) -> None:
    missing = [name for name in lock.inputs if not (ROOT / name).is_file()]
    if missing:
        print(f"{lock.output}: skipped, there is no {' or '.join(missing)}", file=sys.stderr)
        return
    print(f"{lock.output}: resolving ...", file=sys.stderr)
    command = [str(resolver)]
    if lock.settings is not None:
        command += ["--config-file", lock.settings]
    command += ["pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--python-version", _OLDEST_PYTHON, "--no-emit-index-url", "--no-emit-find-links"]
    # Stands in the header in place of the command line, which names this machine's folders.
    command += ["--custom-compile-command", "python3 deploy/lock.py"]
    command += [f"--extra={extra}" for extra in lock.extras]
    command += ["--upgrade"] if upgrade else []
    # "-" is standard input: what the build backends need, which no project lists for running.
    command += ["--output-file", lock.output, *lock.inputs, "-"]
    subprocess.run(command, cwd=ROOT, input=_build_requirements(lock.inputs), text=True, check=True)


def _build_requirements(inputs: tuple[str, ...]) -> str:
    """Editable installs run without build isolation, so their backends are locked as well."""
    needed: set[str] = set()
    for name in inputs:
        if not name.endswith(".toml"):
            continue
        system = tomllib.loads((ROOT / name).read_text()).get("build-system", {})
        needed.update(system.get("requires", ["setuptools"]))
    return "".join(f"{requirement}\n" for requirement in sorted(needed))


if __name__ == "__main__":
    sys.exit(main())
