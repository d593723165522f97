"""Files whose bytes this process has verified, so that it need not hash them again."""

from __future__ import annotations

import os
from pathlib import Path

Stat = tuple[int, int, int, int]


class VerifiedFiles:
    """A set of files that were verified, each valid while its stat is unchanged.

    A file is recognised by device, inode, size and modification time, as git's index does. The set
    is passed on explicitly and never saved: another process hashes again.
    """

    def __init__(self) -> None:
        self._stats: dict[str, Stat] = {}

    def add(self, path: str | Path) -> None:
        """Add a file, all bytes of which that are used were just verified."""
        self._stats[os.fspath(path)] = _stat(path)

    def __contains__(self, path: str | Path) -> bool:
        known = self._stats.get(os.fspath(path))
        try:
            return known is not None and known == _stat(path)
        except OSError:
            return False


def _stat(path: str | Path) -> Stat:
    result = os.stat(path)
    return result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns
