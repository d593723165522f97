"""Parquet files written by hand, so that they can lie: Thrift's compact protocol."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import zstandard

Fields = dict[int, Any]
"""By field number: an int (i32), `Long`, bytes, list or another struct."""


class Long(int):
    """An i64."""


class Page(NamedTuple):
    """A page of a column: its header, and what stands behind it."""

    header: Fields
    body: bytes
    more: bytes = b""
    """Further fields of the header."""


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return 1 if value else 2
    kinds = {Long: 6, int: 5, bytes: 8, list: 9, dict: 12}
    return kinds[type(value)]


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return b""
    if isinstance(value, int):
        return zigzag(value)
    if isinstance(value, bytes):
        return varint(len(value)) + value
    if isinstance(value, list):
        kind = _kind(value[0]) if value else 5
        size = len(value)
        head = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + varint(size)
        return head + b"".join(map(_value, value))
    return thrift(value)


def thrift(fields: Fields) -> bytes:
    """Return a struct."""
    out, last = b"", 0
    for number, value in sorted(fields.items()):
        out += bytes([(number - last) << 4 | _kind(value)]) + _value(value)
        last = number
    return out + b"\0"


def texts(*values: bytes) -> bytes:
    """Return texts in plain encoding."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def page(body: bytes, count: int, *, encoding: int = 0, size: int | None = None) -> Page:
    """Return a data page (version 1), compressed with zstd; ``size``: what it claims to hold."""
    packed = zstandard.compress(body, 1)
    head = {1: count, 2: encoding, 3: 3, 4: 3}
    return Page({1: 0, 2: len(body) if size is None else size, 3: len(packed), 5: head}, packed)


def dictionary(body: bytes, count: int, *, size: int | None = None) -> Page:
    """Return a dictionary page."""
    packed = zstandard.compress(body, 1)
    claimed = len(body) if size is None else size
    return Page({1: 2, 2: claimed, 3: len(packed), 7: {1: count, 2: 0}}, packed)


def leaf(name: bytes, kind: int, repetition: int = 0) -> Fields:
    return {1: kind, 3: repetition, 4: name} | ({6: 0} if kind == 6 else {})


def group(name: bytes, children: int, repetition: int = 0) -> Fields:
    return {3: repetition, 4: name, 5: children}


def parquet(
    schema: list[Fields],
    path: list[bytes],
    pages: list[Page],
    *,
    rows: int,
    values: int | None = None,
    kind: int = 6,
    claimed: int = 100,
) -> bytes:
    """Return a file of one column; ``claimed``: what its footer says that it unpacks to."""
    data, at = b"PAR1", []
    for one in pages:
        at.append(len(data))
        data += thrift(one.header)[:-1] + one.more + b"\0" + one.body
    has_dictionary = pages[0].header[1] == 2
    column = {
        1: kind, 2: [0, 3], 3: path, 4: 6, 5: Long(rows if values is None else values),
        6: Long(claimed), 7: Long(len(data) - 4), 9: Long(at[1 if has_dictionary else 0]),
    }  # fmt: skip
    if has_dictionary:
        column[11] = Long(4)
    group_ = {1: [{2: Long(4), 3: column}], 2: Long(claimed), 3: Long(rows)}
    footer = thrift({1: 1, 2: schema, 3: Long(rows), 4: [group_]})
    return data + footer + struct.pack("<I", len(footer)) + b"PAR1"
