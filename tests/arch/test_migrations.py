"""Migrations say what the models say."""

import pytest
from django.core.management import call_command


@pytest.mark.usefixtures("db")
def test_no_migration_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("makemigrations", "--check", "--dry-run")
    assert "No changes detected" in capsys.readouterr().out
