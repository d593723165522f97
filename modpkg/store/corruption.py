"""Corruption: bytes in the store that do not match their digest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import Digest, digest_file
from modpkg.core.errors import PackError
from modpkg.core.filenames import COMPOSED_RECORD, COMPOSED_WEIGHTS, composed_weights
from modpkg.core.packs import COMPOSED_PACKS, PackTensor, read_pack_header
from modpkg.core.printable import os_reason
from modpkg.core.records import DigestText
from modpkg.core.regular_file import read_file
from modpkg.core.sealed import unseal
from modpkg.store.contents import COMPOSED, StoreContents
from modpkg.store.store import Store

StoredPlace = tuple[int, int, int, int, str]
"""Device, inode, offset, length and digest."""
_MISMATCH = "its bytes have another digest"


class Corruption(Struct, frozen=True, kw_only=True):
    """One tensor, file, pack or composed result that was damaged since it was stored."""

    kind: Literal["tensor", "pack", "file", "composed"]
    """``pack`` if the file as a whole cannot be read."""
    path: str
    digest: str
    """The expected digest; of a pack or composed result, the one that it is named by."""
    offset: int = 0
    length: int = 0
    """Bytes of a tensor."""
    reason: str = _MISMATCH

    def place(self) -> StoredPlace:
        """Return where the bytes are, whichever of the links to a file has them.

        Raises:
            OSError: They are not there.
        """
        status = Path(self.path).stat()
        return status.st_dev, status.st_ino, self.offset, self.length, self.digest


class _ComposedDigests(Struct):
    """What ``composed.json`` says of a result's tensors: digests by name, and number of packs."""

    digests: dict[str, DigestText]
    packs: int = 1


def find_corruption(
    store: Store, contents: StoreContents, progress: Callable[[int], None] | None = None
) -> list[Corruption]:
    """Hash everything in the store that has a digest, and return what does not match.

    ``progress`` is called, in any thread, with the bytes hashed.
    """
    return corrupt_among(_items(store, contents), progress)


def corrupt_among(
    items: Iterable[Corruption], progress: Callable[[int], None] | None = None
) -> list[Corruption]:
    """Hash what has to have a digest, each as what is reported if it has another; return these.

    ``progress`` is called, in any thread, with the bytes hashed.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        checked = pool.map(lambda item: _checked(item, progress), items)
        return [item for item in checked if item is not None]


def _items(store: Store, contents: StoreContents) -> Iterator[Corruption]:
    """Yield everything to check, each as what is reported if it does not match."""
    for name in contents.packs:
        path = store.packs.path(name)
        try:
            places = store.packs.read(name)
        except PackError as error:
            reason = str(error.values["reason"])
            yield Corruption(kind="pack", path=str(path), digest=f"sha256:{name}", reason=reason)
            continue
        yield from _tensors("tensor", path, {**places})
    for digest, item in contents.blobs.items():
        path = store.blobs.path(digest)
        yield Corruption(kind="file", path=str(path), digest=digest, length=item.size)
    for key in contents.composed:
        folder = store.root / COMPOSED / key[7:9] / key[7:]
        yield from _composed(folder, key)


def _composed(folder: Path, key: Digest) -> Iterator[Corruption]:
    weights = folder / COMPOSED_WEIGHTS
    record = folder / COMPOSED_RECORD
    if not record.exists():
        return  # never finished, so never used
    places: dict[str, tuple[Path, PackTensor]] = {}
    try:
        known = unseal(read_file(record), _ComposedDigests)
        for number in range(min(known.packs, COMPOSED_PACKS)):
            weights = folder / composed_weights(number, known.packs)
            places |= {name: (weights, place) for name, place in read_pack_header(weights).items()}
        if places.keys() != known.digests.keys():
            raise ValueError("its tensors are not those of composed.json")
    except (OSError, msgspec.MsgspecError, PackError, ValueError) as error:
        if isinstance(error, PackError):
            reason = str(error.values["reason"])
        elif isinstance(error, msgspec.MsgspecError):
            reason = decoding_reason(error)
        else:
            reason = os_reason(error)
        yield Corruption(kind="composed", path=str(weights), digest=key, reason=reason)
        return
    for name, (path, place) in places.items():
        yield from _tensors("composed", path, {known.digests[name]: place})


def _tensors(
    kind: Literal["tensor", "composed"], path: Path, places: dict[str, PackTensor]
) -> Iterator[Corruption]:
    for digest, place in places.items():
        yield Corruption(
            kind=kind, path=str(path), digest=digest, offset=place.offset, length=place.length
        )


def _checked(item: Corruption, progress: Callable[[int], None] | None) -> Corruption | None:
    if item.reason != _MISMATCH:
        return item
    try:
        matches = digest_file(Path(item.path), item.offset, item.length) == item.digest
    except OSError as error:
        return msgspec.structs.replace(item, reason=os_reason(error))
    if progress is not None:
        progress(item.length)
    return None if matches else item
