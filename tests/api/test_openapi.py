"""The published description of the API is the one the code has."""

from pathlib import Path

import pytest
import yaml
from django.core.management import call_command

PUBLISHED = Path(__file__).parents[2] / "docs" / "api" / "openapi.yaml"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openapi") / "openapi.yaml"
    call_command("spectacular", file=str(path), fail_on_warn=True)
    return path


def test_the_committed_document_is_what_the_code_says(generated: Path) -> None:
    same = PUBLISHED.read_text(encoding="utf-8") == generated.read_text(encoding="utf-8")
    assert same, "docs/api/openapi.yaml is old; renew it with: make openapi"


def test_it_is_openapi_3_1_and_speaks_of_the_public_api_alone(generated: Path) -> None:
    document = yaml.safe_load(generated.read_text(encoding="utf-8"))
    assert document["openapi"] == "3.1.0"
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    assert {"/api/v1/rollouts", "/api/v1/sites", "/api/v1/models"} <= set(document["paths"])
