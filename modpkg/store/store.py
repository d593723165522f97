"""The store: every blob of every release on this machine, each once, each verified."""

from __future__ import annotations

from pathlib import Path

from modpkg.digests import Digest, parse_digest
from modpkg.files import write_atomically
from modpkg.installed import InstalledModule, TensorRef
from modpkg.records import ReleaseRecord, decode_record
from modpkg.tree import BlobTree


class Store:
    """One folder per user, in the layout of a registry's blobs.

    ``checked/`` holds an empty file for each release whose record and packs have been checked
    against each other; a blob alone is only known to hash to its name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobTree(root)

    def record(self, release: str, what: str) -> ReleaseRecord | None:
        """Return a release record that is here; None when it is not.

        Raises:
            DigestMismatch, BadRecord: what is here is damaged.
        """
        digest = parse_digest(release)
        if not self.blobs.has(digest):
            return None
        return decode_record(self.blobs.read(digest, what), ReleaseRecord, what)

    def is_checked(self, release: str) -> bool:
        """Say whether a release was checked as a whole."""
        return self._mark(release).exists()

    def mark_checked(self, release: str) -> None:
        """Remember that a release was checked as a whole."""
        write_atomically(self._mark(release), b"")

    def forget_checked(self, release: str) -> None:
        """Have the release checked again."""
        self._mark(release).unlink(missing_ok=True)

    def _mark(self, release: str) -> Path:
        return self.root / "checked" / parse_digest(release)[7:]

    def size_of(self, digest: Digest) -> int | None:
        """Return the length of a blob that is here; None when it is not."""
        try:
            return self.blobs.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def module(self, record: ReleaseRecord, release: str) -> InstalledModule:
        """Return a module whose blobs are all here, as composing wants it."""
        paths = {pack: str(self.blobs.path(parse_digest(pack))) for pack in record.packs}
        return InstalledModule(
            name=record.name,
            version=record.version,
            kind=record.kind,
            release=release,
            record=record,
            tensors={
                name: TensorRef(
                    file=paths[entry.pack],
                    offset=entry.offset,
                    length=entry.length,
                    dtype=entry.dtype,
                    shape=entry.shape,
                    digest=entry.digest,
                )
                for name, entry in record.tensors.items()
            },
            files={
                path: self.blobs.path(parse_digest(entry.digest))
                for path, entry in record.files.items()
            },
        )
