"""The CI files can be read, and every `waypost` command in them is one that the real CLI takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from waypost_cli.main import app

CI = Path(__file__).resolve().parents[2] / "deploy" / "ci"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "ci.md"
ACTION = CI / "github" / "action.yml"
PIPELINE = CI / "gitlab" / ".gitlab-ci.example.yml"
# A command: to the end of the line, or of the shell's own construct around it.
_CALL = re.compile(
    r'(?<![\w./-])waypost (?!is\b)([a-z][^\n|>`]*?)(?=\)"|\s*(?:\||>|`|\n|$|\s\|\|))'
)


def calls(text: str) -> list[list[str]]:
    return [shlex.split(match[1]) for match in _CALL.finditer(text)]


def shell_of(document: Any) -> Iterator[str]:
    """Every piece of shell in a CI file."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "run":
                yield value
            elif key == "script":
                yield from value
            else:
                yield from shell_of(value)
    elif isinstance(document, list):
        for value in document:
            yield from shell_of(value)


def parse(arguments: list[str]) -> None:
    """Raises what the CLI would for a command it does not know, and runs nothing."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest)


@pytest.mark.parametrize("path", [ACTION, PIPELINE], ids=lambda path: path.parent.name)
def test_every_call_is_one_that_the_command_takes(path: Path) -> None:
    found = [call for text in shell_of(yaml.safe_load(path.read_text())) for call in calls(text)]
    assert {"login", "push"} <= {call[0] for call in found}
    for call in found:
        parse(call)


def test_the_docs_calls_too() -> None:
    found = calls(DOCS.read_text())
    assert found
    for call in found:
        parse(call)


def test_a_call_that_the_command_does_not_take_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["push", "vad", "model/", "--no-such-option"])


def test_the_action_pastes_no_input_into_its_script() -> None:
    action = yaml.safe_load(ACTION.read_text())
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]
    used = {name for name in action["inputs"] if f"inputs.{name} }}" in ACTION.read_text()}
    assert used == set(action["inputs"])
