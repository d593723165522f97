"""Bins that are being changed, before they are signed."""

from __future__ import annotations

from modpkg.trust.metadata import SignedFile
from modpkg.trust.stored_metadata import StoredMetadata
from modpkg.trust.trusted_metadata import TrustedMetadata


class MetadataDraft:
    """Metadata that is being changed."""

    def __init__(self, trusted: TrustedMetadata, stored: StoredMetadata) -> None:
        self._trusted = trusted
        self._stored = stored
        self.bins: dict[str, dict[str, SignedFile]] = {}
        """The files of bins that are changed."""

    def file(self, path: str) -> SignedFile | None:
        role = self._trusted.bin_of(path)
        if role in self.bins:
            return self.bins[role].get(path)
        return self._stored.load_bin(self._trusted, role).file(path)

    def put(self, path: str, file: SignedFile | None) -> None:
        """Let a file be listed so, or not any more with None."""
        role = self._trusted.bin_of(path)
        files = self.bins.setdefault(role, dict(self.files(role)))
        if file is None:
            files.pop(path, None)
        else:
            files[path] = file

    def files(self, role: str) -> dict[str, SignedFile]:
        """Return the files of a bin as they will be."""
        if role in self.bins:
            return self.bins[role]
        return self._stored.load_bin(self._trusted, role).files()
