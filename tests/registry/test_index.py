"""Index files: read at once or line by line, the meaning is the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.records import IndexLine, canonical_json
from modpkg.registry.index import parse_index


def written(version: int, requires: str = "n>=1") -> bytes:
    line = IndexLine(
        name="m",
        version=f"1.{version}",
        kind="collection",
        requires=[requires],
        release="sha256:" + "0" * 64,
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
}


@given(st.lists(st.sampled_from(sorted(SHAPES)), max_size=6), st.booleans())
def test_an_index_file_parses_like_its_single_lines(shapes: list[str], ended: bool) -> None:
    text = b"\n".join(SHAPES[shape](at) for at, shape in enumerate(shapes)) + b"\n" * ended
    warnings: list[str] = []
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
