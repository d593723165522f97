"""Sealed records: JSON that modpkg wrote for itself, and that shows when a bit of it changed.

Nothing else names these files by a digest, so they begin with their own: ``{"seal":"sha256:…",…}``,
the sha256 of the canonical JSON of the rest. It tells of damage; it is no signature.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from modpkg.core.digests import digest_bytes
from modpkg.core.records import canonical_json

_BEGIN = b'{"seal":"'
_BODY = len(_BEGIN) + len("sha256:") + 64 + len('",')

T = TypeVar("T")


def seal(record: Any) -> bytes:
    """Return a record with at least one field as canonical JSON, under a seal."""
    return _sealed(canonical_json(record))


def check_seal(data: bytes) -> None:
    """Check that the bytes are what `seal` gave.

    Raises:
        msgspec.ValidationError: they are not.
    """
    if data != _sealed(b"{" + data[_BODY:]):
        raise msgspec.ValidationError("it is not as modpkg wrote it")


def unseal(data: bytes, kind: type[T]) -> T:
    """Return the record of sealed bytes.

    Raises:
        msgspec.MsgspecError: they were changed, or are no such record.
    """
    check_seal(data)
    return msgspec.json.decode(data, type=kind)


def _sealed(body: bytes) -> bytes:
    return _BEGIN + digest_bytes(body).encode() + b'",' + body[1:]
