"""Cases in a Parquet file, in which a few bytes can stand for gigabytes.

Only the columns that a metric reads are unpacked, some rows at a time, and within a bound. A text
that is repeated stays one object: dictionaries are not expanded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from modpkg.core.bounds import CASES_UNPACKED_BYTES, CASES_VALUES
from modpkg.core.errors import TestError
from modpkg.core.files import human_bytes

Rows = list[tuple[str, dict[str, Any]]]
"""The place of each row, for errors, and its columns."""
_BATCH = 256
"""Rows that are unpacked at once."""


def check_unpacked(metadata: Any, columns: Collection[str], path: str) -> list[str]:
    """Check what a file says that its columns unpack to; return the paths of those of texts.

    Raises:
        TestError: It is too much, or in an encoding in which each text is a part of the one before.
    """
    size = 0
    texts: dict[str, None] = {}
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema.split(".")[0] not in columns:
                continue
            size += column.total_uncompressed_size
            if size > CASES_UNPACKED_BYTES or column.num_values > CASES_VALUES:
                raise _too_much(path)
            if "DELTA_BYTE_ARRAY" in column.encodings:
                reason = "it uses DELTA_BYTE_ARRAY; write it with plain or dictionary encoding"
                raise TestError("M712", where=path, reason=reason)
            if column.physical_type == "BYTE_ARRAY":
                texts[column.path_in_schema] = None
    return [*texts]


def parquet_rows(file: Any, columns: Collection[str], path: str) -> Rows:
    """Return the rows of a file, with None in place of what ``columns`` does not name.

    Raises:
        TestError: They unpack to too much.
    """
    names = file.schema_arrow.names
    wanted = [name for name in names if name in columns]
    rows: Rows = []
    taken = 0
    for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
        taken += sum(_size(batch.column(name)) for name in wanted)
        if taken > CASES_UNPACKED_BYTES:
            raise _too_much(path)
        values = {name: _values(batch.column(name)) for name in wanted}
        for at in range(batch.num_rows):
            row: dict[str, Any] = dict.fromkeys(names)
            row.update((name, column[at]) for name, column in values.items())
            rows.append((f"{path}: row {len(rows) + 1}", row))
    return rows


def _too_much(path: str) -> TestError:
    most = human_bytes(CASES_UNPACKED_BYTES)
    return TestError("M712", where=path, reason=f"it unpacks to more than {most}; split it up")


def _is_dictionary(array: Any) -> bool:
    return str(array.type).startswith("dictionary")


def _size(array: Any) -> int:
    """Return the bytes of a column, without its dictionary, which batches share."""
    size: int = (array.indices if _is_dictionary(array) else array).nbytes
    return size


def _values(array: Any) -> list[Any]:
    """Return the values of a column; a text that is repeated is one object."""
    if _is_dictionary(array):
        texts = array.dictionary.to_pylist()
        return [None if at is None else texts[at] for at in array.indices.to_pylist()]
    if not str(array.type).startswith(("list<", "large_list<")):
        found: list[Any] = array.to_pylist()
        return found
    values = _values(array.values)
    offsets, there = array.offsets.to_pylist(), array.is_valid().to_pylist()
    return [
        values[offsets[at] : offsets[at + 1]] if valid else None for at, valid in enumerate(there)
    ]
