"""A small log is read whole: that takes fewer requests than asking where each release is.

All its entries come in a few bundles, and all its hashes are made of them. The tree that they give
has the root that is signed, or no proof holds; nothing else is believed of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from modpkg.core.records import IndexLine
from modpkg.registry.signature_files import asked_at_once
from modpkg.trust.log.entries import (
    LogEntry,
    LoggedRelease,
    is_release_of,
    is_void_of,
    parse_entry,
)
from modpkg.trust.log.merkle import NodeHash, leaf_hash
from modpkg.trust.log.tiles import (
    TILE_WIDTH,
    Tile,
    TileHashes,
    entries_in,
    entry_bundles,
    grown_tiles,
)

SMALL = 8 * TILE_WIDTH
"""Entries of a log that is read whole: a few hundred kilobytes."""
_SIZE = re.compile(rb"[^\n]*\n([0-9]{1,10})\n")
_RELEASE = re.compile(rb'"release":"(sha256:[0-9a-f]{64})"')


def size_in(checkpoint: bytes) -> int | None:
    """Return how many entries a checkpoint says that its log has; nothing of it is verified."""
    found = _SIZE.match(checkpoint)
    return None if found is None else int(found[1])


class WholeLog:
    """All entries of a log."""

    def __init__(self, size: int, read: Callable[[Tile], bytes], registry: str, at_once: bool):
        """Read them.

        Args:
            size: How many there are.
            read: Returns the file of a bundle.
            registry: Whose log it is, for messages.
            at_once: Whether files are read at the same time.

        Raises:
            TrustError: A bundle is missing or damaged.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        bundles = entry_bundles(size)
        files = asked_at_once([partial(read, one) for one in bundles], is_remote=at_once)
        self._entries = [
            entry
            for bundle, data in zip(bundles, files, strict=True)
            for entry in entries_in(bundle, data, registry)
        ]
        leaves = [leaf_hash(entry) for entry in self._entries]
        self.node: NodeHash = TileHashes(size, grown_tiles(0, {}, leaves))
        """The hashes of its tree."""

    def places(self, lines: Sequence[IndexLine], origin: str) -> dict[str, LoggedRelease]:
        """Return where releases are in it, by their digests; the last entry of each counts.

        One that is void since is not in it.
        """
        wanted = {line.release: line for line in lines}
        found = {}
        for index, entry in enumerate(self._entries):
            about = _RELEASE.search(entry)
            line = None if about is None else wanted.get(about[1].decode())
            if line is None or (said := _parsed(entry)) is None:
                continue
            if is_release_of(said, line, origin):
                found[line.release] = LoggedRelease(index, entry.decode())
            elif is_void_of(said, line):
                found.pop(line.release, None)
        return found


def _parsed(entry: bytes) -> LogEntry | None:
    try:
        return parse_entry(entry)
    except ValueError:  # a newer modpkg has written it
        return None
