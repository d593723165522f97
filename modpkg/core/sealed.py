"""Sealed records: JSON files of modpkg's own, with a checksum inside.

They are not named by their digest, so they begin with it: ``{"seal":"sha256:…",…}``, the sha256
of the canonical JSON of the rest. It detects damage; it is not a signature.
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
    """Check that the bytes are as `seal` returned them.

    Raises:
        msgspec.ValidationError: They are not.
    """
    if data != _sealed(b"{" + data[_BODY:]):
        raise msgspec.ValidationError("its seal does not match: it was changed or damaged")


def unseal(data: bytes, kind: type[T]) -> T:
    """Return the record of sealed bytes.

    Raises:
        msgspec.MsgspecError: The bytes were changed, or are not such a record.
    """
    check_seal(data)
    return msgspec.json.decode(data, type=kind)


def _sealed(body: bytes) -> bytes:
    return _BEGIN + digest_bytes(body).encode() + b'",' + body[1:]
