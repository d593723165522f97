"""Where keys stand: right on awkward TOML, and on any TOML with a key planted in it."""

from __future__ import annotations

from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from modpkg.toml.positions import OverLimit, scan
from tests.manifest.strategies import steady, toml, toml_values

AWKWARD = '''\
# [not.a.table] and not_a = "key"
title = "a [bracket] # no comment" # [nor.this]
"quoted key" = 1
'literal.key' = 2
"esc\\u0061ped" = 3
dotted . "k.e.y" .last = 4
multi = """
[inner]
x = 1 \\"""
""""
after_multi = 5
literal = \'\'\'
y = "unclosed
\'\'\'\'
after_literal = 6
array = [ # comment ]
  1, # [2]
  "],",
  { a = 1, b.c = [
     true ] },
]
[table.sub] # comment
key = 7
[table]
own = 8
[[list]]
x = 1
[[ list ]]
x = 2
[list.child]
y = 3
[[list.deep]]
z = 4
  [[list.deep]]
  z = 5
'''

WHERE = [
    (("title",), 2),
    (("quoted key",), 3),
    (("literal.key",), 4),
    (("escaped",), 5),
    (("dotted",), 6),
    (("dotted", "k.e.y", "last"), 6),
    (("multi",), 7),
    (("after_multi",), 11),
    (("literal",), 12),
    (("after_literal",), 15),
    (("array",), 16),
    (("array", 0), 17),
    (("array", 1), 18),
    (("array", 2), 19),
    (("array", 2, "b", "c"), 19),
    (("array", 2, "b", "c", 0), 20),
    (("table", "sub"), 22),
    (("table", "sub", "key"), 23),
    (("table",), 24),
    (("table", "own"), 25),
    (("list",), 26),
    (("list", 0), 26),
    (("list", 0, "x"), 27),
    (("list", 1), 28),
    (("list", 1, "x"), 29),
    (("list", 1, "child", "y"), 31),
    (("list", 1, "deep", 0, "z"), 33),
    (("list", 1, "deep", 1, "z"), 35),
]


@pytest.mark.parametrize(("path", "line"), WHERE)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_key_is_found_on_its_line(path: tuple[str | int, ...], line: int, newline: str) -> None:
    tomli.loads(AWKWARD)
    assert scan(AWKWARD.replace("\n", newline)).line(path) == line


def test_a_key_without_position_is_placed_at_the_table_around_it() -> None:
    places = scan("[module]\nname = 1\n\n[[tests]]\n")
    assert places.line(("module", "license")) == 1
    assert places.line(("tests", 0, "metric")) == 4
    assert places.line(("nowhere",)) == 1


@pytest.mark.parametrize("text", ["x = " + "[" * 40, "x=" + "{a=" * 40, "a." * 40 + "b = 1"])
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(OverLimit, match="more than 32 deep"):
        scan(text)


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Every path in the data."""
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= paths_of(item, (*path, key))
    if isinstance(value, list):
        for position, item in enumerate(value):
            found |= paths_of(item, (*path, position))
    return found


statements = st.lists(st.tuples(st.text(max_size=6), toml_values), max_size=6)


@given(statements, statements, toml_values, st.sampled_from(["\n", "\r\n"]), st.booleans())
@steady
def test_a_key_is_found_in_any_context(
    before: list[tuple[str, Any]],
    after: list[tuple[str, Any]],
    value: Any,
    newline: str,
    tables: bool,
) -> None:
    lines = [f"{toml(f'b{n}{key}')} = {toml(item)} # ]" for n, (key, item) in enumerate(before)]
    lines.append("[[planted.here]]" if tables else "[planted.here]")
    planted = len(lines) + 1
    lines.append(f"key = {toml(value)}")
    lines += [f"{toml(f'a{n}{key}')} = {toml(item)}" for n, (key, item) in enumerate(after)]
    text = newline.join(lines)
    places = scan(text)
    path = ("planted", "here", *((0,) if tables else ()), "key")
    assert places.offsets[path] == text.index(f"{newline}key = ") + len(newline)
    assert places.line(path) == planted
    assert paths_of(tomli.loads(text)) == set(places.offsets)


@given(st.text(st.sampled_from("ab=.,[]{}#\"'\\\n\r 1-_:"), max_size=60))
@steady
def test_everything_that_tomli_accepts_is_scanned(text: str) -> None:
    places = scan(text)
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    assert paths_of(data) == set(places.offsets)
