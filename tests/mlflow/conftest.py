"""One real MLflow server for the whole folder, and a control plane that knows it."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.turn import look_at_registries
from controlplane.catalog.registry.walls import Walls
from tests.mlflow.server import ROOT, MlflowServer, is_there

CONVERTER = ROOT / ".convert" / "bin" / "python"


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    if not is_there():
        pytest.fail("there is no .mlflow; make it with: python3 deploy/bootstrap.py mlflow convert")
    server = MlflowServer(folder=tmp_path_factory.mktemp("mlflow"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def mlflow(mlflow_server: MlflowServer, settings: Any, tmp_path: Path, db: None) -> MlflowServer:
    """The server, named in the settings."""
    settings.WAYPOST_MLFLOW_URL = mlflow_server.url
    settings.DATA_DIR = tmp_path / "data"
    return mlflow_server


@pytest.fixture
def turn(now: datetime) -> Callable[..., None]:
    """A turn of the worker of imports. Each comes five minutes after the one before, so that every
    link is due again."""
    turns = iter(range(1000))

    def run(*, converter: bool = True) -> None:
        python = str(CONVERTER) if converter else ""
        look_at_registries(
            now=now + timedelta(minutes=5 * next(turns)),
            keep_going=lambda: True,
            # The models of these tests are their own: where no walls can be built, none are needed.
            converting=Converter(python=python, unwalled=bool(python and Walls().fault(python))),
        )

    return run
