"""Cases: three formats, and files that do not match their suffix."""

from __future__ import annotations

import io
import json
import math
import sys
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from modpkg.community.evaluate import cases as module
from modpkg.community.evaluate.cases import Column, definition_digest, read_cases
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import TestError
from modpkg.manifest.schema import Test as Declared
from tests.raising import raises

COLUMNS = {"text": Column("text"), "score": Column("number"), "tags": Column("texts", True)}
ROWS: list[dict[str, Any]] = [
    {"text": 'a, "b"\nc', "score": 1.5, "tags": ["x"]},
    {"text": "é 漢", "score": -2.0, "tags": ["y"]},
]


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    lines = ["text,score,tags,more"]
    for row in rows:
        text = row["text"].replace('"', '""')
        lines.append(f'"{text}",{row["score"]},{row["tags"][0]},')
    return "\r\n".join(lines).encode()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "\n\n".join(json.dumps(row) for row in rows).encode()


def test_three_formats_are_equivalent() -> None:
    for name, data in (
        ("c.jsonl", as_jsonl(ROWS)),
        ("c.csv", as_csv(ROWS)),
        ("c.parquet", as_parquet(ROWS)),
        ("C.JSONL", b"\xef\xbb\xbf" + as_jsonl(ROWS)),
    ):
        assert read_cases(data, name, COLUMNS) == ROWS, name


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(st.tuples(texts.filter(str.strip), st.floats(-1e9, 1e9)), min_size=1, max_size=5))
def test_jsonl_and_parquet_round_trip(rows: list[tuple[str, float]]) -> None:
    wanted = [{"text": text, "score": score} for text, score in rows]
    assert read_cases(as_jsonl(wanted), "c.jsonl", COLUMNS) == wanted
    assert read_cases(as_parquet(wanted), "c.parquet", COLUMNS) == wanted


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("c.txt", b"x", "c.txt: its name must end with .jsonl, .csv or .parquet"),
        ("c", b"x", "c: its name must end with"),
        ("c.jsonl", as_parquet(ROWS), "c.jsonl: it is Parquet, not jsonl"),
        ("c.csv", b"PK\x03\x04..", "c.csv: it is a zip archive"),
        ("c.jsonl", b"\x80\x04\x95", "c.jsonl: it is a pickle"),
        ("c.parquet", as_jsonl(ROWS), "c.parquet: it cannot be read as Parquet"),
        ("c.parquet", as_parquet(ROWS)[:-9], "c.parquet: it cannot be read as Parquet"),
        ("c.jsonl", b"", "c.jsonl: it has no cases"),
        ("c.jsonl", b"\n \n", "c.jsonl: it has no cases"),
        ("c.csv", b"text,score\n", "c.csv: it has no cases"),
        ("c.jsonl", as_csv(ROWS), "c.jsonl:1: not a JSON object"),
        ("c.jsonl", b'{"text": "a", "score": 1}\n["a", 1]', "c.jsonl:2: not a JSON object"),
        ("c.jsonl", b'{"text": "a", "score": 1}\n{"text": "\xff"}', "c.jsonl:2: it is not UTF-8"),
        ("c.csv", b"text,score\na\0b,1\n", "c.csv:2: it contains NUL"),
        ("c.csv", b"text,text\na,1\n", "c.csv:1: a column is named twice"),
        ("c.csv", b"text,score\na,1,2\n", "c.csv:2: it has 3 values for 2 columns"),
        ("c.csv", b'text,score\n"a,1\n', "not CSV"),
        ("c.jsonl", b'{"score": 1}', "c.jsonl:1: column 'text' is missing (it has score)"),
        (
            "c.jsonl",
            b'{"text": " ", "score": 1}',
            "c.jsonl:1: column 'text' is empty or not text",
        ),
        (
            "c.jsonl",
            b'{"text": 3, "score": 1}',
            "c.jsonl:1: column 'text' is empty or not text",
        ),
        ("c.jsonl", b'{"text": "a", "score": "b"}', "column 'score' is not a finite number"),
        ("c.jsonl", b'{"text": "a", "score": "nan"}', "column 'score' is not a finite number"),
        ("c.jsonl", b'{"text": "a", "score": true}', "column 'score' is not a finite number"),
        ("c.jsonl", b'{"text": "a", "score": 1, "tags": []}', "column 'tags' is empty"),
        ("c.jsonl", b"[" * 100_000, "c.jsonl:1: not a JSON object"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(name: str, data: bytes, reason: str) -> None:
    with raises("M712") as caught:
        read_cases(data, name, COLUMNS)
    assert reason in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from(["c.jsonl", "c.csv", "c.parquet"]))
def test_arbitrary_bytes_are_read_or_refused(data: bytes, name: str) -> None:
    try:
        found = read_cases(data, name, COLUMNS)
    except TestError:
        return
    assert all(math.isfinite(case["score"]) and case["text"].strip() for case in found)


def test_cases_over_the_limits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEST_CASES", 2)
    for name, data in (
        ("c.jsonl", as_jsonl(ROWS * 2)),
        ("c.csv", as_csv(ROWS * 2)),
        ("c.parquet", as_parquet(ROWS * 2)),
    ):
        with raises("M712", match="over 2 cases"):
            read_cases(data, name, COLUMNS)
    monkeypatch.setattr(module, "CASES_BYTES", 3)
    with raises("M712", match="the limit is 3 B"):
        read_cases(b"four", "c.jsonl", COLUMNS)
    monkeypatch.undo()
    monkeypatch.setattr(module, "CASE_CHARACTERS", 3)
    with raises("M712", match="longer than 3 characters"):
        read_cases(b'{"text": "four"}', "c.jsonl", {"text": Column("text")})


def test_a_text_that_parquet_repeats_takes_its_memory_once() -> None:
    texts = pyarrow.DictionaryArray.from_arrays([0] * 5000, ["x" * 100_000])
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), file)
    cases = read_cases(file.getvalue(), "c.parquet", {"text": Column("text")})
    assert len(cases) == 5000
    assert len({id(case["text"]) for case in cases}) <= 20  # one for each batch of rows


def test_parquet_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modpkg.community.evaluate.parquet_cases.CASES_UNPACKED_BYTES", 2_000_000)
    file = io.BytesIO()
    table = pyarrow.table({"text": ["x" * 3_000_000]})
    parquet.write_table(table, file, compression="zstd", use_dictionary=False)
    assert len(file.getvalue()) < 10_000
    with raises("M712", match="it unpacks to more than 2.0 MB"):
        read_cases(file.getvalue(), "c.parquet", {"text": Column("text")})


def test_parquet_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with raises("M703", match=r"pip install 'modpkg\[parquet\]'"):
        read_cases(as_parquet(ROWS), "c.parquet", COLUMNS)


def test_a_tests_digest_is_of_its_definition_and_cases() -> None:
    one, two = digest_bytes(b"1"), digest_bytes(b"2")

    def of(bytes_: Any = one, **more: Any) -> str:
        fields = {"name": "t", "cases": "c.jsonl", "metric": "accuracy", **more}
        return definition_digest(Declared(**fields), bytes_)

    assert of() == of(name="another") == of(time_limit=1.0)
    different = [of(two), of(metric="f1_macro"), of(at_least=0.5), of(at_most=0.5), of(seed=1)]
    assert len({of(), of(tolerance=0.1), *different}) == 7
