"""Weights of an installed model as safetensors files for other tools: copied, or linked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from modpkg.core.files import denied, share_file, write_atomically
from modpkg.core.installed import TensorRef
from modpkg.core.packs import pack_chunks, pack_order, read_pack_header
from modpkg.core.tensors import types_of
from modpkg.store.renamed import pack_named, verified_chunks
from modpkg.store.store import Store

MAX_SHARD = 5_000_000_000
"""Bytes of tensors in one file; the default of transformers."""
ANY_SIZE = 2**62
"""A limit for one file with everything."""
SMALL = 1 << 20
"""Bytes up to which one file is worth a copy of the weights."""


def write_weights(
    tensors: Mapping[str, TensorRef],
    packs: Path,
    out: Path,
    *,
    stem: str = "model",
    max_shard_bytes: int = MAX_SHARD,
    store: Store | None = None,
) -> None:
    """Write ``<stem>.safetensors`` into ``out``, or several shards with an index.

    Weights are copied byte for byte, verified on the way, and divided above ``max_shard_bytes``.

    With a ``store`` they are not copied where possible, and the files are read-only. A pack whose
    tensors are all the model's, under their names, becomes a file of the folder: reflinked or
    hard-linked. Tensors of other packs are copied once, as a new pack of the store, which is linked
    too: the next folder with the same tensors costs nothing.

    Args:
        tensors: The tensors, by name.
        packs: The folder of relative files.
        out: The folder to write into.
        stem: How the names of the files begin.
        max_shard_bytes: The limit for one file of copies; with `ANY_SIZE`, or if all weights are
            `SMALL`, there is one file in all.
        store: The store; it is not written to if it is on another file system than ``out``, or
            read-only.

    Raises:
        InstallError, OSError, PackError: A pack cannot be read, or the disk is full.
        IntegrityError: A tensor that is copied has changed since it was verified.
    """
    whole: dict[str, list[str]] = {} if store is None else _whole_packs(tensors, packs)
    linked = {name for names in whole.values() for name in names}
    rest = {name: ref for name, ref in tensors.items() if name not in linked}
    one = max_shard_bytes == ANY_SIZE or sum(ref.length for ref in tensors.values()) <= SMALL
    if one and len(whole) + bool(rest) > 1:
        whole, rest = {}, dict(tensors)
    files: list[tuple[list[str], Path | None]] = [
        (names, packs / file) for file, names in whole.items()
    ]
    for names in _shards(rest, max_shard_bytes) if rest or not whole else []:
        refs = {name: rest[name] for name in names}
        files.append((names, None if store is None else _kept(store, refs, packs, out)))
    if whole:  # the widest tensor first, as in one file: its dtype counts as the model's
        order = {name: number for number, name in enumerate(pack_order(types_of(tensors)))}
        files.sort(key=lambda file: min((order[name] for name in file[0]), default=0))
    weight_map: dict[str, str] = {}
    for (names, source), target in zip(files, _file_names(stem, len(files)), strict=True):
        if source is not None:
            share_file(source, out / target)
        else:
            refs = {name: tensors[name] for name in names}
            write_atomically(out / target, pack_chunks(types_of(refs), _data(refs, packs)))
        weight_map |= dict.fromkeys(names, target)
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(ref.length for ref in tensors.values())},
            "weight_map": dict(sorted(weight_map.items())),
        }
        text = msgspec.json.format(msgspec.json.encode(index), indent=2)
        write_atomically(out / f"{stem}.safetensors.index.json", text)


def _whole_packs(tensors: Mapping[str, TensorRef], packs: Path) -> dict[str, list[str]]:
    """Return the packs of which every tensor is one of these, by the same name; with the names."""
    whole: dict[str, list[str]] = {}
    for file in sorted({ref.file for ref in tensors.values()}):
        held = read_pack_header(packs / file)
        if all(
            (ref := tensors.get(name)) is not None
            and (ref.file, ref.offset, ref.length) == (file, place.offset, place.length)
            and (ref.dtype, tuple(ref.shape)) == (place.dtype, place.shape)
            for name, place in held.items()
        ):
            whole[file] = list(held)
    return whole


def _kept(store: Store, tensors: Mapping[str, TensorRef], packs: Path, out: Path) -> Path | None:
    """Return a pack of the store with these tensors, written if it is new.

    None if the store cannot be written, or is on another file system than ``out``.
    """
    try:
        if os.stat(store.root).st_dev != os.stat(out).st_dev:
            return None
        return pack_named(store, tensors, packs)
    except OSError as error:
        if denied(error) is None:
            raise
        return None


def _file_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


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


def _data(tensors: Mapping[str, TensorRef], packs: Path) -> dict[str, Iterator[bytes]]:
    """Return the bytes of tensors, in chunks; each is verified when its last was taken."""
    return {name: verified_chunks(name, ref, packs) for name, ref in tensors.items()}
