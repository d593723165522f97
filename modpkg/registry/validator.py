"""What tells a server which state of a file is known (RFC 9110: ETag, Last-Modified)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from msgspec import Struct

from modpkg.core.bounds import ETAG_CHARACTERS

SETTLED = timedelta(seconds=5)
"""How long ago a file was modified, for its date to stand for its content."""


class Validator(Struct, frozen=True):
    """An ETag, or else a date, and the address of the source that it came from."""

    address: str
    etag: str | None = None
    modified: datetime | None = None

    def condition(self, address: str) -> dict[str, Any]:
        """Return obstore's options of "if it has changed"; none if it came from elsewhere."""
        if self.address != address:
            return {}
        if self.etag is not None:
            return {"if_none_match": self.etag}
        return {} if self.modified is None else {"if_modified_since": self.modified}


class FetchedFile(Struct, frozen=True):
    """A file, and what it can be asked for again with; None where the source has no such thing."""

    data: bytes
    validator: Validator | None = None


def validator_of(address: str, meta: Mapping[str, Any]) -> Validator | None:
    """Return what a source sent with a file; None if it is of no use for asking again.

    A date is in seconds: of a file that has just been modified, it may not tell the next change.
    """
    etag, modified = meta.get("e_tag"), meta.get("last_modified")
    if etag is not None and len(etag) <= ETAG_CHARACTERS and etag.isascii() and etag.isprintable():
        return Validator(address, etag)
    if not modified or not modified.timestamp():  # obstore's value for no date
        return None
    if datetime.now(timezone.utc) - modified >= SETTLED:
        return Validator(address, modified=modified)
    return None
