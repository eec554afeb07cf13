"""What every test may ask for: a fixed time, and an artifact store of its own."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connections


@pytest.fixture
def now() -> datetime:
    """When a test begins. It never reads a clock; what must be later is this and a timedelta."""
    return datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def artifacts(tmp_path: Path, settings: Any) -> Path:
    """The artifact store of this test alone."""
    settings.WAYPOST_ARTIFACT_DIR = tmp_path / "artifacts"
    return tmp_path / "artifacts"


@pytest.fixture(scope="session", autouse=True)
def _static_root() -> None:
    """An installation makes it when it starts; the middleware warns when it is missing."""
    Path(django_settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """The tests' database need not survive a power cut, so nothing waits for the disk."""
    options = connections.settings["default"].get("OPTIONS", {})
    if "init_command" in options:
        options["init_command"] = options["init_command"].replace("FULL", "OFF")
