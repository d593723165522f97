"""The table of methods: complete, documented, and light to import."""

from __future__ import annotations

from pathlib import Path

from modpkg.adapters import METHODS, UNSUPPORTED, methods
from modpkg.compose.operators import OPERATORS

DOCS = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()


def test_every_file_of_a_method_is_in_the_table() -> None:
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py")} - {"__init__"}
    modules = {method.bind.__module__.rpartition(".")[2] for method in METHODS.values()}
    assert files == modules


def test_a_type_is_supported_or_not() -> None:
    assert METHODS.keys() & UNSUPPORTED.keys() == set()


def test_every_type_is_documented() -> None:
    missing = [name for name in (*METHODS, *UNSUPPORTED) if f"`{name}`" not in DOCS]
    assert missing == []


def test_every_method_has_its_operator_and_formulas() -> None:
    formulas = [formula for method in METHODS.values() for formula in method.formulas]
    assert len({formula.name for formula in formulas}) == len(formulas)
    assert {formula.name for formula in formulas} <= OPERATORS.keys()
    assert {method.operator for method in METHODS.values()} <= OPERATORS.keys()
    assert all(OPERATORS[formula.name].delta is formula.delta for formula in formulas)
