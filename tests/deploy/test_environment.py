""".env.example lists every variable that is read, and none that is not."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.compose_file import ROOT, listed_variables, referenced_variables

_VARIABLE = re.compile(r"WAYPOST_[A-Z0-9_]+|DATABASE_URL|BROKER_URL")
_SOURCES = ("controlplane", "agents/src", "cli/src", "deploy", "benchmarks")
# Tests name variables of their own making; what configures them is read here alone.
_TEST_SOURCES = ("settings.py", "conftest.py", "suites.py")
_PLAIN = ("Makefile", ".ci/run")


def _python_files() -> Iterator[Path]:
    yield ROOT / "manage.py"
    for folder in _SOURCES:
        yield from (ROOT / folder).rglob("*.py")
    yield from (path for path in (ROOT / "tests").rglob("*.py") if path.name in _TEST_SOURCES)


def _literals(path: Path) -> set[str]:
    """String literals that are exactly a variable's name: nobody reads one in another way."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _VARIABLE.fullmatch(node.value)
    }


def _read_variables() -> dict[str, str]:
    """Each variable and one file that names it."""
    found = dict.fromkeys(referenced_variables(), "docker-compose.yml")
    for path in _python_files():
        found |= dict.fromkeys(_literals(path), str(path.relative_to(ROOT)))
    for name in _PLAIN:
        path = ROOT / name
        if path.exists():
            found |= dict.fromkeys(_in_shell(path.read_text()), name)
    return found


def _in_shell(text: str) -> set[str]:
    """Variables that a Makefile or a script expands or sets, not those its help only mentions."""
    pattern = rf"\$[({{]?({_VARIABLE.pattern})|(?:^|\s)({_VARIABLE.pattern})\s*[:?+]?="
    return {one or other for one, other in re.findall(pattern, text)}


def test_the_example_lists_exactly_the_variables_that_are_read() -> None:
    read, listed = _read_variables(), set(listed_variables())
    unlisted = {name: where for name, where in read.items() if name not in listed}
    assert unlisted == {}, "read, but not in .env.example"
    assert listed - set(read) == set(), "in .env.example, but read nowhere"


def test_the_search_finds_the_ways_in_which_variables_are_read() -> None:
    ways = {
        "DATABASE_URL",  # env.db_url("...")
        "WAYPOST_TICK_SECONDS",  # through a function of the settings
        "WAYPOST_PORT",  # os.environ.get("...")
        "WAYPOST_TOKEN",  # a mapping that is handed in
        "WAYPOST_AGENT_CONFIG",  # a constant
        "WAYPOST_POSTGRES_PASSWORD",  # docker compose
    }
    assert ways <= set(_read_variables())
    assert _in_shell("A=${WAYPOST_ONE:-x} WAYPOST_TWO=1 # WAYPOST_THREE") == {
        "WAYPOST_ONE",
        "WAYPOST_TWO",
    }


def test_every_variable_of_the_example_is_explained_by_the_line_above_it() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = listed_variables()
    for before, line in itertools.pairwise(lines):
        name = line.removeprefix("# ").partition("=")[0]
        if name in names:
            assert before.startswith("# "), f"{name} is not explained"
            assert before.removeprefix("# ").partition("=")[0] not in names, name


def test_copying_the_example_changes_nothing() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
