"""The release of a base that a module is built against."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.core.digests import Digest
from modpkg.core.filenames import CONFIG
from modpkg.core.records import BuiltFrom, Provides, ReleaseRecord


class Base(Struct, frozen=True):
    """The release of a base that a module is built against."""

    release: Digest
    record: ReleaseRecord
    provides: Provides
    read: Callable[[str, str], bytes]
    """Return one of its files by digest; the second argument names it in errors."""
    parts: tuple[BuiltFrom, ...] = ()
    """What it is composed of, if it has no weights of its own: then ``record`` has those that it is
    composed to, which no registry has."""
    others: Callable[[], Iterable[Base]] = tuple
    """Return the other releases that it may have been made for, newest first."""

    def config(self) -> dict[str, Any]:
        """Return its ``config.json``; empty if it has none that can be read."""
        record = self.record
        if CONFIG not in record.files:
            return {}
        data = self.read(record.files[CONFIG].digest, f"{CONFIG} of {record.name} {record.version}")
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return {}
