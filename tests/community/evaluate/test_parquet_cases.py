"""Parquet files that lie about their pages: what they claim is bounded before it is unpacked."""

from __future__ import annotations

import io
import struct
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet as pq

from modpkg.community.evaluate import parquet_cases
from modpkg.community.evaluate.cases import Case, Column, read_cases
from tests.community.evaluate.parquet_bytes import (
    Page,
    dictionary,
    group,
    leaf,
    page,
    parquet,
    texts,
    varint,
    zigzag,
)
from tests.raising import raises

TEXT = [group(b"root", 1), leaf(b"text", 6)]
LISTS = [group(b"root", 1), leaf(b"text", 6, 2)]
ONE_TEXT = dictionary(texts(b"x"), 1)


def read(data: bytes, kind: Any = "text") -> list[Case]:
    return read_cases(data, "c.parquet", {"text": Column(kind)})


def of_texts(*pages: Page, rows: int = 1, **more: Any) -> bytes:
    return parquet(TEXT, [b"text"], list(pages), rows=rows, **more)


def run(count: int) -> Page:
    """Return a page with one text so many times, in a few bytes."""
    return page(b"\1" + varint(count << 1) + b"\0", count, encoding=8)


def lists(count: int, values: int) -> bytes:
    """Return a file of one list of a text so many times; its footer says ``values``."""
    levels = [varint(1 << 1) + b"\0" + varint((count - 1) << 1) + b"\1", varint(count << 1) + b"\1"]
    body = b"".join(struct.pack("<I", len(level)) + level for level in levels)
    body += b"\1" + varint(count << 1) + b"\0"
    pages = [ONE_TEXT, page(body, count, encoding=8)]
    return parquet(LISTS, [b"text"], pages, rows=1, values=values)


def deltas(count: int) -> bytes:
    """Return lengths of texts: one block of deltas, all nothing."""
    return varint(count) + varint(1) + varint(count) + zigzag(0) + zigzag(0) + b"\0"


def test_what_the_writer_makes_is_read() -> None:
    assert read(of_texts(page(texts(b"a", b"bc"), 2), rows=2)) == [{"text": "a"}, {"text": "bc"}]
    assert read(of_texts(ONE_TEXT, run(1000), rows=1000)) == [{"text": "x"}] * 1000
    assert read(lists(3, 3), "texts") == [{"text": ["x"] * 3}]


MANY = "c.parquet: it unpacks to more than 268.4 MB; split it up"
BROKEN = "it cannot be read as Parquet"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (of_texts(page(texts(bytes(300_000_000)), 1)), MANY),  # the footer says 100 bytes
        (of_texts(*[page(texts(bytes(90_000_000)), 1)] * 3, rows=3), MANY),
        (of_texts(page(texts(b"x"), 1, size=2**31 - 1)), MANY),
        (of_texts(page(texts(b"x"), 1, size=2**27)), BROKEN),
        (of_texts(page(texts(bytes(300_000_000)), 1, size=9)), BROKEN),
        (of_texts(page(texts(b"x"), 1, size=-1)), "a page has a broken header"),
        (of_texts(dictionary(texts(b"x"), 10**9), run(1)), "more values than bytes"),
        (of_texts(dictionary(texts(bytes(99)), 1, size=2**31 - 1), run(1)), MANY),
        (of_texts(dictionary(texts(bytes(40 << 20)), 1), run(1)), "a dictionary of more than"),
        (of_texts(ONE_TEXT, run(10**9)), "its pages have more values than its footer says"),
        (of_texts(ONE_TEXT, run(10**9), values=10**9), "it has more than 5,000,000 values"),
        (of_texts(ONE_TEXT, run(10**9), rows=10**9), "it has over 1000000 cases"),
        (lists(10**8, 1), "its pages have more values than its footer says"),
        (lists(10**8, 10**8), "it has more than 5,000,000 values"),
        (of_texts(page(deltas(2**28), 1, encoding=6)), "it uses DELTA_LENGTH_BYTE_ARRAY; write"),
        (of_texts(page(deltas(2**28), 1, encoding=7)), "it uses DELTA_BYTE_ARRAY; write"),
        (of_texts(Page({1: 0, 2: 9, 3: 2**30, 5: {1: 1, 2: 0}}, b"")), "beyond its column"),
        (of_texts(Page({1: 0, 2: 9, 3: 0, 5: {1: 1, 2: 0}, 15: bytes(2 << 20)}, b"")), "broken"),
        (of_texts(Page({1: 0, 15: {1: {1: {1: {1: {1: {1: {1: {1: {1: {1: 1}}}}}}}}}}}, b"")),
         "a header of too many levels"),
        (of_texts(Page({1: 0, 2: 1, 3: 0}, b"")), "a page has a broken header"),
        (b"PAR1" + struct.pack("<I", 9 << 20) + b"PAR1", "no footer"),
        (b"PAR1" + bytes(9 << 20) + struct.pack("<I", 9 << 20) + b"PAR1", "a footer of more than"),
        (b"PAR1", "no footer"),
        (
            parquet([group(b"root", 1), *[group(b"text", 1)] * 5000, leaf(b"x", 6)],
                    [b"text"] * 5000 + [b"x"], [page(texts(b"a"), 1)], rows=1),
            BROKEN,
        ),
    ],
)  # fmt: skip
def test_a_file_that_claims_too_much_is_refused(data: bytes, reason: str) -> None:
    with raises("M712") as caught:
        read(data)
    assert reason in str(caught.value)


def written(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


def test_too_many_pages_and_row_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"text": ["a", "b"] * 100, "more": [1] * 200}
    data = written(rows, row_group_size=10)
    assert len(read(data)) == 200
    monkeypatch.setattr(parquet_cases, "CASES_PAGES", 39)
    with raises("M712", match="it has more than 39 pages"):
        read(data)
    monkeypatch.setattr(parquet_cases, "CASES_CHUNKS", 39)
    with raises("M712", match="it has more than 39 columns of row groups"):
        read(data)


def test_columns_that_are_not_read_cost_nothing() -> None:
    data = written({"text": ["a"], **{f"c{at}": ["x"] for at in range(100)}})
    assert read(data) == [{"text": "a"}]
    with raises("M712", match=r"'text' is missing \(it has c0, c1, c2"):
        read(written({f"c{at}": ["x"] for at in range(30)}))


def test_tables_in_a_column_are_refused() -> None:
    for value in ({"a": "b"}, [{"a": "b"}], [["a"]]):
        with raises("M712", match="column 'text' is of (struct|list).*, and is to be a text"):
            read(written({"text": [value]}))


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_what_pyarrow_writes_is_read(codec: str, version: str) -> None:
    rows = [{"text": [f"text {at % 7}", "é" * (at + 1)]} for at in range(300)]
    data = written(
        {"text": [row["text"] for row in rows]},
        compression=codec,
        data_page_version=version,
        data_page_size=100,
        write_batch_size=20,
        write_page_index=version == "2.0",
        dictionary_pagesize_limit=1000,
    )
    assert read(data, "texts") == rows


def test_headers_of_every_kind_are_skipped() -> None:
    """As Thrift allows: doubles, sets, maps and booleans in fields that nobody knows."""
    more = b"\x17" + bytes(8) + b"\x1a\x21\0\1" + b"\x1b\1\x85\1a\2" + b"\x1b\0" + b"\x11\x13\7"
    one = page(texts(b"a"), 1)._replace(more=more)
    assert read(of_texts(one)) == [{"text": "a"}]
