"""Packs: safetensors files, validated when read and written as a stream.

The header is parsed without torch or numpy, which most commands never import. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.bounds import TENSOR_NAME_CHARACTERS, WEIGHTS_HEADER_BYTES
from modpkg.core.decoding import decoding_reason
from modpkg.core.dtypes import DTYPE_BYTES, bits_of
from modpkg.core.errors import PackError
from modpkg.core.regular_file import CutShort, open_file

METADATA = "__metadata__"
"""The key of a header that is not a tensor."""
COMPOSED_PACKS = 32
"""The most packs of composed weights."""
LFS_POINTER = b"version https://git-lfs"
"""How the file begins that Git has in place of a large one."""
IS_POINTER = "it is Git LFS's pointer to the file, not the file; 'git lfs pull' fetches that"


class _HeaderEntry(Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_DECODER = msgspec.json.Decoder(_HeaderEntry)


class PackTensor(Struct, frozen=True):
    """One tensor's position in a pack file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    """First byte, counted from the beginning of the file."""
    length: int
    """Bytes."""


def read_pack_header(path: Path) -> dict[str, PackTensor]:
    """Return the tensors of a safetensors file, by name, in file order.

    Every claim is checked against the file's length before memory is allocated for it: the
    header fits, offsets cover the data without gap or overlap, lengths agree with dtype and shape.

    Raises:
        PackError: A check fails, or the file has another format (a pickle).
    """
    header, size = read_header(path)
    return parse_pack_header(header[8:], size - len(header), path)


def read_header(path: Path) -> tuple[bytes, int]:
    """Return the first bytes of a safetensors file, up to its data, and the file's length.

    Raises:
        PackError: The file is shorter than it claims, or is not a safetensors file.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        if len(first) < min(8, size):
            raise CutShort(path)
        if size < 8:
            raise PackError("M201", path=path, reason="it is shorter than 8 bytes")
        (length,) = struct.unpack("<Q", first)
        # A header of 640 bytes begins with the same byte as a pickle, but with an object after it.
        pickled = first[:1] == b"\x80" or first[:4] == b"PK\x03\x04"
        if pickled and file.read(1) != b"{":
            raise PackError(
                "M201", path=path, reason="it is a pickle or a zip archive, as .bin files are"
            )
        if first == LFS_POINTER[:8]:
            raise PackError("M201", path=path, reason=IS_POINTER)
        if length > WEIGHTS_HEADER_BYTES:
            raise PackError(
                "M201", path=path, reason=f"its header claims to be {length} bytes long"
            )
        if 8 + length > size:
            raise PackError(
                "M201",
                path=path,
                reason=f"its header claims {length} bytes, but the file has {size}",
            )
        file.seek(8)
        header = first + file.read(length)
    if len(header) < 8 + length:
        raise CutShort(path)
    return header, size


def parse_pack_header(header: bytes, data_length: int, path: Path | str) -> dict[str, PackTensor]:
    """Return the tensors that a header describes; see `read_pack_header`."""
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop(METADATA, None)
        entries = {name: _DECODER.decode(entry) for name, entry in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PackError(
            "M201", path=path, reason=f"its header is malformed ({decoding_reason(error)})"
        ) from None
    start = 8 + len(header)
    tensors: dict[str, PackTensor] = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, stop = entry.data_offsets
        if len(name) > TENSOR_NAME_CHARACTERS:
            reason = f"a tensor has a name of {len(name)} characters"
            raise PackError("M201", path=path, reason=reason)
        if entry.dtype not in DTYPE_BYTES:
            raise PackError(
                "M201", path=path, reason=f"tensor {name!r} has unknown dtype {entry.dtype!r}"
            )
        if len(entry.shape) > 16 or any(extent < 0 or extent > 2**62 for extent in entry.shape):
            raise PackError("M201", path=path, reason=f"tensor {name!r} has shape {entry.shape}")
        if begin != end or stop < begin:
            raise PackError(
                "M201",
                path=path,
                reason=f"the data of tensor {name!r} leaves a gap or overlaps another's",
            )
        if bits_of(entry.dtype, entry.shape) != 8 * (stop - begin):
            raise PackError(
                "M201",
                path=path,
                reason=f"tensor {name!r} has {stop - begin} bytes, which does not match its shape",
            )
        end = stop
        tensors[name] = PackTensor(entry.dtype, tuple(entry.shape), start + begin, stop - begin)
    if end != data_length:
        raise PackError(
            "M201",
            path=path,
            reason=f"its tensors take {end} bytes, but {data_length} bytes follow the header",
        )
    return tensors


def header_metadata(header: bytes) -> dict[str, str]:
    """Return the metadata of a header; empty if it has none, or others than texts."""
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(raw.get(METADATA, b"{}"), type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def pack_order(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Return tensor names in the order they are packed: widest dtype first, then by name.

    That order keeps every tensor aligned to its element size without padding.
    """
    return sorted(tensors, key=lambda name: (-DTYPE_BYTES[tensors[name][0]], name))


def pack_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, PackTensor]]:
    """Return the first bytes of a pack of these tensors (dtype, shape), and their places.

    The data begins at a multiple of 64 bytes, so that mapped tensors are aligned for any
    vector unit. ``metadata`` is kept in the header.
    """
    entries: dict[str, object] = {METADATA: {"format": "pt", **(metadata or {})}}
    lengths: dict[str, int] = {}
    position = 0
    for name in pack_order(tensors):
        dtype, shape = tensors[name]
        lengths[name] = bits_of(dtype, shape) // 8
        entries[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + lengths[name]],
        }
        position += lengths[name]
    text = msgspec.json.encode(entries)
    text += b" " * (-(8 + len(text)) % 64)
    start = 8 + len(text)
    places: dict[str, PackTensor] = {}
    for name in pack_order(tensors):
        dtype, shape = tensors[name]
        places[name] = PackTensor(dtype, shape, start, lengths[name])
        start += lengths[name]
    return struct.pack("<Q", len(text)) + text, places


def pack_chunks(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    data: Mapping[str, Iterable[bytes]],
) -> Iterator[bytes]:
    """Yield a whole pack; ``data`` gives each tensor's bytes, which are read once, in order."""
    header, _ = pack_header(tensors)
    yield header
    for name in pack_order(tensors):
        yield from data[name]
