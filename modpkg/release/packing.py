"""The tensors of a build: references to those the registry has, a pack with the others."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from modpkg.core import system
from modpkg.core.all_cores import on_all_cores
from modpkg.core.digests import Digest, digest_bytes, digest_file
from modpkg.core.errors import RecordError, ReleaseError
from modpkg.core.filenames import MODULES
from modpkg.core.files import make_folder, remove_tree, write_atomically
from modpkg.core.packs import PackTensor, read_pack_header
from modpkg.core.records import CORRECT, Encoding, TensorEntry
from modpkg.core.regular_file import open_file
from modpkg.core.tensors import TensorIdentity
from modpkg.core.tree import BlobTree
from modpkg.deltas import encode
from modpkg.release.content import Content
from modpkg.release.known import Holdings, Known
from modpkg.release.pack_writer import PackWriter, Part, WrittenPack, divided
from modpkg.release.sequence import folders_of


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
    kept: dict[Path, Digest]
    """By file of the project, the pack that it is as it is."""


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
    whole: Collection[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> Packed:
    """Write the tensors that ``known`` lacks as packs, changed ones encoded if ``deltas``.

    ``patched`` are the base's tensors that those of a patch replace. Equal tensors are written
    once. What has no earlier release is written while it is hashed, and kept unless some of it
    turns out to be known. A file of ``whole`` becomes a pack as it is, of which nothing is encoded,
    unless all of it is known. ``progress`` is called in any thread. Memory: for each processor, one
    tensor plain and encoded where there are changes, else a few megabytes.

    Raises:
        IntegrityError, ReleaseError, PackError: An earlier tensor is damaged in the registry, or a
            file is changed meanwhile.
    """
    spool = tree.root / "spool"
    make_folder(spool)
    with PackWriter(spool) as writer:
        own_files: dict[Path, dict[str, Part]] = {}
        for name, part in parts.items():
            own_files.setdefault(part.path, {})[name] = part
        files = writer.keep({f: own_files[f] for f in own_files if f in whole}, progress)
        others = {name: part for name, part in parts.items() if part.path not in whole}
        drafts: list[WrittenPack] = []
        digests = {name: digest for pack in files for name, digest in pack.digests.items()}
        if known is None or not known.earlier(provides, {}):
            drafts = writer.write(divided(others), progress=progress)
            digests |= {name: digest for pack in drafts for name, digest in pack.digests.items()}
        else:
            digests |= _digests(others, progress)
        keys = {
            name: TensorIdentity(digests[name], part.dtype, part.shape)
            for name, part in parts.items()
        }
        holdings = Holdings(keys, known)
        bases = holdings.bases(provides, keys, patched or {}) if deltas else {}
        bases = {key: base for key, base in bases.items() if holdings.missing[key] in others}
        files = [
            pack for pack in files if not pack.parts.keys().isdisjoint(holdings.missing.values())
        ]
        own = {name: pack.part(name) for pack in drafts for name in pack.parts}
        encoded = _shrunk({**parts, **own}, holdings, bases, spool)
        written = {
            name: encoded[key][0] if key in encoded else parts[name]
            for key, name in holdings.missing.items()
            if name in others
        }
        packs, rest = _kept(divided(written), drafts)
        plain = {name: keys[name].digest for name, part in written.items() if part == parts[name]}
        groups = [
            {name: own.get(name, part) if name in plain else part for name, part in group.items()}
            for group in rest
        ]
        packs += [*writer.write(groups, expected=plain), *files]
        for pack in packs:
            pack.move_to(tree)
    remove_tree(spool)
    carried = {pack.digest: pack.size for pack in packs}
    homes = {name: pack for pack in packs for name in pack.parts}
    table = dict(holdings.places)
    for key, name in holdings.missing.items():
        place = homes[name].places[name]
        table[key] = TensorEntry(
            dtype=key.dtype,
            shape=list(key.shape),
            digest=key.digest,
            pack=homes[name].digest,
            offset=place.offset,
            length=place.length,
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
        kept={pack.kept: pack.digest for pack in files if pack.kept is not None},
    )


def _digests(
    parts: Mapping[str, Part], progress: Callable[[int], None] | None
) -> dict[str, Digest]:
    """Return the digest of each tensor, by name."""

    def digest(name: str) -> Digest:
        part = parts[name]
        found = digest_file(part.path, part.offset, part.length)
        if progress is not None:
            progress(part.length)
        return found

    names = list(parts)
    return dict(zip(names, on_all_cores(digest, names, lambda n: parts[n].length), strict=True))


def _kept(
    groups: Sequence[Mapping[str, Part]], drafts: Sequence[WrittenPack]
) -> tuple[list[WrittenPack], list[Mapping[str, Part]]]:
    """Return the drafts that have just the tensors of a group, and the groups that have none."""
    kept, rest = [], []
    for group in groups:
        draft = next((draft for draft in drafts if draft.parts == group), None)
        if draft is None:
            rest.append(group)
        else:
            kept.append(draft)
    return kept, rest


def _shrunk(
    parts: Mapping[str, Part],
    holdings: Holdings,
    bases: Mapping[TensorIdentity, TensorEntry],
    spool: Path,
) -> dict[TensorIdentity, tuple[Part, Encoding]]:
    """Return the encoded form of each tensor that has a base and becomes smaller."""

    def shrink(key: TensorIdentity) -> tuple[Part, Encoding] | None:
        name = holdings.missing[key]
        old = holdings.read(bases[key], f"the earlier tensor {name!r}")
        return _encoded(name, parts[name], old, key, bases[key], spool / key.digest[7:])

    if not bases:
        return {}
    with ThreadPoolExecutor(system.available_cores()) as pool:
        found = zip(bases, pool.map(shrink, bases), strict=True)
        return {key: part for key, part in found if part is not None}


def _encoded(
    name: str,
    part: Part,
    old: memoryview,
    key: TensorIdentity,
    base: TensorEntry,
    target: Path,
) -> tuple[Part, Encoding] | None:
    """Write the tensor's encoded form to ``target`` if it is smaller; else return None.

    Raises:
        ReleaseError: The tensor was changed since it was hashed.
    """
    with (
        open_file(part.path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as whole,
        whole[part.offset : part.offset + part.length] as new,
    ):
        encoded = encode(new, old, part.dtype)
        if encoded is not None and digest_bytes(new) != key.digest:
            raise ReleaseError("M859", path=part.path, what=f"tensor {name!r}")
    if encoded is None:
        return None
    method, payload = encoded
    write_atomically(target, payload)
    on = None if method == "planes" else base.digest
    return Part(target, "U8", (len(payload),), 0, len(payload)), Encoding(method, on)
