"""The header of a GGUF file: metadata and tensor table, with every count and length checked.

Libraries that read GGUF trust its counts, lengths and offsets. A file is read here first, so that
what they are given is a whole file that holds what its header says.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from modpkg.core.bounds import (
    GGUF_ALIGNMENT_BYTES,
    GGUF_ELEMENTS,
    GGUF_HEADER_BYTES,
    GGUF_TEXT_BYTES,
)
from modpkg.core.errors import ConversionError
from modpkg.core.packs import IS_POINTER, LFS_POINTER
from modpkg.core.regular_file import open_file

STRING, ARRAY = 8, 9
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "B",
    10: "Q",
    11: "q",
    12: "d",
}
_BOOL = 7
_FLOATS = (6, 12)


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    """Extents as in torch, slowest first; the file has them in reverse."""
    type: str
    """The name of its ggml type, such as ``Q4_K``."""
    number: int
    """The number of its ggml type."""
    start: int
    """Where its bytes begin in the file."""
    length: int

    @property
    def count(self) -> int:
        """The number of its elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """Metadata and tensor table of one file."""

    path: Path
    """The file as the user named it, for messages."""
    file: Path
    """Where its bytes are; the parts of a split model are joined elsewhere."""
    metadata: dict[str, Any]
    """Values by key: int, float, bool, str, or a list of one of these."""
    raw: dict[str, tuple[int, int]]
    """Where each key and its value lie in the file."""
    tensors: dict[str, GgufTensor]
    alignment: int

    def text(self, key: str) -> str | None:
        """Return a text of the metadata; None if the key is absent.

        Raises:
            ConversionError: It is not a text.
        """
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise damaged(self.path, f"its {key} is not a text")
        return value

    def whole(self, key: str) -> int | None:
        """Return a whole number of the metadata that is not negative; None if the key is absent.

        Raises:
            ConversionError: It is another kind of value.
        """
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise damaged(self.path, f"its {key} is not a whole number")
        return value


def damaged(path: Path, reason: str) -> ConversionError:
    """Return the error for a file that cannot be imported."""
    return ConversionError("M801", path=path, reason=reason)


