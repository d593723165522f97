"""The pages of a Parquet file, looked at before pyarrow unpacks them.

The footer says how much a column unpacks to, and each page says it of itself; pyarrow believes the
page. So the headers of the pages are read here (Thrift's compact protocol), and what they claim is
what is compared with the bounds: a page is never unpacked beyond that.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_DELTA_TEXTS = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}
"""Encodings in which a few bytes can stand for any number of texts."""
_HEADER = 1 << 20
"""The largest header, bytes; with statistics it has some thousand."""
_DEPTH = 8
"""Structs and lists inside one another in a header."""
_PADDING = 100
"""Bytes by which old writers count a column too short."""
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = (
    (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 11, 12
)  # fmt: skip


class Unpacked(Struct):
    """What the pages of some columns unpack to, by their own account."""

    size: int = 0
    dictionary: int = 0
    """Bytes of the largest dictionary."""
    pages: int = 0


def add_pages(found: Unpacked, data: bytes, column: Any, most_size: int, most_pages: int) -> None:
    """Add the pages of a column of a row group; stops when one of the bounds is passed.

    Args:
        found: What was found so far.
        data: The file.
        column: pyarrow's metadata of the column.
        most_size: Bytes from which on it does not matter how many more there are.
        most_pages: The same for pages.

    Raises:
        ValueError: A header is broken, or says something that pyarrow would need endless memory to
            find out to be wrong.
    """
    at = column.data_page_offset
    if column.dictionary_page_offset is not None and 0 < column.dictionary_page_offset < at:
        at = column.dictionary_page_offset
    stop = min(len(data), at + column.total_compressed_size + _PADDING)
    seen = 0
    while seen < column.num_values and found.size <= most_size and found.pages <= most_pages:
        header = _PageHeader(data, at, min(stop, at + _HEADER))
        fields = header.struct()
        kind, unpacked, packed = (_integer(fields, key) for key in (1, 2, 3))
        at = header.at + packed
        if at > stop:
            raise ValueError("a page goes beyond its column")
        found.pages += 1
        found.size += max(unpacked, packed)
        if kind == _DICTIONARY:
            found.dictionary = max(found.dictionary, unpacked)
            if _integer(fields.get(7), 1) > unpacked:
                raise ValueError("a dictionary has more values than bytes")
        elif kind in (_DATA, _DATA_2):
            page = fields.get(5 if kind == _DATA else 8)
            encoding = _integer(page, 2 if kind == _DATA else 4)
            if encoding in _DELTA_TEXTS and column.physical_type == "BYTE_ARRAY":
                raise ValueError(
                    f"it uses {_DELTA_TEXTS[encoding]}; write it with plain or dictionary encoding"
                )
            seen += _integer(page, 1)
            if seen > column.num_values:
                raise ValueError("its pages have more values than its footer says")


def _integer(fields: Any, key: int) -> int:
    """Return a number of a header, which all have and which is never negative."""
    value = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(value, int) or value < 0:
        raise ValueError("a page has a broken header")
    return value


class _PageHeader:
    """A struct in Thrift's compact protocol: numbers and structs are kept, the rest is skipped."""

    def __init__(self, data: bytes, at: int, stop: int) -> None:
        self._data = data
        self.at = at
        self._stop = stop

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields by number."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._integer()
            fields[number] = True if kind in _BOOLEANS else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEPTH:
            raise ValueError("a page has a header of too many levels")
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _BYTE or kind in _BOOLEANS:  # in a list, a boolean is a byte
            self._skip(1)
        elif kind == _DOUBLE:
            self._skip(8)
        elif kind == _BINARY:
            self._skip(self._unsigned())
        elif kind in _LISTS:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            for _ in range(count):
                self._value(head & 15, depth + 1)
        elif kind == _MAP and (count := self._unsigned()):
            kinds = self._byte()
            for _ in range(count):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
        elif kind != _MAP:
            raise ValueError("a page has a broken header")
        return None

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _skip(self, count: int) -> None:
        if self.at < 0 or self.at + count > self._stop:
            raise ValueError("a page has a broken header")
        self.at += count

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page has a broken header")

    def _integer(self) -> int:
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)
