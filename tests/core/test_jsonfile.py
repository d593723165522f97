"""JSON as Python reads and writes it: what transformers, PEFT and editors leave in a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from modpkg.core.jsonfile import json_text, parse_json, read_json
from tests.raising import raises


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [0.0, Infinity], "b": -Infinity}', {"a": [0.0, math.inf], "b": -math.inf}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": Infinity}', {"a": math.inf}),
        (b'{"a": {"__float__": "Infinity"}}', {"a": {"__float__": "Infinity"}}),
    ],
)
def test_json_that_python_reads(text: bytes, value: object, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(text)
    assert read_json(tmp_path / "c.json") == value


def test_nan_is_read() -> None:
    assert math.isnan(parse_json(b'{"a": NaN}', "c.json")["a"])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xef\xbb\xbf",
        b"[1]",
        b"Infinity",
        b'{"a": 1',
        b'{"a": inf}',
        b'{"a": "\xff"}',
        b'{"a": Infinity, "b": "\\ud800"}',
        b'{"a": ' + b"[" * 100_000,
        b'{"a": Infinity, "b": ' + b"9" * 5000 + b"}",
    ],
)
def test_other_text_is_refused(text: bytes) -> None:
    with raises("M209", match=r"c\.json"):
        parse_json(text, "c.json")


def test_what_is_written_is_read_again() -> None:
    value = {"b": [math.inf, -math.inf], "a": "ä"}
    assert parse_json(json_text(value), "c.json") == value
    assert json.loads(json_text(value)) == value
    assert json_text({"b": 1, "a": [1.5]}) == b'{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}'
