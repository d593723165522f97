"""A tree of blobs: the layout shared by registries, builds, vendored copies and the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from modpkg.core import system
from modpkg.core.digests import Digest, blob_path, digest_bytes, digest_file
from modpkg.core.errors import IntegrityError
from modpkg.core.filenames import ENVIRONMENT
from modpkg.core.files import (
    copy_file,
    disk_errors,
    make_folder,
    rename,
    share_file,
    write_atomically,
)
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.regular_file import check_regular, read_file

if TYPE_CHECKING:
    from modpkg.core.records import FileEntry


class BlobTree:
    """Immutable bytes under ``root/blobs/sha256/<aa>/<hex>``, named by their digest.

    What is written goes through no link below the folder ``within``, or in the last folder if it is
    None: a shared tree may have links of its owner.
    """

    def __init__(self, root: Path, within: Path | None = None) -> None:
        self.root = root
        self._within = within or root / "blobs" / "sha256"

    def path(self, digest: Digest) -> Path:
        """Return the path of a blob, whether or not it exists."""
        return self.root / blob_path(digest)

    def has(self, digest: Digest) -> bool:
        """Return whether the blob exists; blobs appear complete, by rename."""
        return self.path(digest).is_file()

    def read(self, digest: Digest, what: str) -> bytes:
        """Return a small blob's bytes, verified.

        Raises:
            IntegrityError: The blob is missing or damaged; `what` describes it in the message.
        """
        try:
            data = read_file(self.path(digest))
        except FileNotFoundError:
            raise IntegrityError("M306", what=what, digest=digest, source=self.root) from None
        check_digest(data, digest, what, str(self.root))
        return data

    def add(self, data: bytes) -> Digest:
        """Add a small blob and return its digest."""
        digest = digest_bytes(data)
        if not self.has(digest):
            write_atomically(self.path(digest), data, mode=0o444, within=self._within)
        return digest

    def add_stream(self, chunks: Iterable[bytes], expected: Digest, what: str, source: str) -> None:
        """Add a blob of any size whose digest is known.

        Raises:
            IntegrityError: The bytes have another digest; nothing was added.
            InstallError: The disk is full; nothing was added.
        """
        target = self.path(expected)
        staged = temporary_sibling(target)
        try:
            actual = write_atomically(staged, chunks, mode=0o444, within=self._within)
            if actual != expected:
                raise IntegrityError(
                    "M305", what=what, expected=expected, actual=actual, source=source
                )
            rename(staged, target, within=self._within)
        finally:
            discard(staged)

    def add_shared(
        self,
        source: BlobTree,
        expected: Digest,
        what: str,
        proven: Callable[[], bool] = lambda: False,
    ) -> None:
        """Add a blob of another tree of this user's, without a copy where possible.

        What is added is hashed, unless it is the file itself, and ``proven`` says then that it is
        as it was when it was hashed.

        Raises:
            IntegrityError: It is missing or damaged there; nothing was added.
            InstallError: The disk is full; nothing was added.
            OSError: It cannot be read.
        """
        target, found = self.path(expected), source.path(expected)
        try:
            check_regular(found)
        except FileNotFoundError:
            raise IntegrityError("M306", what=what, digest=expected, source=source.root) from None
        with disk_errors(target.parent, target):
            make_folder(target.parent, within=self._within)
        staged = temporary_sibling(target)
        try:
            with disk_errors(target.parent, target):
                is_itself = share_file(found, staged, within=self._within)
                if not (is_itself and proven()):
                    actual = digest_file(staged)
                    if actual != expected:
                        raise IntegrityError(
                            "M305", what=what, expected=expected, actual=actual, source=source.root
                        )
                system.sync_file(staged)
                rename(staged, target, within=self._within)
                system.sync_folder(target.parent)
        finally:
            discard(staged)


def copy_verified(source: Path, target: Path, entry: FileEntry | None, what: str) -> None:
    """Write the bytes of a file to a new one, and verify them if a record names the file.

    Raises:
        IntegrityError: They have another digest; ``what`` describes them.
    """
    copy_file(source, target, mode=0o644)
    if entry is not None and digest_file(target) != entry.digest:
        raise changed_file(what, source)


def changed_file(what: str, path: str | Path) -> IntegrityError:
    """Return the error for a file of the store, or of an environment, that was changed.

    A pack of an environment may be a copy, of which the store knows nothing.
    """
    path = Path(path)
    remedy = "run 'modpkg store verify' to repair it"
    if ENVIRONMENT in path.parts:
        again = f"remove {path} and run 'modpkg install'"
        is_linked = path.is_file() and path.stat().st_nlink > 1
        remedy = f"{remedy}; if that finds nothing, {again}" if is_linked else again
    return IntegrityError("M508", what=what, path=path, remedy=remedy)


def check_digest(data: bytes, expected: Digest, what: str, source: str) -> None:
    """Raise `IntegrityError` unless ``data`` hashes to ``expected``."""
    actual = digest_bytes(data)
    if actual != expected:
        raise IntegrityError("M305", what=what, expected=expected, actual=actual, source=source)
