"""A GGUF model that was split into several files, read as one."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modpkg.core.files import write_atomically
from modpkg.core.regular_file import open_file
from modpkg.interop.gguf_header import GgufHeader, damaged, read_gguf_header

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def read_parts(source: Path) -> list[GgufHeader]:
    """Return the headers of all files of a model, the first one first.

    ``source`` is the model's file, or any part of a split model: parts lie beside each other and
    are named ``NAME-00001-of-00003.gguf``.

    Raises:
        ConversionError: A part is missing, or the parts do not belong together.
    """
    header = read_gguf_header(source)
    count = header.whole("split.count") or 1
    if count == 1:
        return [header]
    named = _PART.fullmatch(source.name)
    if named is None or int(named[3]) != count:
        raise damaged(
            source,
            f"it is one of {count} parts of a model, and its name does not say which; name them "
            f"like model-00001-of-{count:05}.gguf",
        )
    parts: list[GgufHeader] = []
    for number in range(count):
        path = source.with_name(f"{named[1]}-{number + 1:05}-of-{count:05}.gguf")
        if not path.is_file():
            raise damaged(
                source,
                f"it is one of {count} parts of a model, and {path.name} is missing; put it into "
                "the same folder",
            )
        part = read_gguf_header(path)
        if (part.whole("split.count"), part.whole("split.no")) != (count, number):
            raise damaged(path, f"it is not part {number + 1} of {count}, as its name says")
        parts.append(part)
    names = [name for part in parts for name in part.tensors]
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) != len(names)
        else None
    )
    if twice is not None:
        raise damaged(source, f"two of its parts have the tensor {twice[:80]!r}")
    total = parts[0].whole("split.tensors.count")
    if total not in (None, len(names)):
        raise damaged(
            source, f"its parts have {len(names)} tensors together, and {total} belong to the model"
        )
    first = parts[0].text("general.architecture")
    for part in parts[1:]:
        if part.text("general.architecture") not in (None, first):
            raise damaged(part.path, "it is a part of another model")
    return parts


def join_parts(parts: list[GgufHeader], target: Path) -> GgufHeader:
    """Write the parts' tensors and the first part's metadata into one file; return its header.

    Raises:
        InstallError: The disk is full.
    """
    write_atomically(target, _joined(parts))
    return replace(read_gguf_header(target), path=parts[0].path)


def _joined(parts: list[GgufHeader]) -> Iterator[bytes]:
    first = parts[0]
    tensors = [(part.path, tensor) for part in parts for tensor in part.tensors.values()]
    kept = [span for key, span in first.raw.items() if not key.startswith("split.")]
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(kept))]
    with open_file(first.path) as file:
        for start, end in kept:
            file.seek(start)
            head.append(file.read(end - start))
    offset = 0
    for _, tensor in tensors:
        name = tensor.name.encode()
        head.append(struct.pack("<Q", len(name)) + name)
        head.append(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1]))
        head.append(struct.pack("<IQ", tensor.number, offset))
        offset += _padded(tensor.length, first.alignment)
    raw = b"".join(head)
    yield raw.ljust(_padded(len(raw), first.alignment), b"\0")
    for path, tensor in tensors:
        with open_file(path) as file:
            file.seek(tensor.start)
            left = tensor.length
            while left:
                chunk = file.read(min(left, 1 << 20))
                if not chunk:
                    raise damaged(path, "it became shorter while it was read")
                left -= len(chunk)
                yield chunk
        yield bytes(_padded(tensor.length, first.alignment) - tensor.length)


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
