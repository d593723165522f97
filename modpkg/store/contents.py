"""What lies in the store, as its folders show it: names, sizes and times of last use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest
from modpkg.store.store import Store

COMPOSED = "composed"
"""Folder of composed results: ``<aa>/<hex>/``, named by the digest of what went in."""
TESTED = "tested"
"""Folder of what tests gave: ``<aa>/<hex>``, named by the digest of what was tested, and how."""
PARTIAL = "partial"
"""Folder of packs that are not whole yet."""
_HEX = re.compile(r"[0-9a-f]{64}")


class Item(Struct, frozen=True):
    """A file or folder of the store."""

    size: int
    """Bytes."""
    used: float
    """When it was last used or written, in seconds of `time.time`."""


class Contents(Struct, frozen=True, kw_only=True):
    """Everything in the store that takes room."""

    releases: dict[Digest, float]
    """Installed releases, with the time of their last use."""
    packs: dict[str, Item]
    """By name."""
    blobs: dict[Digest, Item]
    composed: dict[Digest, Item]
    """By the digest of what went in."""
    partial: dict[Path, Item]
    tested: dict[Digest, Item] = {}
    """What tests gave, likewise; nothing needs it, but having it spares another run."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        kinds = (self.packs, self.blobs, self.composed, self.partial, self.tested)
        return sum(item.size for kind in kinds for item in kind.values())


def contents_of(store: Store) -> Contents:
    """Look through the store's folders; no file is read."""
    root = store.root
    return Contents(
        releases={digest: item.used for digest, item in _named(root / "checked").items()},
        packs={name: _item(store.packs.path(name)) for name in store.packs.sizes()},
        blobs=_by_digest(root / "blobs" / "sha256"),
        composed=_by_digest(root / COMPOSED),
        tested=_by_digest(root / TESTED),
        partial={Path(entry.path): _item(Path(entry.path)) for entry in _entries(root / PARTIAL)},
    )


def _by_digest(folder: Path) -> dict[Digest, Item]:
    found: dict[Digest, Item] = {}
    for part in _entries(folder):
        found |= _named(Path(part.path))
    return found


def _named(folder: Path) -> dict[Digest, Item]:
    """Return what in a folder is named by a digest; unfinished files are not."""
    return {
        Digest(f"sha256:{entry.name}"): _item(Path(entry.path))
        for entry in _entries(folder)
        if _HEX.fullmatch(entry.name)
    }


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        yield from sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return


def _item(path: Path) -> Item:
    """Return the size of a file, or of all files in a folder, and the newest time on them."""
    stats = [file.stat() for file in path.iterdir()] if path.is_dir() else [path.stat()]
    return Item(
        sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)
    )
