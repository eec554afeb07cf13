"""Every test here writes rows."""

from datetime import datetime

import pytest

from tests.factories import make_joined_site
from tests.fake_agent import FakeAgent


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    """All of them need the database."""


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def core(now: datetime) -> FakeAgent:
    return make_joined_site("core", tier="regional", now=now)
