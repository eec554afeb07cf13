"""What the runner of the suites makes of what pytest left behind."""

from pathlib import Path

import pytest

from tests.suites import Count, read_report

PASSED = '<testcase classname="tests.unit.test_a" name="test_one"/>'
FAILED = (
    '<testcase classname="tests.unit.test_a" name="test_two">'
    '<failure message="short">first line\nE  assert 1 == 2\ntest_a.py:7: AssertionError</failure>'
    "</testcase>"
)
BROKEN = (
    '<testcase classname="tests.unit.test_a" name="test_three">'
    '<error message="fixture">E  OSError: no space\nconftest.py:3: OSError</error></testcase>'
)


def report(folder: Path, *cases: str, failures: int = 0, errors: int = 0) -> Path:
    path = folder / "unit.xml"
    path.write_text(
        f'<testsuites><testsuite tests="{len(cases)}" failures="{failures}" errors="{errors}" '
        f'skipped="0">{"".join(cases)}</testsuite></testsuites>'
    )
    return path


def test_a_green_report_is_counted(tmp_path: Path) -> None:
    count = read_report(report(tmp_path, PASSED), 0, name="unit")
    assert count == Count(passed=1, failed=0, skipped=0)
    assert str(count) == "1 passed, 0 failed, 0 skipped"


def test_each_failure_is_told_with_its_name_and_the_end_of_what_was_said(tmp_path: Path) -> None:
    count = read_report(
        report(tmp_path, PASSED, FAILED, BROKEN, failures=1, errors=1), 1, name="unit"
    )
    assert (count.passed, count.failed) == (1, 2)
    first, second = count.failures
    assert first.startswith("== failed: unit: tests.unit.test_a::test_two\n")
    assert first.endswith("    E  assert 1 == 2\n    test_a.py:7: AssertionError")
    assert "test_three" in second
    assert "OSError: no space" in second


@pytest.mark.parametrize("status", [2, 5, -9])
def test_a_suite_that_died_or_ran_nothing_has_failed(tmp_path: Path, status: int) -> None:
    for path in (tmp_path / "missing.xml", report(tmp_path)):
        count = read_report(path, status, name="unit")
        assert count.failed == 1
        assert f"status {status}" in count.failures[0]
