"""The tensors of a build: references to those the registry has, a pack with the others."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import digest_file, file_chunks
from modpkg.core.errors import RecordError, ReleaseError
from modpkg.core.filenames import MODULES
from modpkg.core.files import make_folder, remove_tree, rename, write_atomically
from modpkg.core.packs import PackTensor, pack_chunks, pack_header, read_pack_header
from modpkg.core.records import CORRECT, Encoding, TensorEntry
from modpkg.core.regular_file import open_file
from modpkg.core.tensors import TensorIdentity, types_of
from modpkg.core.tree import BlobTree
from modpkg.deltas import encode
from modpkg.release.content import Content
from modpkg.release.known import Holdings, Known
from modpkg.release.sequence import folders_of


class Part(Struct, frozen=True):
    """A range of bytes in a file: a tensor of the project, or its encoded form."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class Tally(Struct, frozen=True):
    """Size statistics of a build's tensors."""

    tensors: int
    unchanged: int
    """Tensors that the registry has: the release refers to them."""
    changes: int
    """Tensors that the build has encoded."""
    new_bytes: int
    """Bytes of the pack that the build writes."""
    bytes: int
    """Bytes of all tensors, decoded."""


class Packed(Struct, frozen=True):
    """The tensor table of a build, and the fields of the record that belong to it."""

    tensors: dict[str, TensorEntry]
    sources: dict[str, TensorEntry]
    packs: dict[str, int]
    tally: Tally


def tensors_of(content: Content) -> dict[str, Part]:
    """Return every tensor of a release to build, sorted by name.

    Raises:
        ReleaseError: Two files have a tensor of one name.
        PackError: A file is not a sound safetensors file.
        RecordError: ``modules.json`` is malformed.
    """
    return find_tensors(content.weights, folders_apart(content.files))


def folders_apart(files: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the folders whose tensors keep the folder in their name.

    Raises:
        RecordError: ``modules.json`` is malformed.
    """
    if MODULES not in files:
        return ()
    path = files[MODULES]
    try:
        return folders_of(path)
    except ValueError as error:
        raise RecordError(
            "M209", what=path, kind=f"{MODULES} file", reason=str(error), remedy=CORRECT
        ) from None


def find_tensors(weights: Mapping[str, Path], apart: Collection[str] = ()) -> dict[str, Part]:
    """Return every tensor in files of weights, sorted by name.

    Tensors in one of the folders ``apart`` are named ``folder/tensor``.

    Raises:
        ReleaseError: Two files have a tensor of one name.
        PackError: A file is not a sound safetensors file.
    """
    parts: dict[str, Part] = {}
    for relative, path in weights.items():
        folder = relative.rpartition("/")[0]
        for own, place in read_pack_header(path).items():
            name = f"{folder}/{own}" if folder in apart else own
            if name in parts:
                raise ReleaseError("M205", tensor=name, first=parts[name].path, second=path)
            parts[name] = _part(path, place)
    return dict(sorted(parts.items()))


def _part(path: Path, place: PackTensor) -> Part:
    return Part(path, place.dtype, place.shape, place.offset, place.length)


def pack_tensors(
    tree: BlobTree,
    parts: Mapping[str, Part],
    *,
    known: Known | None = None,
    provides: str | None = None,
    patched: Mapping[str, TensorEntry] | None = None,
    deltas: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Packed:
    """Write the tensors that ``known`` lacks as one pack, changed ones encoded if ``deltas``.

    ``patched`` are the base's tensors that those of a patch replace. Equal tensors are written
    once. Memory: for each processor, one tensor plain and encoded.

    Raises:
        IntegrityError, ReleaseError, PackError: An earlier tensor is damaged in the registry.
    """
    spool = tree.root / "spool"
    make_folder(spool)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        keys: dict[str, TensorIdentity] = {}
        for name, key in zip(parts, pool.map(_identity_of_part, parts.values()), strict=True):
            keys[name] = key
            if progress is not None:
                progress(parts[name].length)
        holdings = Holdings(keys, known)
        bases = holdings.bases(provides, keys, patched or {}) if deltas else {}

        def shrink(key: TensorIdentity) -> tuple[Part, Encoding] | None:
            name = holdings.missing[key]
            old = holdings.read(bases[key], f"the earlier tensor {name!r}")
            return _encoded(parts[name], old, bases[key], spool / key.digest[7:])

        shrunk = zip(bases, pool.map(shrink, bases), strict=True)
        encoded = {key: part for key, part in shrunk if part is not None}
    written = {
        name: encoded[key][0] if key in encoded else parts[name]
        for key, name in holdings.missing.items()
    }
    carried, places = _write_pack(tree, written)
    remove_tree(spool)
    table = dict(holdings.places)
    for key, name in holdings.missing.items():
        table[key] = TensorEntry(
            dtype=key.dtype,
            shape=list(key.shape),
            digest=key.digest,
            pack=next(iter(carried)),
            offset=places[name].offset,
            length=places[name].length,
            encoding=encoded[key][1] if key in encoded else None,
        )
    sources = holdings.sources(table)
    used = {entry.pack for entry in (*table.values(), *sources.values())}
    return Packed(
        tensors={name: table[key] for name, key in keys.items()},
        sources=sources,
        packs=carried | holdings.sizes(used - carried.keys()),
        tally=Tally(
            tensors=len(keys),
            unchanged=sum(key in holdings.places for key in keys.values()),
            changes=sum(key in encoded for key in keys.values()),
            new_bytes=sum(carried.values()),
            bytes=sum(part.length for part in parts.values()),
        ),
    )


def _identity_of_part(part: Part) -> TensorIdentity:
    return TensorIdentity(digest_file(part.path, part.offset, part.length), part.dtype, part.shape)


def _encoded(
    part: Part, old: memoryview, base: TensorEntry, target: Path
) -> tuple[Part, Encoding] | None:
    """Write the tensor's encoded form to ``target`` if it is smaller; else return None."""
    with (
        open_file(part.path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as whole,
        whole[part.offset : part.offset + part.length] as new,
    ):
        encoded = encode(new, old, part.dtype)
    if encoded is None:
        return None
    method, payload = encoded
    write_atomically(target, payload)
    on = None if method == "planes" else base.digest
    return Part(target, "U8", (len(payload),), 0, len(payload)), Encoding(method, on)


def _write_pack(
    tree: BlobTree, parts: Mapping[str, Part]
) -> tuple[dict[str, int], dict[str, PackTensor]]:
    """Write these parts as one pack; return its size by digest, and their positions."""
    if not parts:
        return {}, {}
    types = types_of(parts)
    data = {name: file_chunks(p.path, p.offset, p.length) for name, p in parts.items()}
    staged = tree.root / "pack"
    pack = write_atomically(staged, pack_chunks(types, data), mode=0o444)
    target = tree.path(pack)
    make_folder(target.parent)
    rename(staged, target)
    return {pack: target.stat().st_size}, pack_header(types)[1]
