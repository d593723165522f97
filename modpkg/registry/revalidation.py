"""Revalidation: a remote file that may change is fetched again only if it has changed.

Beside the file in the cache lies what the server sent with it, an ETag or a date, which the next
request sends back (RFC 9110, conditional requests). It has the digest of the file that it came
with: of a file that is damaged, or was written by another process meanwhile, nothing is claimed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.digests import digest_bytes
from modpkg.core.errors import InstallError
from modpkg.core.files import write_atomically
from modpkg.core.regular_file import read_file
from modpkg.registry.source import Source
from modpkg.registry.validator import Validator

SUFFIX = ".validator"


class _Seen(Struct, frozen=True):
    """What came with a file."""

    digest: str
    """Of the file."""
    validator: Validator


_DECODER = msgspec.json.Decoder(_Seen)


def revalidated(source: Source, path: str, cached: Path, most: int) -> bytes:
    """Return a file of a source, from ``cached`` if the source says that it has not changed.

    Raises:
        What `asked` raises.
    """
    data, keep = asked(source, path, cached, most)
    keep()
    return data


def asked(source: Source, path: str, cached: Path, most: int) -> tuple[bytes, Callable[[], None]]:
    """Return a file as `revalidated` does, and what keeps it in the place of ``cached``.

    Raises:
        FileMissing: The source has no such file.
        RegistryUnreachable: The file cannot be read.
        RegistryError: The file has over ``most`` bytes.
    """
    beside = cached.with_name(cached.name + SUFFIX)
    before = _read(cached)
    seen = None if before is None else _seen(beside, before)
    content = source.read_changed(path, None if seen is None else seen.validator, most)
    if content is None:
        if before is None:
            raise AssertionError(f"{path} was asked for without a condition")
        return before, keep_nothing

    def keep() -> None:
        write_changed(cached, content.data, before)
        if content.validator is not None:
            seen = _Seen(digest_bytes(content.data), content.validator)
            write_changed(beside, msgspec.json.encode(seen))

    return content.data, keep


def keep_nothing() -> None:
    """Keep no copy, as where it is there already."""


def write_changed(path: Path, data: bytes, before: bytes | None = None) -> None:
    """Write a file if it does not have this content; ``before``: what it has, if that is known."""
    with contextlib.suppress(OSError, InstallError):  # a cache that cannot be written is none
        if (_read(path) if before is None else before) != data:
            write_atomically(path, data)


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError:
        return None


def _seen(path: Path, data: bytes) -> _Seen | None:
    """Return what came with a file of this content; None if that is not known."""
    text = _read(path)
    try:
        seen = None if text is None else _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return seen if seen is not None and seen.digest == digest_bytes(data) else None
