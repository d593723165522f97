"""Revalidation: a remote file that may change is fetched again only if it has changed.

Beside the file in the cache lies what the server sent with it, an ETag or a date, which the next
request sends back (RFC 9110, conditional requests). It has the digest of the file that it came
with: of a file that is damaged, or was written by another process meanwhile, nothing is claimed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.digests import digest_bytes
from modpkg.core.errors import InstallError
from modpkg.core.files import write_atomically
from modpkg.core.regular_file import read_file
from modpkg.registry.late_copies import keep_copy
from modpkg.registry.source import Source
from modpkg.registry.validator import Validator

SUFFIX = ".validator"


class _Seen(Struct, frozen=True):
    """What came with a file."""

    digest: str
    """Of the file."""
    validator: Validator


_DECODER = msgspec.json.Decoder(_Seen)


class Sent(Struct, frozen=True):
    """A file as a source has it now, and where a copy of it is kept."""

    data: bytes
    copy: Path | None = None
    """Where; None if the copy is there already, or none is kept."""
    before: bytes | None = None
    """What the copy has so far."""
    validator: Validator | None = None

    def keep(self, *, is_signed: bool = False) -> None:
        """Keep a copy, and what came with it.

        What ``is_signed`` as it is here is verified whenever it is read, and never asked for.
        """
        if self.copy is None:
            return
        if is_signed:
            if self.before != self.data:
                keep_copy(self.copy, self.data)
            return
        write_changed(self.copy, self.data, self.before)
        if self.validator is not None:
            seen = _Seen(digest_bytes(self.data), self.validator)
            write_changed(_beside(self.copy), msgspec.json.encode(seen))


def asked(source: Source, path: str, cached: Path, most: int) -> Sent:
    """Return a file of a source, from ``cached`` if the source says that it has not changed.

    Raises:
        FileMissing: The source has no such file.
        RegistryUnreachable: The file cannot be read.
        RegistryError: The file has over ``most`` bytes.
    """
    before = _read(cached)
    seen = None if before is None else _seen(_beside(cached), before)
    content = source.read_changed(path, None if seen is None else seen.validator, most)
    if content is not None:
        return Sent(content.data, cached, before, content.validator)
    if before is None:
        raise AssertionError(f"{path} was asked for without a condition")
    return Sent(before)


def _beside(cached: Path) -> Path:
    return cached.with_name(cached.name + SUFFIX)


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
