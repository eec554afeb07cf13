"""pytest fixtures that run a real Triton: one per test session, on free ports.

Needs the stdlib and pytest alone, so that the control plane's, the agent's and the deployment's
tests can all import it: `from deploy.triton.testing import make_triton, triton_session` and so on.
Knows which models exist only as far as `install_version` is told.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.demo.models import MODEL_NAME, build_versions
from deploy.errors import CannotGoOn
from deploy.triton.install import check_platform, read_tree
from deploy.triton.wheel_server import Ports, WheelTriton

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".triton"

MakeTriton = Callable[[Path], WheelTriton]


def require_triton() -> None:
    """Skip the test where `.triton` cannot exist; fail it where it only was not made."""
    try:
        check_platform()
    except CannotGoOn as missing:
        pytest.skip(f"no real Triton on this machine: {missing.problem}")
    try:
        read_tree(ENVIRONMENT)
    except CannotGoOn as missing:
        pytest.fail(f"{missing.problem}; make it with: {missing.cure}", pytrace=False)


def install_version(repository: Path, source: Path, *, model: str, version: str) -> None:
    """Put a version's files into a model repository, as an agent does: version folder last."""
    folder = repository / model
    folder.mkdir(parents=True, exist_ok=True)
    staged = repository.parent / f".staged-{model}-{version}"
    shutil.copytree(source, staged, ignore=shutil.ignore_patterns("config.pbtxt", "golden.json"))
    staged.rename(folder / version)


def write_config(repository: Path, source: Path, *, model: str, versions: list[int]) -> None:
    """Serve exactly these versions: the pushed config under this name, with a version policy."""
    text = (source / "config.pbtxt").read_text()
    text = re.sub(r'^name: ".*"$', f'name: "{model}"', text, count=1, flags=re.MULTILINE)
    policy = f"version_policy: {{ specific: {{ versions: {json.dumps(versions)} }} }}\n"
    new = repository.parent / f".config-{model}"
    new.write_text(text + policy)
    # Written elsewhere and renamed: any other file beside the config reloads the whole model.
    new.replace(repository / model / "config.pbtxt")


@pytest.fixture(scope="session")
def demo_versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's three version folders, by number."""
    require_triton()
    return build_versions(tmp_path_factory.mktemp("versions"), home=ROOT)


@pytest.fixture(scope="session")
def make_triton() -> Iterator[MakeTriton]:
    """Make a server (not started) with its repository under the given folder; all end at last."""
    require_triton()
    made: list[WheelTriton] = []

    def make(folder: Path) -> WheelTriton:
        repository = folder / "repository"
        repository.mkdir(parents=True, exist_ok=True)
        triton = WheelTriton(
            environment=ENVIRONMENT,
            repository=repository,
            ports=Ports.free(),
            log_file=folder / "triton.log",
            secret_file=folder / "triton.secret",
            load_models=[MODEL_NAME],
        )
        made.append(triton)
        return triton

    yield make
    for triton in made:
        triton.kill()


@pytest.fixture(scope="session")
def triton_session(
    make_triton: MakeTriton,
    demo_versions: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WheelTriton]:
    """The session's running server: version 1 of the demo's model serves, 2 and 3 lie beside it."""
    triton = make_triton(tmp_path_factory.mktemp("triton"))
    for number, source in demo_versions.items():
        install_version(triton.repository, source, model=MODEL_NAME, version=number)
    write_config(triton.repository, demo_versions["1"], model=MODEL_NAME, versions=[1])
    with triton:
        yield triton
