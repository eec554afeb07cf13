"""The log level follows the configuration file without a restart."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from waypost_agent import log


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def write(path: Path, more: str) -> Path:
    path.write_text(f'state_dir = "/s"\n{more}\n[triton]\nrepository = "/m"\n')
    return path


def test_the_level_of_the_file_holds_from_now_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up("INFO")
    config = write(tmp_path / "agent.toml", 'log_level = "DEBUG"')
    log.read_level_again(config)
    logging.getLogger("waypost_agent.x").debug("in detail")
    write(config, "")
    log.read_level_again(config)
    logging.getLogger("waypost_agent.x").debug("no more")
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == [
        "log level DEBUG, before INFO",
        "in detail",
        "log level INFO, before DEBUG",
    ]


def test_a_file_that_cannot_be_read_changes_nothing_but_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.set_up("INFO")
    log.read_level_again(write(tmp_path / "agent.toml", 'log_level = "LOUD"'))
    assert logging.getLogger().level == logging.INFO
    (line,) = capsys.readouterr().err.splitlines()
    assert "log_level: must be one of" in json.loads(line)["event"]
