"""Runs the test suites, each in the environment it belongs to, and sums them up.

    python -m tests.suites [services]

Suites that neither open a browser nor start the whole stack run two at a time; each line says whose
it is. What failed is told once more at the end, where a reader of a long log looks first. The last
line is `N passed, N failed, N skipped` over all of them; the exit status is 0 only if nothing
failed and every suite ran some test."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "test-results"
TOLD_LINES = 12  # of each failure's traceback, at the end of all


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One call of pytest. `python` is an interpreter inside the checkout."""

    name: str
    python: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a suite came to. Errors in fixtures and collection count as failed; `failures` holds a
    headline and the end of what was said for each."""

    passed: int
    failed: int
    skipped: int
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


CONTROL_PLANE, AGENT = ".venv/bin/python", ".venv-agent/bin/python"
# What runs beside each other are the lanes of one round; the next round begins when all have ended.
Lane = tuple[Suite, ...]
Round = tuple[Lane, ...]

CONTROL_PLANE_SUITE = Suite(
    name="control-plane",
    python=CONTROL_PLANE,
    paths=(
        "tests/arch",
        "tests/unit",
        "tests/simulation",
        "tests/services",
        "tests/api",
        "tests/deploy",
    ),
)
CLI_SUITE = Suite(
    name="cli",
    python=CONTROL_PLANE,
    paths=("cli/tests",),
    options=("-c", "cli/pyproject.toml"),
)
AGENT_SUITE = Suite(
    name="agent",
    python=AGENT,
    paths=("agents/tests",),
    options=("-c", "agents/pyproject.toml"),
)
# Needs the agent's gRPC client; the conftest above it needs Django.
TRITON_SUITE = Suite(
    name="triton",
    python=AGENT,
    paths=("tests/triton",),
    options=("-c", "agents/pyproject.toml", "--confcutdir", "tests/triton"),
)
# Starts real MLflow servers, from an environment of their own.
MLFLOW_SUITE = Suite(name="mlflow", python=CONTROL_PLANE, paths=("tests/mlflow",))
CONSOLE_SUITE = Suite(name="console", python=CONTROL_PLANE, paths=("tests/web",))
STACK_SUITE = Suite(name="stack", python=CONTROL_PLANE, paths=("tests/stack",))
SERVICES_SUITE = Suite(
    name="services",
    python=CONTROL_PLANE,
    paths=("tests/services", "tests/api"),
)
SUITES: dict[str, tuple[Round, ...]] = {
    "all": (
        ((CONTROL_PLANE_SUITE, CLI_SUITE), (AGENT_SUITE, TRITON_SUITE, MLFLOW_SUITE)),
        ((CONSOLE_SUITE, STACK_SUITE),),
    ),
    "services": (((SERVICES_SUITE,),),),
}
DEFAULT_SERVICES = {
    "WAYPOST_TEST_DATABASE_URL": "postgres://postgres@127.0.0.1:5432/waypost",
    "WAYPOST_TEST_BROKER_URL": "redis://127.0.0.1:6379/9",
}


def main(arguments: list[str]) -> int:
    which = arguments[0] if arguments else "all"
    if which not in SUITES or len(arguments) > 1:
        print(f"usage: python -m tests.suites [{'|'.join(SUITES)}]", file=sys.stderr)
        return 2
    env = dict(os.environ)
    if which == "services":
        for name, default in DEFAULT_SERVICES.items():
            env.setdefault(name, default)
    RESULTS.mkdir(exist_ok=True)
    counts = list(run_all(SUITES[which], env))
    for failure in (failure for count in counts for failure in count.failures):
        print(failure, flush=True)
    passed, failed, skipped = (
        sum(getattr(count, name) for count in counts) for name in ("passed", "failed", "skipped")
    )
    print(Count(passed=passed, failed=failed, skipped=skipped), flush=True)
    return 1 if failed else 0


def run_all(rounds: tuple[Round, ...], env: dict[str, str]) -> Iterator[Count]:
    for lanes in rounds:
        with ThreadPoolExecutor(len(lanes)) as threads:
            for counts in threads.map(lambda lane: [run(suite, env) for suite in lane], lanes):
                yield from counts


def run(suite: Suite, env: dict[str, str]) -> Count:
    """Runs one suite and reads what it came to from its JUnit file, which pytest writes last: a
    suite that died without one has failed."""
    report = RESULTS / f"{suite.name}.xml"
    report.unlink(missing_ok=True)
    print(f"== {suite.name}: {' '.join(suite.paths)}", flush=True)
    started = time.monotonic()
    command = [suite.python, "-m", "pytest", "-q", *suite.options, "--rootdir", str(ROOT)]
    with subprocess.Popen(
        [*command, f"--junitxml={report}", *suite.paths],
        cwd=ROOT,
        env={**env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None  # it is a pipe
        for line in process.stdout:
            print(f"{suite.name:>13} | {line}", end="", flush=True)
    status = process.returncode
    count = read_report(report, status, name=suite.name)
    print(f"== {suite.name}: {count} in {time.monotonic() - started:.0f} s", flush=True)
    return count


def read_report(report: Path, status: int, *, name: str) -> Count:
    """What pytest with that exit status left in its JUnit file. Status 5 (no test ran) and any
    other trouble without a failed test count as one failure."""
    if not report.exists():
        died = f"== failed: {name} ended with status {status} before it wrote a report"
        return Count(passed=0, failed=1, skipped=0, failures=(died,))
    root = ET.parse(report).getroot()
    total = failed = skipped = 0
    for entry in root.iter("testsuite"):
        total += int(entry.get("tests", 0))
        failed += int(entry.get("failures", 0)) + int(entry.get("errors", 0))
        skipped += int(entry.get("skipped", 0))
    failures = [
        f"== failed: {name}: {case.get('classname')}::{case.get('name')}\n{_end_of(trouble)}"
        for case in root.iter("testcase")
        for trouble in (*case.findall("failure"), *case.findall("error"))
    ]
    if status and not failed:
        failed = 1
        failures = [f"== failed: {name}: no test failed, but pytest ended with status {status}"]
    return Count(
        passed=max(0, total - failed - skipped),
        failed=failed,
        skipped=skipped,
        failures=tuple(failures),
    )


def _end_of(trouble: ET.Element) -> str:
    """The last lines of a traceback: what was expected, and where."""
    return "\n".join(f"    {line}" for line in (trouble.text or "").splitlines()[-TOLD_LINES:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
