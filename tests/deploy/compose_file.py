"""The compose files and .env.example as values, for the checks beside this file."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
_REFERENCE = re.compile(r"(?<!\$)\$\{([A-Z_]+)")
_LISTED = re.compile(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)


def compose_text(name: str = "docker-compose.yml") -> str:
    return (ROOT / name).read_text()


def services(name: str = "docker-compose.yml") -> dict[str, dict[str, Any]]:
    document = yaml.safe_load(compose_text(name))
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def referenced_variables() -> set[str]:
    """The variables that docker compose puts in from the environment or .env."""
    return set(_REFERENCE.findall(compose_text()))


def listed_variables() -> dict[str, str]:
    """Name and default of every line of .env.example."""
    return dict(_LISTED.findall((ROOT / ".env.example").read_text()))
