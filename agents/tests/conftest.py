"""Fixtures of the agent's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_centre import FakeCentre

TRITON_ENVIRONMENT = Path(__file__).resolve().parents[2] / ".triton"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if (TRITON_ENVIRONMENT / "waypost-triton.json").exists():
        return
    missing = pytest.mark.skip(
        reason=f"no Triton in {TRITON_ENVIRONMENT}; python3 deploy/bootstrap.py triton"
    )
    for item in items:
        if item.get_closest_marker("triton"):
            item.add_marker(missing)


@pytest.fixture
def centre() -> Iterator[FakeCentre]:
    with FakeCentre() as centre:
        yield centre