def read_gguf_header(path: Path) -> GgufHeader:
    """Return a file's metadata and tensors; no tensor is read.

    Raises:
        ConversionError: The file is not GGUF, is truncated, or contradicts itself.
    """
    if not path.is_file():
        raise damaged(path, "it is not a file")
    with open_file(path) as file:
        if (first := file.read(len(LFS_POINTER)))[:4] != b"GGUF":
            raise damaged(
                path, IS_POINTER if first == LFS_POINTER else "it does not begin with GGUF"
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(path, data).read()


class _HeaderReader:
    """Reads a mapped file from its beginning; every step checks that the bytes are there."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._position = 4
        self._end = min(len(data), GGUF_HEADER_BYTES)

    def read(self) -> GgufHeader:
        version = self._number("I", "its version")
        if version in (2 << 24, 3 << 24):
            raise self._error("it is big-endian; convert it with gguf's gguf_convert_endian")
        if version not in (2, 3):
            raise self._error(f"it has GGUF version {version}, and 2 and 3 are known")
        tensors = self._number("Q", "its number of tensors")
        keys = self._number("Q", "its number of keys")
        self._expect(keys, 13, "keys")
        metadata: dict[str, Any] = {}
        raw: dict[str, tuple[int, int]] = {}
        for _ in range(keys):
            start = self._position
            key = self._string("a key")
            if key in metadata:
                raise self._error(f"it has the key {key[:80]!r} twice")
            metadata[key] = self._value(key[:80], self._number("I", f"the type of {key[:80]}"))
            raw[key] = (start, self._position)
        self._expect(tensors, 25, "tensors")
        alignment = self._alignment(metadata)
        table = self._tensors(tensors, alignment)
        return GgufHeader(self._path, self._path, metadata, raw, table, alignment)

    def _alignment(self, metadata: dict[str, Any]) -> int:
        value = metadata.get("general.alignment", 32)
        if (
            not isinstance(value, int)
            or not 1 <= value <= GGUF_ALIGNMENT_BYTES
            or value.bit_count() != 1
        ):
            raise self._error("its general.alignment is not a power of two")
        return value

    def _tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        found: list[tuple[str, tuple[int, ...], Any, int, int]] = []
        names: set[str] = set()
        for _ in range(count):
            name = self._string("a tensor's name")
            shown = name[:80]
            if name in names:
                raise self._error(f"it has the tensor {shown!r} twice")
            names.add(name)
            extents = self._number("I", f"the shape of {shown}")
            if not 1 <= extents <= 4:
                raise self._error(f"its tensor {shown!r} has {extents} dimensions")
            shape = tuple(self._number("Q", f"the shape of {shown}") for _ in range(extents))
            number = self._number("I", f"the type of {shown}")
            offset = self._number("Q", f"the place of {shown}")
            try:
                kind = GGMLQuantizationType(number)
                block, size = GGML_QUANT_SIZES[kind]
            except (ValueError, KeyError):
                raise self._error(
                    f"its tensor {shown!r} has the ggml type {number}, which the installed gguf "
                    "does not know; update gguf"
                ) from None
            if not all(shape) or shape[0] % block:
                raise self._error(f"its tensor {shown!r} has rows that are not whole {kind.name}")
            if offset % alignment:
                raise self._error(f"its tensor {shown!r} is not aligned")
            found.append((name, shape, kind, offset, prod(shape) // block * size))
        begin = -(-self._position // alignment) * alignment
        table: dict[str, GgufTensor] = {}
        for name, shape, kind, offset, length in found:
            if begin + offset + length > len(self._data):
                raise self._error(
                    f"it is incomplete: its tensor {name[:80]!r} ends at byte "
                    f"{begin + offset + length} of {len(self._data)}; download it again"
                )
            table[name] = GgufTensor(
                name, shape[::-1], kind.name, int(kind), begin + offset, length
            )
        last = 0
        for tensor in sorted(table.values(), key=lambda tensor: tensor.start):
            if tensor.start < last:
                raise self._error(f"its tensor {tensor.name[:80]!r} overlaps another")
            last = tensor.start + tensor.length
        return table

    def _value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self._string(f"the value of {key}")
        if kind != ARRAY:
            return self._scalars(key, kind, 1)[0]
        element = self._number("I", f"the type of {key}")
        count = self._number("Q", f"the length of {key}")
        if count > GGUF_ELEMENTS:
            raise self._error(f"its {key} claims {count} elements")
        if element == STRING:
            self._expect(count, 8, f"texts of {key}")
            return [self._string(f"a text of {key}") for _ in range(count)]
        return self._scalars(key, element, count)

    def _scalars(self, key: str, kind: int, count: int) -> list[Any]:
        code = _SCALARS.get(kind)
        if code is None:
            raise self._error(f"its {key} has the value type {kind}, which is not supported")
        values = list(
            struct.unpack(f"<{count}{code}", self._take(struct.calcsize(f"<{count}{code}"), key))
        )
        if kind == _BOOL:
            if not set(values) <= {0, 1}:
                raise self._error(f"its {key} is neither true nor false")
            return [bool(value) for value in values]
        if kind in _FLOATS and any(
            value != value or abs(value) == float("inf") for value in values
        ):
            raise self._error(f"its {key} is not finite")
        return values

    def _string(self, what: str) -> str:
        length = self._number("Q", what)
        if length > GGUF_TEXT_BYTES:
            raise self._error(f"{what} claims {length} bytes")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self._error(f"{what} is not UTF-8") from None

    def _number(self, code: str, what: str) -> int:
        (value,) = struct.unpack("<" + code, self._take(struct.calcsize("<" + code), what))
        return int(value)

    def _expect(self, count: int, size: int, what: str) -> None:
        """Check that so many things of at least this size can follow."""
        if count * size > self._end - self._position:
            raise self._error(f"it claims {count} {what}, and is too short for them")

    def _take(self, length: int, what: str) -> bytes:
        start, self._position = self._position, self._position + length
        if self._position > self._end:
            raise self._error(f"it ends within {what}")
        return self._data[start : self._position]

    def _error(self, reason: str) -> ConversionError:
        return damaged(self._path, reason)
