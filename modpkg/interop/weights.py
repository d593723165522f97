"""Weights of an installed model as safetensors files for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from modpkg.core.digests import file_chunks
from modpkg.core.files import write_atomically
from modpkg.core.installed import TensorRef
from modpkg.core.packs import pack_chunks
from modpkg.core.tensors import types_of

MAX_SHARD = 5_000_000_000
"""Bytes of tensors in one file; the default of transformers."""


def write_weights(
    tensors: Mapping[str, TensorRef],
    packs: Path,
    out: Path,
    *,
    stem: str = "model",
    max_shard_bytes: int = MAX_SHARD,
) -> None:
    """Write ``<stem>.safetensors`` into ``out``, or above the limit several shards with an index.

    Weights are copied byte for byte; ``packs`` is the folder of relative files.

    Raises:
        InstallError, OSError: A pack cannot be read.
    """
    shards = _shards(tensors, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}.safetensors"
        if len(shards) > 1:
            file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        refs = {name: tensors[name] for name in names}
        types = types_of(refs)
        data = {name: _bytes(packs, ref) for name, ref in refs.items()}
        write_atomically(out / file, pack_chunks(types, data))
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(ref.length for ref in tensors.values())},
            "weight_map": dict(sorted(weight_map.items())),
        }
        text = msgspec.json.format(msgspec.json.encode(index), indent=2)
        write_atomically(out / f"{stem}.safetensors.index.json", text)


def _shards(tensors: Mapping[str, TensorRef], limit: int) -> list[list[str]]:
    """Split tensors into groups of at most ``limit`` bytes, in the order of their names."""
    groups: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        length = tensors[name].length
        if groups[-1] and size + length > limit:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += length
    return groups


def _bytes(packs: Path, ref: TensorRef) -> Iterator[bytes]:
    yield from file_chunks(packs / ref.file, ref.offset, ref.length)
