"""The environments are made once, made anew when something changed, and their faults are named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def bootstrap(checkout: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "deploy" / "bootstrap.py"), *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose control plane needs no package at all."""
    hidden = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=hidden)
    (tmp_path / "requirements.lock").write_text("# nothing\n")
    return tmp_path


def test_the_second_run_changes_nothing_and_a_changed_lock_makes_it_anew(checkout: Path):
    assert bootstrap(checkout, "control-plane").returncode == 0
    mark = checkout / ".venv" / "mark"
    mark.write_text("")

    again = bootstrap(checkout, "control-plane")
    assert again.returncode == 0
    assert "up to date" in again.stderr
    assert mark.exists()

    (checkout / "requirements.lock").write_text("# nothing, said otherwise\n")
    changed = bootstrap(checkout, "control-plane")
    assert changed.returncode == 0
    assert "[1/1] control plane environment: installing 0 packages into .venv" in changed.stderr
    assert not mark.exists()


def test_a_half_made_environment_is_made_anew(checkout: Path):
    half = checkout / ".venv" / "lib" / "half"
    half.parent.mkdir(parents=True)
    half.write_text("")
    assert bootstrap(checkout, "control-plane").returncode == 0
    assert not half.exists()
    assert (checkout / ".venv" / "bin" / "python").exists()


def test_a_failed_download_shows_what_pip_said_and_leaves_no_environment_that_counts(
    checkout: Path,
):
    (checkout / "requirements.lock").write_text(f"./no-such-wheel.whl --hash=sha256:{'0' * 64}\n")
    first, second = (bootstrap(checkout, "control-plane") for _ in range(2))
    for failed in (first, second):
        assert failed.returncode == 1
        assert "installing requirements.lock failed" in failed.stderr
        assert "no-such-wheel.whl" in failed.stderr
        assert "cure: " in failed.stderr


def test_bytes_that_do_not_match_the_lock_are_refused(checkout: Path):
    (checkout / "package").mkdir()
    (checkout / "package" / "pyproject.toml").write_text("[project]\nname='a'\nversion='1'\n")
    (checkout / "requirements.lock").write_text("./package\n")
    failed = bootstrap(checkout, "control-plane")
    assert failed.returncode == 1
    assert "hash" in failed.stderr.lower()


def test_a_missing_lock_is_named_with_its_cure(checkout: Path):
    failed = bootstrap(checkout, "agent")
    assert failed.returncode == 1
    assert "there is no agents/requirements.lock" in failed.stderr
    assert "cure: make lock" in failed.stderr


@pytest.mark.parametrize("names", [(), ("control-plan",)])
def test_a_wrong_name_gets_the_usage_and_makes_nothing(checkout: Path, names: tuple[str, ...]):
    failed = bootstrap(checkout, *names)
    assert failed.returncode == 2
    parts = "control-plane|agent|triton|convert|mlflow|demo-models"
    assert f"usage: bootstrap.py {{{parts}}}" in failed.stderr
    assert not (checkout / ".venv").exists()
