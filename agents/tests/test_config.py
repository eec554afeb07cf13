"""A wrong configuration is an error that names the key and what would be right."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from waypost_agent.config import Timeouts, load_config, parse_config
from waypost_agent.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parents[1] / "config.example.toml"
PLAIN: dict[str, Any] = {"state_dir": "/state", "triton": {"repository": "/models"}}


def test_the_example_is_valid_and_shows_the_defaults() -> None:
    given = load_config(EXAMPLE)
    lines = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line else line
        for line in EXAMPLE.read_text().splitlines()
    ]
    shown = tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))
    assert shown["timeouts"] == vars(Timeouts())
    assert given.timeouts == Timeouts()
    assert shown["disk_reserve_bytes"] == given.disk_reserve_bytes
    for key in ("grpc_url", "http_url", "secret_key"):
        assert shown["triton"][key] == getattr(given.triton, key)


def test_the_least_that_is_needed_is_enough() -> None:
    config = parse_config(PLAIN)
    assert config.state_dir == Path("/state")
    assert config.triton.repository == Path("/models")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("no state_dir", {"triton": {"repository": "/m"}}, r"state_dir: is missing.*absolute path"),
    ("no repository", {"state_dir": "/s"}, r"triton\.repository: is missing"),
    ("unknown key", {**PLAIN, "statedir": "/s"}, r"statedir: unknown key; known are .*state_dir"),
    (
        "unknown key of triton",
        {**PLAIN, "triton": {"repository": "/m", "url": "x"}},
        r"triton\.url: unknown key; known are .*grpc_url",
    ),
    ("relative path", {**PLAIN, "state_dir": "state"}, r"state_dir: must be an absolute path"),
    ("number as path", {**PLAIN, "state_dir": 7}, r"state_dir: must be a text in quotes, it is 7"),
    ("triton not a table", {**PLAIN, "triton": "x"}, r"triton: must be a table"),
    ("text as seconds", {**PLAIN, "timeouts": {"observe_seconds": "5"}}, r"timeouts\.observe_sec"),
    ("zero seconds", {**PLAIN, "timeouts": {"observe_seconds": 0}}, r"over 0 and at most 86400"),
    ("true as seconds", {**PLAIN, "timeouts": {"observe_seconds": True}}, r"it is True"),
    ("unknown timeout", {**PLAIN, "timeouts": {"load": 5}}, r"timeouts\.load: unknown key"),
    ("negative reserve", {**PLAIN, "disk_reserve_bytes": -1}, r"disk_reserve_bytes: must be a"),
    ("yes as boolean", {**PLAIN, "allow_plain_http": "yes"}, r"must be true or false"),
    ("no URL", {**PLAIN, "centre_url": "centre.example"}, r"centre_url: .* is not a URL such as"),
    ("plain http", {**PLAIN, "centre_url": "http://centre.example"}, r"tokens in the clear"),
    ("user in URL", {**PLAIN, "centre_url": "https://me:x@centre"}, r"must not hold a user name"),
    ("file URL", {**PLAIN, "centre_url": "file:///etc/passwd"}, r"is not a URL such as"),
]


@pytest.mark.parametrize(
    ("document", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_a_wrong_key_is_named_with_its_cure(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(document)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost", "https://c.example"])
def test_plain_http_is_for_loopback(url: str) -> None:
    assert parse_config({**PLAIN, "centre_url": url}).centre_url == url


def test_plain_http_can_be_allowed() -> None:
    url = "http://web:8000"
    config = parse_config({**PLAIN, "centre_url": url, "allow_plain_http": True})
    assert config.centre_url == url


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml.*--config"):
        load_config(tmp_path / "agent.toml")
    (tmp_path / "agent.toml").write_text("state_dir = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(tmp_path / "agent.toml")
