"""Packs of the store under other names, for folders that other tools read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from modpkg.core.digests import file_chunks
from modpkg.core.files import write_atomically
from modpkg.core.installed import TensorRef
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.packs import pack_order
from modpkg.core.tensors import types_of
from modpkg.core.tree import changed_file
from modpkg.store.packs import lay_out
from modpkg.store.store import Store


def pack_named(store: Store, tensors: Mapping[str, TensorRef], packs: Path) -> Path:
    """Return a pack of the store with these tensors under these names; it is written if it is new.

    Args:
        store: The store.
        tensors: The tensors by name, each verified as it is copied.
        packs: The folder of relative files.

    Raises:
        IntegrityError: A tensor has changed since it was verified.
        InstallError: The disk is full.
        OSError: A file cannot be read, or the store cannot be written.
    """
    layout = lay_out(types_of(tensors), {name: ref.digest for name, ref in tensors.items()})
    path = store.packs.path(layout.name)
    if store.packs.has(layout):
        return path
    staged = temporary_sibling(store.root / "partial" / layout.name)

    def chunks() -> Iterator[bytes]:
        yield layout.header
        for name in pack_order(types_of(tensors)):
            yield from verified_chunks(name, tensors[name], packs)

    with store.lock():
        try:
            write_atomically(staged, chunks())
            store.add_pack(staged, layout)
        finally:
            discard(staged)
    return path


def verified_chunks(name: str, ref: TensorRef, packs: Path) -> Iterator[bytes]:
    """Yield a tensor's bytes, and check its digest at the end.

    Raises:
        IntegrityError: It has changed since it was verified.
    """
    path, state = packs / ref.file, hashlib.sha256()
    for chunk in file_chunks(path, ref.offset, ref.length):
        state.update(chunk)
        yield chunk
    if f"sha256:{state.hexdigest()}" != ref.digest:
        raise changed_file(f"tensor {name!r}", path)
