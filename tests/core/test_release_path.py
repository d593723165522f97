"""Paths of files in releases."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.errors import InvalidValue
from modpkg.core.release_path import safe_path
from tests.raising import raises

UNSAFE = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "./a",
    "a/.",
    "C:/x",
    "a\\b",
    "a\x00b",
    "a\nb",
    "con",
    "a/NUL.txt",
    "aux.json",
    "con .json",
    "lpt\u00b9.txt",
    "CONOUT$",
    "com1/config.json",
    "a /b",
    "a.",
    "x" * 600,
]


@pytest.mark.parametrize("path", UNSAFE)
def test_hostile_paths_are_refused(path: str) -> None:
    with raises("M105"):
        safe_path(path)


@given(st.text(max_size=30))
def test_an_accepted_path_stays_inside(text: str) -> None:
    try:
        path = safe_path(text)
    except InvalidValue:
        return
    joined = os.path.normpath(os.path.join("/base/folder", path))
    assert joined.startswith("/base/folder/")
