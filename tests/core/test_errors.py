"""Errors: every code has a sentence and a class, and is raised with the values that it needs."""

from __future__ import annotations

import ast
import pickle
import re
import string
from pathlib import Path

import modpkg
from modpkg.core import errors
from modpkg.core.errors import CLASSES, InvalidValue, ModpkgError
from modpkg.core.messages import MESSAGES

PACKAGE = Path(modpkg.__file__).parent


def raised() -> list[tuple[str, str, str, set[str], bool]]:
    """Return where each error is made: place, class, code, values, and whether others follow."""
    found = []
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "registry_spec").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.args
                and isinstance(node.args[0], ast.Constant)
                and re.fullmatch(r"M\d{3}", str(node.args[0].value))
            ):
                names = {keyword.arg for keyword in node.keywords if keyword.arg}
                spread = any(keyword.arg is None for keyword in node.keywords)
                place = f"{path.name}:{node.lineno}"
                found.append((place, node.func.id, str(node.args[0].value), names, spread))
    return found


def fields(code: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(MESSAGES[code]) if name}


def test_every_code_has_a_class_and_a_sentence() -> None:
    assert set(CLASSES) == set(MESSAGES)
    assert all(re.fullmatch(r"M\d{3}", code) for code in MESSAGES)


def test_every_code_is_raised_by_its_class_with_what_its_sentence_names() -> None:
    sites = raised()
    assert len(sites) > 300
    assert {code for _, _, code, _, _ in sites} == set(MESSAGES)
    wrong = [
        place
        for place, kind, code, names, spread in sites
        if CLASSES[code].__name__ != kind
        or not (names <= fields(code) if spread else names >= fields(code))
    ]
    assert wrong == []


def test_few_classes_and_each_in_use() -> None:
    classes = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ModpkgError)
    } - {ModpkgError}
    assert classes == set(CLASSES.values())
    assert len(classes) <= 27


def test_values_stay_available() -> None:
    error = InvalidValue("M101", name="a b")
    assert (error.code, error.values) == ("M101", {"name": "a b"})
    assert "'a b' is not a module name" in str(error)


def test_errors_travel_between_processes() -> None:
    error = InvalidValue("M101", name="a b")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.code, str(again)) == (InvalidValue, "M101", str(error))


def test_a_sentence_is_short_whatever_values_a_file_has() -> None:
    word = str(InvalidValue("M101", name="x" * 100_000))
    assert len(word) < 1500
    assert word.endswith("letter or digit.")
    text = str(InvalidValue("M101", name="x " * 100_000))
    assert len(text) < 21_000
    assert text.endswith("letter or digit.")
