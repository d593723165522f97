"""The tensors of a build: referred to where the registry has them, written where it has not."""

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
from modpkg.core.files import remove_tree, write_atomically
from modpkg.core.packs import PackTensor, pack_chunks, pack_header, read_pack_header
from modpkg.core.records import Encoding, TensorEntry
from modpkg.core.tensors import TensorIdentity, types_of
from modpkg.core.tree import BlobTree
from modpkg.deltas import encode
from modpkg.release.content import Content
from modpkg.release.known import Holdings, Known
from modpkg.release.sequence import folders_of


class Part(Struct, frozen=True):
    """A stretch of a file: a tensor in the project's weights, or its encoded form."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


class Tally(Struct, frozen=True):
    """What the tensors of a build cost."""

    tensors: int
    unchanged: int
    """Those that the registry has: the release refers to them."""
    changes: int
    """Those that the build carries encoded."""
    new_bytes: int
    """Bytes of the pack that the build carries."""
    bytes: int
    """Bytes of all tensors as they are."""


class Packed(Struct, frozen=True):
    """The tensor table of a build, and what goes with it in the record."""

    tensors: dict[str, TensorEntry]
    sources: dict[str, TensorEntry]
    packs: dict[str, int]
    tally: Tally


def tensors_of(content: Content) -> dict[str, Part]:
    """Return every tensor of a release-to-be, sorted by name.

    Raises:
        ReleaseError, PackError, RecordError: names the file.
    """
    return find_tensors(content.weights, folders_apart(content.files))


def folders_apart(files: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the folders whose tensors keep the folder in their name.

    Raises:
        RecordError: the file that names them is broken.
    """
    if MODULES not in files:
        return ()
    path = files[MODULES]
    try:
        return folders_of(path)
    except ValueError as error:
        raise RecordError("M209", what=path, kind=f"{MODULES} file", reason=str(error)) from None


def find_tensors(weights: Mapping[str, Path], apart: Collection[str] = ()) -> dict[str, Part]:
    """Return every tensor in the files of weights, sorted by name.

    Those in one of the folders ``apart`` are named ``folder/tensor``.

    Raises:
        ReleaseError, PackError: names the file.
    """
    found: dict[str, Part] = {}
    for relative, path in weights.items():
        folder = relative.rpartition("/")[0]
        for own, place in read_pack_header(path).items():
            name = f"{folder}/{own}" if folder in apart else own
            if name in found:
                raise ReleaseError("M205", tensor=name, first=found[name].path, second=path)
            found[name] = _part(path, place)
    return dict(sorted(found.items()))


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
    """Write what ``known`` lacks of these tensors as one pack, changed ones encoded if ``deltas``.

    ``patched`` are the tensors that those of a patch take the place of.

    Equal tensors are written once. Memory: for each processor, a tensor's bytes as they are and
    as they are encoded.

    Raises:
        IntegrityError, ReleaseError, PackError: an earlier tensor is damaged in the registry.
    """
    spool = tree.root / "spool"
    spool.mkdir(parents=True)
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
        encoded = {key: found for key, found in shrunk if found is not None}
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
    """Write the tensor's encoded form to ``target`` if there is one that is worth it."""
    with (
        open(part.path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as whole,
        whole[part.offset : part.offset + part.length] as new,
    ):
        found = encode(new, old, part.dtype)
    if found is None:
        return None
    method, payload = found
    target.write_bytes(payload)
    on = None if method == "planes" else base.digest
    return Part(target, "U8", (len(payload),), 0, len(payload)), Encoding(method, on)


def _write_pack(
    tree: BlobTree, parts: Mapping[str, Part]
) -> tuple[dict[str, int], dict[str, PackTensor]]:
    """Write these parts as one pack; return its size, and where in it they lie."""
    if not parts:
        return {}, {}
    types = types_of(parts)
    data = {name: file_chunks(p.path, p.offset, p.length) for name, p in parts.items()}
    staged = tree.root / "pack"
    pack = write_atomically(staged, pack_chunks(types, data), mode=0o444)
    target = tree.path(pack)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(target)
    return {pack: target.stat().st_size}, pack_header(types)[1]
