"""No case without its test."""

import importlib
import pkgutil

import pytest

from tests.services import cases
from tests.services.cases.table import CASES

TESTS = {
    name: function
    for module in pkgutil.iter_modules(cases.__path__)
    for name, function in vars(importlib.import_module(f"{cases.__name__}.{module.name}")).items()
    if name.startswith("test_")
}


def test_the_numbers_are_1_to_44() -> None:
    assert list(CASES) == list(range(1, 45))


@pytest.mark.parametrize("number", CASES)
def test_a_case_has_a_test_named_by_its_sentence(number: int) -> None:
    name = f"test_{CASES[number].replace(' ', '_')}"
    assert name in TESTS, f"case {number} has no test"
    assert (TESTS[name].__doc__ or "").startswith(f"Case {number}."), f"{name} must say its number"
