"""The layers hold, and a machine would notice if they did not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Checks the contracts of `pyproject.toml` over the packages below `root`."""
    path = os.pathsep.join(str(root / folder) for folder in (".", "agents/src", "cli/src"))
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as c; c()",
            "--config",
            str(root / "pyproject.toml"),
            "--no-cache",
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their contracts, to be spoiled."""
    ignore = shutil.ignore_patterns("__pycache__", "static")
    for source in ("controlplane", "agents/src", "cli/src"):
        shutil.copytree(ROOT / source, tmp_path / source, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept(copy: Path) -> None:
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        pytest.param(
            "controlplane/domain/rollout.py",
            "import django",
            "The domain is pure",
            id="the domain imports django",
        ),
        pytest.param(
            "controlplane/domain/selection.py",
            "import random",
            "The domain is pure",
            id="the domain draws lots",
        ),
        pytest.param(
            "agents/src/waypost_agent/decide.py",
            "import controlplane",
            "The agent knows neither Django nor the control plane",
            id="the agent imports the control plane",
        ),
        pytest.param(
            "controlplane/fleet/services.py",
            "import controlplane.rollouts.services",
            "The control plane is layered",
            id="a lower app calls upwards",
        ),
        pytest.param(
            "controlplane/api/health.py",
            "import controlplane.rollouts.tasks",
            "API and web call services, never tasks",
            id="the API calls a task",
        ),
    ],
)
def test_a_planted_import_breaks_its_contract(
    module: str, line: str, contract: str, copy: Path
) -> None:
    spoiled = copy / module
    spoiled.write_text(spoiled.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")

    result = lint_imports(copy)

    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout


def test_the_domain_loads_without_django_or_celery() -> None:
    code = (
        "import sys, pkgutil, importlib, controlplane.domain as d\n"
        "names = [m.name for m in pkgutil.iter_modules(d.__path__)]\n"
        "[importlib.import_module(f'controlplane.domain.{n}') for n in names]\n"
        "print(len(names), sorted({'django', 'celery', 'rest_framework'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    count, _, loaded = result.stdout.strip().partition(" ")
    assert int(count) >= 4
    assert loaded == "[]"
