"""Every test here writes rows."""

import pytest


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    """All of them need the database."""
