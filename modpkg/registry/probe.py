"""Asking an object store whether it heeds the conditions that keep publishers apart."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError
from modpkg.registry.bucket_place import BucketPlace, ChangedMeanwhile

CREATE, SWAP = "If-None-Match: *", "If-Match"
RIVALS = 4
"""Requests at the same time, of which one may succeed."""
Version = dict[str, Any] | None


def probe(place: BucketPlace) -> list[str]:
    """Return which conditions a store ignores, in words for M848; none: it heeds them all.

    Small files are written, with names that readers ignore, and removed.

    Raises:
        PublishError: Nothing can be written there, or the store gives files no versions.
        RegistryUnreachable: It cannot be read.
    """
    with _scratch(place) as one, _scratch(place) as other:
        return list(dict.fromkeys((*_one_by_one(place, one), *_at_once(place, one, other))))


def _one_by_one(place: BucketPlace, path: str) -> Iterator[str]:
    first = place.replace(path, b"first", None)
    if _replaced(place, path, b"second", None):
        yield CREATE
    read = place.read(path, bounds.SMALL_FILE_BYTES)
    if read is None:
        yield "that it was written to"
    elif not _replaced(place, path, b"third", read[1]):
        yield f"{SWAP}, which it refuses with the ETag that it gave,"
    elif _replaced(place, path, b"fourth", first):
        yield SWAP


def _at_once(place: BucketPlace, path: str, absent: str) -> Iterator[str]:
    """Let several ask for the same at the same time: checking and writing may be two steps."""
    read = place.read(path, bounds.SMALL_FILE_BYTES)
    with ThreadPoolExecutor(RIVALS) as pool:
        for condition, where, version in ((CREATE, absent, None), (SWAP, path, read and read[1])):
            wishes = [
                pool.submit(_replaced, place, where, b"%d" % number, version)
                for number in range(RIVALS)
            ]
            if sum(wish.result() for wish in wishes) > 1:
                yield condition


def _replaced(place: BucketPlace, path: str, data: bytes, version: Version) -> bool:
    """Return whether a file was replaced on the condition that it has this version."""
    try:
        place.replace(path, data, version)
    except ChangedMeanwhile:
        return False
    return True


@contextlib.contextmanager
def _scratch(place: BucketPlace) -> Iterator[str]:
    """Give the name of a new file, which is removed in the end."""
    path = f".tmp-probe-{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        with contextlib.suppress(ModpkgError):
            place.remove(path)
