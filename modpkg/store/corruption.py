"""Damage: bytes in the store that are not what their digest says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from modpkg.core.digests import Digest, digest_file
from modpkg.core.errors import PackError
from modpkg.core.filenames import COMPOSED_RECORD, COMPOSED_WEIGHTS
from modpkg.core.packs import PackTensor, read_pack_header
from modpkg.core.records import DigestText
from modpkg.core.sealed import unseal
from modpkg.store.contents import COMPOSED, Contents
from modpkg.store.store import Store

_OTHER = "its bytes have another digest"


class Damage(Struct, frozen=True, kw_only=True):
    """One thing that is not as it was when it came."""

    kind: Literal["tensor", "pack", "file", "composed"]
    """``pack``: the file cannot be read at all."""
    path: str
    digest: str
    """What it should hash to; of a pack and a composed result, what it is named by."""
    offset: int = 0
    length: int = 0
    """Bytes of a tensor."""
    reason: str = _OTHER


class _ComposedDigests(Struct):
    """What ``composed.json`` says of a result's tensors, by name."""

    digests: dict[str, DigestText]


def find_damage(
    store: Store, contents: Contents, progress: Callable[[int], None] | None = None
) -> list[Damage]:
    """Hash everything in the store that has a digest; ``progress`` is called with bytes done."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        checked = pool.map(lambda item: _checked(item, progress), _items(store, contents))
        return [damage for damage in checked if damage is not None]


def _items(store: Store, contents: Contents) -> Iterator[Damage]:
    """Yield all there is to check, each as the damage that it would be."""
    for name in contents.packs:
        path = store.packs.path(name)
        try:
            places = store.packs.read(name)
        except PackError as error:
            reason = str(error.values["reason"])
            yield Damage(kind="pack", path=str(path), digest=f"sha256:{name}", reason=reason)
            continue
        yield from _tensors("tensor", path, {**places})
    for digest, item in contents.blobs.items():
        path = store.blobs.path(digest)
        yield Damage(kind="file", path=str(path), digest=digest, length=item.size)
    for key in contents.composed:
        folder = store.root / COMPOSED / key[7:9] / key[7:]
        yield from _composed(folder, key)


def _composed(folder: Path, key: Digest) -> Iterator[Damage]:
    weights = folder / COMPOSED_WEIGHTS
    record = folder / COMPOSED_RECORD
    if not record.exists():
        return  # never finished, never trusted
    try:
        known = unseal(record.read_bytes(), _ComposedDigests).digests
        places = read_pack_header(weights)
        if places.keys() != known.keys():
            raise ValueError("it holds other tensors than composed.json says")
    except (OSError, msgspec.MsgspecError, PackError, ValueError) as error:
        reason = str(error.values["reason"]) if isinstance(error, PackError) else str(error)
        yield Damage(kind="composed", path=str(weights), digest=key, reason=reason)
        return
    yield from _tensors("composed", weights, {known[name]: places[name] for name in known})


def _tensors(
    kind: Literal["tensor", "composed"], path: Path, places: dict[str, PackTensor]
) -> Iterator[Damage]:
    for digest, place in places.items():
        yield Damage(
            kind=kind, path=str(path), digest=digest, offset=place.offset, length=place.length
        )


def _checked(item: Damage, progress: Callable[[int], None] | None) -> Damage | None:
    if item.reason != _OTHER:
        return item
    try:
        sound = digest_file(Path(item.path), item.offset, item.length) == item.digest
    except OSError as error:
        return msgspec.structs.replace(item, reason=error.strerror or str(error))
    if progress is not None:
        progress(item.length)
    return None if sound else item
