"""Digests: the names of blobs and tensors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NewType

from modpkg.core.errors import InvalidValue
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.regular_file import CutShort, open_unbuffered

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hex digits."""

CHUNK = 1 << 20
_FORM = lazy_pattern(r"sha256:[0-9a-f]{64}")


def parse_digest(text: str) -> Digest:
    """Return ``text`` as a digest.

    Raises:
        InvalidValue: `text` has another form. Every digest from outside passes here before it
            becomes part of a path.
    """
    if not isinstance(text, str) or _FORM.fullmatch(text) is None:
        raise InvalidValue("M104", digest=text)
    return Digest(text)


def digest_bytes(data: bytes | memoryview) -> Digest:
    """Return the digest of ``data``."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def git_blob_hash(size: int) -> hashlib._Hash:
    """Return a hash that names a file of ``size`` bytes as git does, once it is given these bytes.

    A hub names the files so that are not large.
    """
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def file_chunks(path: Path, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
    """Yield ``length`` bytes of a file from ``offset`` on (all by default), in chunks.

    Raises:
        OSError: It cannot be read, or not to its end.
    """
    with open_unbuffered(path) as file:
        left = os.fstat(file.fileno()).st_size - offset if length is None else length
        file.seek(offset)
        while left > 0:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                if os.fstat(file.fileno()).st_size >= file.tell() + left:
                    raise CutShort(path)
                return
            left -= len(chunk)
            yield chunk


def digest_file(path: Path, offset: int = 0, length: int | None = None) -> Digest:
    """Return the digest of a file, or of the part of it that begins at ``offset``.

    Threads hash side by side: none holds Python's lock while it reads or hashes.

    Raises:
        OSError: It cannot be read, or not to its end.
    """
    state = hashlib.sha256()
    with open_unbuffered(path) as file:
        left = os.fstat(file.fileno()).st_size - offset if length is None else length
        file.seek(offset)
        buffer = memoryview(bytearray(max(0, min(CHUNK, left))))  # one for all: fresh memory costs
        while left > 0:
            count = file.readinto(buffer[:left])
            if not count:
                if os.fstat(file.fileno()).st_size >= file.tell() + left:
                    raise CutShort(path)
                break
            state.update(buffer[:count])
            left -= count
    return digest_of(state)


def digest_of(state: hashlib._Hash) -> Digest:
    """Return the digest of what a SHA-256 was updated with."""
    return Digest("sha256:" + state.hexdigest())


def blob_path(digest: Digest) -> str:
    """Return the path of a blob in a registry or store, relative to its root.

    >>> blob_path(Digest("sha256:" + "ab" * 32))[:20]
    'blobs/sha256/ab/abab'
    """
    value = parse_digest(digest)[7:]
    return f"blobs/sha256/{value[:2]}/{value}"
