"""What is in the store: names, sizes and times of last use, from its folders alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest
from modpkg.core.home import exports_folder, hub_folder
from modpkg.core.leftovers import TEMPORARY, leftovers
from modpkg.store.store import Store

COMPOSED = "composed"
"""Folder of composed results: ``<aa>/<hex>/``, named by the digest of their inputs."""
TESTED = "tested"
"""Folder of test results: ``<aa>/<hex>``, named by the digest of model and test."""
INDEXES = "index-cache"
"""Folder of copies of registries' index files."""
PARTIAL = "partial"
"""Folder of unfinished packs."""
_HEX = re.compile(r"[0-9a-f]{64}")


class StoreItem(Struct, frozen=True):
    """A file or folder of the store."""

    size: int
    """Bytes."""
    used: float
    """When it was last used or written, in seconds of `time.time`."""


class StoreContents(Struct, frozen=True, kw_only=True):
    """Everything in the store that takes disk space."""

    releases: dict[Digest, float]
    """Installed releases, with the time of their last use."""
    packs: dict[str, StoreItem]
    """By name."""
    blobs: dict[Digest, StoreItem]
    composed: dict[Digest, StoreItem]
    """By the digest of the inputs."""
    partial: dict[Path, StoreItem]
    tested: dict[Digest, StoreItem] = {}
    """Cached test results; nothing needs them."""
    indexes: dict[Path, StoreItem] = {}
    """Files of registries that are kept for ``--offline``, and to tell what an index takes back."""
    left: dict[Path, StoreItem] = {}
    """Temporary files and folders of commands that were killed; see `left_over`."""

    @property
    def size(self) -> int:
        """Total size in bytes."""
        named = (self.packs, self.blobs, self.composed, self.tested)
        kinds = (*named, self.partial, self.indexes, self.left)
        return sum(item.size for kind in kinds for item in kind.values())


def scan_store(store: Store) -> StoreContents:
    """Return what is in the store's folders, and what was left beside it; no file is read."""
    root = store.root
    left = {path: _item(path) for path in left_over(root)}
    return StoreContents(
        releases={digest: item.used for digest, item in _named(root / "checked").items()},
        packs={name: _item(store.packs.path(name)) for name in store.packs.sizes()},
        blobs=_by_digest(root / "blobs" / "sha256"),
        composed=_by_digest(root / COMPOSED),
        tested=_by_digest(root / TESTED),
        indexes={path: _item(path) for path in _files_below(root / INDEXES) if path not in left},
        partial={
            path: _item(path)
            for path in (Path(entry.path) for entry in _entries(root / PARTIAL))
            if path not in left
        },
        left=left,
    )


def left_over(*roots: Path) -> list[Path]:
    """Return what killed commands have left anywhere in these folders.

    And in those of exports and of what was made of hubs, which nothing else tidies.
    """
    found, folders = [], [*roots, exports_folder(), hub_folder()]
    while folders:
        folder = folders.pop()
        found += leftovers(folder)
        folders += [
            Path(entry.path)
            for entry in _entries(folder)
            if not entry.name.startswith(TEMPORARY) and entry.is_dir(follow_symlinks=False)
        ]
    return sorted(found)


def _files_below(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path))
        else:
            yield Path(entry.path)


def _by_digest(folder: Path) -> dict[Digest, StoreItem]:
    items: dict[Digest, StoreItem] = {}
    for part in _entries(folder):
        items |= _named(Path(part.path))
    return items


def _named(folder: Path) -> dict[Digest, StoreItem]:
    """Return the files and folders that are named by a digest: temporary files are not."""
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


def _item(path: Path) -> StoreItem:
    """Return the size, and newest modification time, of a file or of all files in a folder.

    What killed commands have left in the folder is counted by itself.
    """
    if path.is_dir():
        stats = [file.stat() for file in path.iterdir() if not file.name.startswith(TEMPORARY)]
    else:
        stats = [path.stat()]
    return StoreItem(
        sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)
    )
