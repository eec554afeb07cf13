"""A wrong configuration is an error that names the key and what would be right."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from waypost_agent.config import Config, Timeouts, TritonConfig, load_config, parse_config
from waypost_agent.errors import ConfigError
from waypost_agent.limits import GIB, Limits
from waypost_agent.probation import Probation

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/agent.example.toml"
PLAIN: dict[str, Any] = {"state_dir": "/state", "triton": {"repository": "/models"}}


def shown_by_the_example() -> dict[str, Any]:
    """What it says with every key that is commented out put in."""
    lines = [
        line.removeprefix("# ") if re.match(r"# \S+ = ", line) else line
        for line in EXAMPLE.read_text().splitlines()
    ]
    return tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))


def test_the_example_has_every_key_and_no_other() -> None:
    shown = shown_by_the_example()
    parse_config(shown)
    assert set(shown) - {"triton"} == {field.name for field in fields(Config)} - {"servers"}
    assert set(shown["triton"]) == {field.name for field in fields(TritonConfig)}
    assert set(shown["probation"]) == {field.name for field in fields(Probation)}
    assert set(shown["timeouts"]) == {field.name for field in fields(Timeouts)}
    assert set(shown["limits"]) == {field.name for field in fields(Limits)}


def test_the_example_shows_how_several_servers_are_written() -> None:
    lines = [line.removeprefix("#") for line in EXAMPLE.read_text().splitlines()]
    block = [line for line in lines if line.startswith("   ")]
    config = parse_config({"state_dir": "/state", **tomllib.loads("\n".join(block))})
    assert config.shares == {
        "cpu": ("vad", "detect-*"),
        "gpu": None,
    }


def test_the_example_shows_the_defaults() -> None:
    shown, given = shown_by_the_example(), load_config(EXAMPLE)
    assert shown["timeouts"] == vars(given.timeouts) == vars(Timeouts())
    plain = parse_config(PLAIN)
    # The reserve is worked out from the disk: the example shows its least.
    assert shown["limits"] == vars(Limits()) | {"reserve_bytes": Limits().reserve_of(0)}
    assert given.limits == plain.limits == Limits()
    for key in ("allow_plain_http", "log_level", "metrics_port"):
        assert shown[key] == getattr(given, key) == getattr(plain, key)
    assert shown["gpu_required"] is plain.gpu_required
    for key in ("grpc_url", "http_url", "secret_key"):
        assert shown["triton"][key] == getattr(plain.servers[0].triton, key)


def test_the_least_that_is_needed_is_enough() -> None:
    config = parse_config(PLAIN)
    assert config.state_dir == Path("/state")
    assert config.servers[0].triton.repository == Path("/models")


def limits(**given: Any) -> dict[str, Any]:
    return {**PLAIN, "limits": given}


def test_a_site_sets_its_own_limits() -> None:
    given = {"reserve_bytes": 0, "keep_versions": 5, "stall_seconds": 5, "scrub_every_seconds": 1e7}
    assert parse_config(limits(**given)).limits == Limits(**given)


def test_a_chosen_reserve_goes_before_a_tenth_of_the_disk() -> None:
    for chosen in (0, 7):
        assert parse_config(limits(reserve_bytes=chosen)).limits.reserve_of(100 * GIB) == chosen
    assert parse_config(PLAIN).limits.reserve_of(100 * GIB) == 10 * GIB
    assert parse_config(PLAIN).limits.reserve_of(10 * GIB) == 2 * GIB


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
    ("text as table", {**PLAIN, "limits": "x"}, r"limits: must be a table, written \[limits\]"),
    ("unknown limit", limits(disk_bytes=5), r"limits\.disk_bytes: unknown key; .*reserve_bytes"),
    ("the reserve of old", {**PLAIN, "disk_reserve_bytes": 5}, r"unknown key; known are .*limits"),
    ("negative reserve", limits(reserve_bytes=-1), r"limits\.reserve_bytes: .* number from 0, it"),
    ("text as reserve", limits(reserve_bytes="2 GiB"), r"must be a whole number .*'2 GiB'"),
    ("fraction as size", limits(quarantine_bytes=1.5), r"quarantine_bytes: must be a whole"),
    ("true as rate", limits(bytes_per_second=True), r"must be a whole number from 0, it is True"),
    ("one version", limits(keep_versions=1), r"keep_versions: must be a whole number from 2"),
    ("nothing a turn", limits(scrub_turn_bytes=0), r"scrub_turn_bytes: must be a whole .* from 1"),
    ("never stalled", limits(stall_seconds=0), r"stall_seconds: .* at most 86400, it is 0"),
    ("endless sync", limits(sync_seconds=float("inf")), r"limits\.sync_seconds: .*, it is inf"),
    ("no number", limits(progress_seconds=float("nan")), r"progress_seconds: .*, it is nan"),
    ("rare scrub", limits(scrub_every_seconds=366 * 86_400 + 1), r"at most 31622400, it is"),
    ("no level", {**PLAIN, "log_level": "loud"}, r"log_level: must be one of DEBUG, .*'loud'"),
    ("list as level", {**PLAIN, "log_level": []}, r"log_level: must be one of DEBUG"),
    ("no port", {**PLAIN, "metrics_port": 65_536}, r"metrics_port: must be a port from 1 to 65535"),
    ("text as port", {**PLAIN, "metrics_port": "9"}, r"metrics_port: must be a whole number"),
    ("one as boolean", {**PLAIN, "gpu_required": 1}, r"gpu_required: must be true or false"),
    (
        "number as user",
        {**PLAIN, "triton": {"repository": "/m", "user": 1000}},
        r"triton\.user: must be a text in quotes, it is 1000",
    ),
    (
        "part of a TensorRT",
        {**PLAIN, "triton": {"repository": "/m", "tensorrt_version": "10.3"}},
        r"triton\.tensorrt_version: .* such as \"10\.3\.0\", it is '10\.3'",
    ),
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
