"""Index files: read at once or line by line, the meaning is the same."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.records import IndexLine, canonical_json
from modpkg.registry import index
from modpkg.registry.index import format_index, parse_index
from tests.raising import raises

DIGEST = "sha256:" + "0" * 64


def written(version: int, requires: str = "n>=1") -> bytes:
    line = IndexLine(
        name="m",
        version=f"1.{version}",
        kind="collection",
        requires=[requires],
        release=DIGEST,
    )
    return canonical_json(line)


SHAPES = {
    "good": written,
    "bad requirement": lambda version: written(version, "n>>1"),
    "two on a line": lambda version: written(version) + written(version + 1000),
    "one on two lines": lambda version: written(version).replace(b",", b",\n", 1),
    "half": lambda version: written(version)[:-5],
    "blank": lambda version: b"",
    "spaces": lambda version: b"  ",
    "carriage return": lambda version: written(version) + b"\r",
    "another name": lambda version: written(version).replace(b'"m"', b'"o"'),
    "newer": lambda version: written(version).replace(b'"spec":1', b'"spec":2'),
    "not UTF-8": lambda version: written(version).replace(b"n>", b"\xff>"),
    "short digest": lambda version: written(version).replace(b"0000", b"000"),
    "long digest": lambda version: written(version).replace(b"0" * 64, b"0" * 64 + b"0" * 16),
    "two digests": lambda version: changed(version, provides=2 * DIGEST)[:-1],
    "no digest": lambda version: changed(version, expects={"n": DIGEST[::-1]})[:-1],
    "cut digest": lambda version: changed(version, provides=DIGEST[:-1] + "\n")[:-1],
}


@given(
    st.lists(st.sampled_from(sorted(SHAPES)), max_size=6),
    st.booleans(),
    st.sampled_from([1, 300, 1 << 20]),
)
def test_an_index_file_parses_like_its_single_lines(
    shapes: list[str], ended: bool, part: int
) -> None:
    text = b"\n".join(SHAPES[shape](at) for at, shape in enumerate(shapes)) + b"\n" * ended
    warnings: list[str] = []
    with patch.object(index, "_PART", part):
        found = parse_index(text, "m", "r", warnings.append)
    alone: list[IndexLine] = []
    expected: list[str] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        alone += parse_index(
            line, "m", "r", lambda it, at=number: expected.append(it.replace(":1:", f":{at}:", 1))
        )
    assert found == alone
    if len(expected) > 1:
        others = len(expected) - 1
        expected = [
            f"{expected[0]}; {others} other line{'s' * (others > 1)} of the file skipped too"
        ]
    assert warnings == expected


def changed(version: int, **fields: Any) -> bytes:
    return json.dumps(json.loads(written(version)) | fields).encode() + b"\n"


@pytest.mark.parametrize(
    ("fields", "shown", "told"),
    [
        ({"yanked": "bad\x1b[2J"}, "bad\\x1b[2J", "its 'yanked' has the character U+001B, which"),
        ({"yanked": "a\u202eb"}, "a\\u202eb", "its 'yanked' has the character U+202E, which"),
        ({"yanked": "a\nb"}, "a b", "its 'yanked' has the character U+000A, which is written out"),
        ({"yanked": "x" * 3000}, "x" * 1999 + "…", "its 'yanked' is longer than 2000 characters"),
        (
            {"published": "2026\x07", "yanked": "no"},
            "no",
            "its 'published' has the character U+0007",
        ),
    ],
)
def test_a_text_that_is_not_clean_costs_no_release(
    fields: dict[str, Any], shown: str, told: str
) -> None:
    warnings: list[str] = []
    data = written(1) + b"\n" + changed(2, **fields) + written(3) + b"\n"
    found = parse_index(data, "m", "r", warnings.append)
    assert [line.version for line in found] == ["1.1", "1.2", "1.3"]
    assert found[1].yanked == shown
    (warning,) = warnings
    assert warning.startswith(f"r/index/m.jsonl:2: {told}")
    warnings.clear()
    parse_index(data + changed(4, **fields) + changed(5, **fields), "m", "r", warnings.append)
    assert warnings == [f"{warning}; 2 other lines of the file have such texts too"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"yanked": True}, "its 'yanked' is true or false, and has to be a text or null"),
        ({"size": "1"}, "its 'size' is a text, and has to be a number"),
        ({"release": "sha256:x"}, "its 'release' is not a digest"),
        ({"requires": {"n": "1"}}, "its 'requires' is a table, and has to be a list"),
        ({"kind": "robot", "yanked": "\x1b"}, "its 'kind' is 'robot', which is not a known value"),
        ({"name": "o" * 10**6}, f"its name is {'o' * 100!r}"),
        ({"requires": ["n"] * 10**6}, "it is longer than 4.2 MB"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_in_words(fields: dict[str, Any], told: str) -> None:
    warnings: list[str] = []
    found = parse_index(written(1) + b"\n" + changed(2, **fields), "m", "r", warnings.append)
    assert len(found) == 1
    assert warnings == [f"r/index/m.jsonl:2: skipped, {told}"]


SAID_LATER = ("yanked", "deprecated", "successor", "removed")


@pytest.mark.parametrize("field", SAID_LATER)
def test_what_is_said_of_a_release_later_is_shown_safely(field: str) -> None:
    warnings: list[str] = []
    data = written(1) + b"\n" + changed(2, **{field: "two\nlines\x1b[2J"}) + written(3) + b"\n"
    found = parse_index(data, "m", "r", warnings.append)
    assert [line.version for line in found] == ["1.1", "1.2", "1.3"]
    assert "\x1b" not in getattr(found[1], field)
    assert f"its {field!r} has the character U+000A" in warnings[0]


def test_what_is_said_later_is_left_out_where_nothing_is_said() -> None:
    (line,) = parse_index(written(1) + b"\n", "m", "r")
    assert not {"deprecated", "successor", "removed"} & json.loads(canonical_json(line)).keys()
    said = msgspec.structs.replace(line, deprecated="", successor="n>=2")
    assert parse_index(canonical_json(said) + b"\n", "m", "r") == [said]


def test_a_removed_release_counts_as_yanked() -> None:
    (line,) = parse_index(changed(1, removed="leaked") + b"\n", "m", "r")
    assert line.yanked == "leaked"


def test_what_has_a_pattern_is_left_out_where_lines_are_read_together() -> None:
    """Else it is matched twice, or not at all."""
    fields = msgspec.inspect.type_info(IndexLine).fields  # type: ignore[attr-defined]
    matched = {field.name for field in fields if "pattern='" in repr(field.type)}
    together = msgspec.inspect.type_info(index._Unmatched).fields  # type: ignore[attr-defined]
    assert matched == {"provides", "expects", "release", "published", *SAID_LATER}
    assert not any("pattern='" in repr(field.type) for field in together)


def test_a_line_without_a_release_is_told_in_words() -> None:
    warnings: list[str] = []
    assert parse_index(b'{"name":"m","version":"1","kind":"base"}', "m", "r", warnings.append) == []
    assert warnings == ["r/index/m.jsonl:1: skipped, it has no 'release'"]


def test_two_lines_of_one_version_are_found_in_any_part() -> None:
    with (
        patch.object(index, "_PART", 1),
        raises("M209", match="lines 1 and 3 are both of version 1.1"),
    ):
        parse_index(b"\n".join(map(written, (1, 2, 1))), "m", "r")


def test_requirements_are_counted_while_they_are_read() -> None:
    counts: list[int] = []
    with patch.object(index, "_PART", 1):
        parse_index(b"\n".join(map(written, range(3))), "m", "r", None, counts.append)
    assert counts == [1, 2, 3]


@given(
    st.lists(
        st.one_of(
            st.just(DIGEST),
            st.text("sha256:0fF", min_size=71, max_size=71),
            st.from_regex("[sh:0]{0,3}sha256:[0-9a-f]{64}[:0]{0,3}", fullmatch=True),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_digests_are_told_from_other_texts(texts: list[str]) -> None:
    expected = all(re.fullmatch("sha256:[0-9a-f]{64}", text) is not None for text in texts)
    assert index._are_digests(texts) == expected


@pytest.mark.parametrize("item", [b"[],", b"{},", b'{"a":0},'])
@pytest.mark.parametrize("name", ["words", "other"])
def test_a_malformed_line_takes_no_more_memory_than_its_bytes(item: bytes, name: str) -> None:
    """Values decoded of it would take 25 times as much; of another name, it is malformed."""
    values = item * ((1 << 20) // len(item))
    raw = b'{"name":"words","version":"1.0","x":[' + values + b"0]}\n"
    kept = IndexLine(name=name, version="1.1", kind="suite", release=f"sha256:{64 * 'a'}")
    parse_index(raw, name, "r", lambda _: None)  # what is imported once
    tracemalloc.start()
    try:
        assert parse_index(raw, name, "r", lambda _: None) == []
        format_index([kept], raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(raw)
