"""docker-compose.yml and .env.example as values, for the checks beside this file."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
_REFERENCE = re.compile(r"(?<!\$)\$\{([A-Z_]+)")
_LISTED = re.compile(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def compose_text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


def services() -> dict[str, dict[str, Any]]:
    document = yaml.safe_load(compose_text())
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def referenced_variables() -> set[str]:
    """The variables that docker compose puts in from the environment or .env."""
    return set(_REFERENCE.findall(compose_text()))


def listed_variables() -> dict[str, str]:
    """Name and default of every line of .env.example."""
    return dict(_LISTED.findall((ROOT / ".env.example").read_text()))
