"""Cases in a Parquet file, in which a few bytes can stand for gigabytes.

Only the columns that a metric reads are unpacked, some rows at a time, and within bounds. A text
that is repeated stays one object for some rows: dictionaries are not expanded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from modpkg.community.evaluate.parquet_pages import Unpacked, add_pages
from modpkg.core.bounds import (
    CASES_CHUNKS,
    CASES_DICTIONARY_BYTES,
    CASES_FOOTER_BYTES,
    CASES_PAGES,
    CASES_UNPACKED_BYTES,
    CASES_VALUES,
    TEST_CASES,
)
from modpkg.core.errors import TestError
from modpkg.core.files import human_bytes

Row = tuple[str, dict[str, Any], Collection[str]]
"""The place of a row, for errors, its values by column, and the columns that the file has."""
_BATCH = 256
"""Rows that are unpacked at once, or more where dictionaries are large."""
_AGAIN = 1 << 30
"""Bytes of dictionaries that pyarrow may copy in all: it does so each time it unpacks rows."""
_NESTED = ("struct", "map", "union", "list", "large_list", "fixed_size_list")


def check_footer(data: bytes, path: str) -> None:
    """Check the size of a footer, which takes many times as much memory.

    Raises:
        TestError: It is too large, or there is none.
    """
    size = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or size > len(data) - 8:
        raise TestError("M712", where=path, reason="it cannot be read as Parquet (no footer)")
    if size > CASES_FOOTER_BYTES:
        raise _too_much(path, f"has a footer of more than {human_bytes(CASES_FOOTER_BYTES)}")


def check_unpacked(
    data: bytes, metadata: Any, columns: Collection[str], path: str
) -> tuple[list[str], int]:
    """Check what the pages of a file's columns say that they unpack to.

    Returns:
        The paths of the columns of texts, and how many rows to unpack at once.

    Raises:
        TestError: It is too much.
        ValueError: A page is broken, or in an encoding in which it cannot be known.
    """
    groups = [metadata.row_group(at) for at in range(min(metadata.num_row_groups, CASES_CHUNKS))]
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    if metadata.num_row_groups * max(1, metadata.num_columns) > CASES_CHUNKS:
        raise _too_much(path, f"has more than {CASES_CHUNKS:,} columns of row groups")
    if rows > TEST_CASES:
        raise TestError("M712", where=path, reason=f"it has over {TEST_CASES} cases")
    found = Unpacked()
    values = 0
    texts: dict[str, None] = {}
    for group in groups:
        for number in range(metadata.num_columns):
            column = group.column(number)
            if column.path_in_schema.split(".")[0] not in columns:
                continue
            values += column.num_values
            if values > CASES_VALUES:
                raise _too_much(path, f"has more than {CASES_VALUES:,} values")
            add_pages(found, data, column, CASES_UNPACKED_BYTES, CASES_PAGES)
            if found.size > CASES_UNPACKED_BYTES:
                raise _too_much(path)
            if found.dictionary > CASES_DICTIONARY_BYTES:
                most = human_bytes(CASES_DICTIONARY_BYTES)
                raise ValueError(f"it has a dictionary of more than {most}; write it without one")
            if found.pages > CASES_PAGES:
                raise _too_much(path, f"has more than {CASES_PAGES:,} pages")
            if column.physical_type == "BYTE_ARRAY":
                texts[column.path_in_schema] = None
    return [*texts], max(_BATCH, rows * found.dictionary // _AGAIN)


def parquet_rows(file: Any, columns: Collection[str], path: str, at_once: int) -> Iterator[Row]:
    """Yield the rows of a file, with the ``columns`` that it has, ``at_once`` at a time.

    Raises:
        TestError: They unpack to too much, or a column is of tables or of lists of lists.
    """
    schema = file.schema_arrow
    names = schema.names
    wanted = [name for name in names if name in columns]
    for name in wanted:
        _check_type(schema.field(name).type, name, path)
    taken, number = 0, 0
    for batch in file.iter_batches(batch_size=at_once, columns=wanted, use_threads=False):
        taken += sum(_size(batch.column(name)) for name in wanted)
        if taken > CASES_UNPACKED_BYTES:
            raise _too_much(path)
        values = [_values(batch.column(name)) for name in wanted]
        for row in zip(*values, strict=True) if wanted else [()] * batch.num_rows:
            number += 1
            yield f"{path}: row {number}", dict(zip(wanted, row, strict=True)), names


def _too_much(path: str, what: str = "") -> TestError:
    what = what or f"unpacks to more than {human_bytes(CASES_UNPACKED_BYTES)}"
    return TestError("M712", where=path, reason=f"it {what}; split it up")


def _check_type(kind: Any, name: str, path: str) -> None:
    inner = kind.value_type if str(kind).startswith(("list<", "large_list<")) else kind
    if str(inner).startswith(_NESTED):
        reason = f"column {name!r} is of {str(kind)[:100]}, and is to be a text, a number or texts"
        raise TestError("M712", where=path, reason=reason)


def _is_dictionary(array: Any) -> bool:
    return str(array.type).startswith("dictionary")


def _size(array: Any) -> int:
    """Return the bytes of a column, without its dictionary, which batches share."""
    size: int = (array.indices if _is_dictionary(array) else array).nbytes
    return size


def _values(array: Any) -> list[Any]:
    """Return the values of a column; a text that is repeated is one object."""
    if _is_dictionary(array):
        encoded = array.indices.dictionary_encode()  # of a large dictionary, only what is used
        texts = array.dictionary.take(encoded.dictionary.drop_null()).to_pylist()
        return [None if at is None else texts[at] for at in encoded.indices.to_pylist()]
    if not str(array.type).startswith(("list<", "large_list<")):
        found: list[Any] = array.to_pylist()
        return found
    values = _values(array.values)
    offsets, there = array.offsets.to_pylist(), array.is_valid().to_pylist()
    return [
        values[offsets[at] : offsets[at + 1]] if valid else None for at, valid in enumerate(there)
    ]
