"""Errors: every one has a code of its own and a sentence with a remedy."""

from __future__ import annotations

import re

from modpkg.core import errors


def all_errors() -> list[type[errors.ModpkgError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type)
        and issubclass(value, errors.ModpkgError)
        and value is not errors.ModpkgError
    ]


def test_codes_are_unique_and_well_formed() -> None:
    codes = [error.code for error in all_errors()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"M\d{3}", code) for code in codes)


def test_every_error_is_used() -> None:
    from pathlib import Path

    package = Path(errors.__file__).parent
    text = "".join(p.read_text() for p in package.rglob("*.py") if p.name != "errors.py")
    unused = [e.__name__ for e in all_errors() if not re.search(rf"\b{e.__name__}\b", text)]
    assert unused == []


def test_values_stay_available() -> None:
    error = errors.BadName(name="a b")
    assert error.values == {"name": "a b"}
    assert "'a b' is not a module name" in str(error)
