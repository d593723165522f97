"""Cases: the inputs and expected outputs of a test, a line of JSONL or CSV or a row of Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import msgspec
from msgspec import Struct

from modpkg.community.evaluate.parquet_cases import (
    Row,
    check_footer,
    check_unpacked,
    parquet_rows,
)
from modpkg.core.bounds import CASE_CHARACTERS, CASE_VALUES, CASES_BYTES, TEST_CASES
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.errors import TestError
from modpkg.core.extras import import_extra
from modpkg.core.files import human_bytes
from modpkg.core.records import canonical_json
from modpkg.manifest.schema import Test

Case = dict[str, Any]
"""By column, a text, a number, or a list of texts."""

ColumnKind = Literal["text", "number", "texts"]


_MAGIC = (
    (b"PAR1", "Parquet"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x80", "a pickle"),
    (b"\x93NUMPY", "a numpy array"),
    (b"ARROW1", "Arrow"),
)


class Column(Struct, frozen=True):
    """A column that a metric reads."""

    kind: ColumnKind
    optional: bool = False


def definition_digest(test: Test, cases: Digest) -> Digest:
    """Return the digest of a test: of its definition but name and time limit, and its cases."""
    fields = {
        "cases": cases,
        "metric": test.metric,
        "at_least": test.at_least,
        "at_most": test.at_most,
        "tolerance": test.tolerance,
        "seed": test.seed,
    }
    return digest_bytes(canonical_json({key: v for key, v in fields.items() if v is not None}))


def read_cases(data: bytes, path: str, columns: Mapping[str, Column]) -> list[Case]:
    """Return the cases in a file's bytes; the suffix of ``path`` gives the format.

    Each case has the given columns, converted to their kind; others are left out. A number may be
    written as text, and a single text stands for a list of one.

    Raises:
        TestError: The content does not match the suffix, or a case lacks a column; names the line.
        MissingExtra: The file is Parquet, and pyarrow is not installed.
    """
    if len(data) > CASES_BYTES:
        size, most = human_bytes(len(data)), human_bytes(CASES_BYTES)
        raise TestError("M712", where=path, reason=f"it is {size}, and the limit is {most}")
    ending = path.rsplit(".", 1)[-1].lower() if "." in path else ""
    if ending not in _FORMATS:
        raise TestError(
            "M712", where=path, reason="its name must end with .jsonl, .csv or .parquet"
        )
    for magic, what in _MAGIC:
        if data.startswith(magic) and not (what == "Parquet" and ending == "parquet"):
            raise TestError("M712", where=path, reason=f"it is {what}, not {ending}")
    cases: list[Case] = []
    for where, row, names in _FORMATS[ending](data, path, columns):
        if len(cases) == TEST_CASES:
            raise TestError("M712", where=path, reason=f"it has over {TEST_CASES} cases")
        cases.append(_case(row, columns, where, names))
    if not cases:
        raise TestError("M712", where=path, reason="it has no cases")
    return cases


def _jsonl(data: bytes, path: str, columns: Mapping[str, Column]) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(io.StringIO(_text(data, path), newline="\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        if line.count(",") > CASE_VALUES:
            raise TestError("M712", where=where, reason=f"it has over {CASE_VALUES:,} values")
        try:
            row = decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise TestError(
                "M712", where=where, reason=f"not a JSON object: {decoding_reason(error)}"
            ) from None
        yield where, row, row


def _csv(data: bytes, path: str, columns: Mapping[str, Column]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(_text(data, path), newline=""), strict=True)
    try:
        head = next(reader, [])
        if len(set(head)) != len(head):
            raise TestError("M712", where=f"{path}:1", reason="a column is named twice")
        for values in reader:
            if not values:
                continue
            where = f"{path}:{reader.line_num}"
            if len(values) != len(head):
                reason = f"it has {len(values)} values for {len(head)} columns"
                raise TestError("M712", where=where, reason=reason)
            yield where, dict(zip(head, values, strict=True)), head
    except csv.Error as error:
        raise TestError(
            "M712", where=f"{path}:{reader.line_num}", reason=f"not CSV ({error})"
        ) from None


def _parquet(data: bytes, path: str, columns: Mapping[str, Column]) -> Iterator[Row]:
    pyarrow = import_extra("pyarrow", what="Reading Parquet", extra="parquet")
    parquet = import_extra(
        "pyarrow.parquet", what="Reading Parquet", package="pyarrow", extra="parquet"
    )
    check_footer(data, path)
    try:
        metadata = parquet.read_metadata(io.BytesIO(data))
        texts, at_once = check_unpacked(data, metadata, columns, path)
        file = parquet.ParquetFile(io.BytesIO(data), read_dictionary=texts)
        yield from parquet_rows(file, columns, path, at_once)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TestError(
            "M712", where=path, reason=f"it cannot be read as Parquet ({reason})"
        ) from None


_FORMATS: dict[str, Callable[[bytes, str, Mapping[str, Column]], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}


def _text(data: bytes, path: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TestError("M712", where=f"{path}:{line}", reason="it is not UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TestError("M712", where=f"{path}:{line}", reason="it contains NUL")
    return text


def _case(
    row: Mapping[str, Any], columns: Mapping[str, Column], where: str, names: Iterable[str]
) -> Case:
    case: Case = {}
    for name, column in columns.items():
        value = row.get(name)
        if value is None or (value == "" and column.optional):
            if column.optional:
                continue
            has = ", ".join(map(str, islice(names, 10))) or "nothing"
            raise TestError(
                "M712", where=where, reason=f"column {name!r} is missing (it has {has})"
            )
        case[name] = _value(value, column.kind, f"column {name!r}", where)
    return case


def _value(value: Any, kind: ColumnKind, what: str, where: str) -> Any:
    if kind == "texts":
        values = value if isinstance(value, list) else [value]
        if not values:
            raise TestError("M712", where=where, reason=f"{what} is empty")
        return [_value(item, "text", what, where) for item in values]
    if kind == "number":
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise TestError("M712", where=where, reason=f"{what} is not a finite number")
        return number
    if not isinstance(value, str) or not value.strip():
        raise TestError("M712", where=where, reason=f"{what} is empty or not text")
    if len(value) > CASE_CHARACTERS:
        raise TestError(
            "M712", where=where, reason=f"{what} is longer than {CASE_CHARACTERS} characters"
        )
    return value
