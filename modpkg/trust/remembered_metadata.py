"""What a reader remembers of one registry's metadata, in modpkg's home."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from modpkg.core import bounds
from modpkg.core.errors import InstallError, TrustError
from modpkg.core.file_lock import file_lock
from modpkg.core.files import write_atomically
from modpkg.core.regular_file import read_file
from modpkg.registry.late_copies import keep_copy, waiting_copy

FIRST_ROOT = "1.root.json"


class RememberedMetadata:
    """The folder with the roots, the timestamp and the snapshot, and copies of other files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        """Return a file; None if there is none that can be read."""
        path = self._folder / name
        if (waiting := waiting_copy(path)) is not None:
            return waiting
        try:
            return read_file(path, bounds.TUF_FILE_BYTES)
        except OSError:
            return None

    def keep(
        self, files: dict[str, bytes], *, refused: bytes | None = None, root: int | None = None
    ) -> None:
        """Keep files that were verified, unless another command has kept newer ones meanwhile.

        Args:
            files: The files; a first root is never replaced.
            refused: What was remembered and does not verify any more, however high its version.
            root: The version of the root that they were verified by; None for roots themselves.
        """
        from modpkg.trust.metadata import version_of  # what is not signed needs none

        changed = {n: data for n, data in files.items() if self.read(n) != data}
        with contextlib.suppress(OSError, InstallError):  # then nothing can be remembered
            if not changed:
                return
            with file_lock(self._folder / ".lock", exclusive=True):
                following = None if root is None else self.read(f"{root + 1}.root.json")
                if following is not None and version_of(following) > (root or 0):
                    return  # the keys that signed them may count no more
                for name, data in changed.items():
                    known = self.read(name)
                    is_older = known is None or version_of(known) <= version_of(data)
                    if known in (None, refused) or (is_older and name != FIRST_ROOT):
                        write_atomically(self._folder / name, data)

    def keep_copy(self, name: str, data: bytes) -> None:
        """Keep a copy of a file that was verified, and that is fetched again if it is lost."""
        keep_copy(self._folder / name, data)


def is_taken(take: Callable[[], object]) -> bool:
    """Return whether something that is remembered can be taken."""
    try:
        take()
    except TrustError:
        return False
    return True
