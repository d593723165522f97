"""What of a registry is not as it is signed, for who looks after it and has to read all of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from modpkg.core.errors import TrustError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.trust.signed_index import NOT_SIGNED, SignedIndex
from modpkg.trust.signed_paths import FOLDER


class IndexReport:
    """Notes what a reader would refuse, and returns files as they are.

    Args:
        signed: What says what is signed.
        private: Whether the files are those of the tree of private modules, beside the registry.
    """

    def __init__(self, signed: SignedIndex, *, private: bool = False) -> None:
        self._signed = signed
        self._private = private
        self.refused: dict[str, TrustError] = {}
        """By path: a file, or ``tuf`` if the metadata itself is refused."""

    @property
    def is_ready(self) -> bool:
        """Whether the metadata was read, or there is none."""
        return self._signed.is_ready

    def covers(self, path: str) -> bool:
        """Return whether a file is signed where anything is."""
        own = self._private and path == REGISTRY_INFO
        return FOLDER not in self.refused and not own and self._signed.covers(path)

    def checked(
        self, path: str, data: bytes | None, again: Callable[[], bytes | None]
    ) -> bytes | None:
        """Return a file as it is."""
        try:
            return self._signed.checked(path, data, again)
        except TrustError as error:
            self.refused.setdefault(path if error.code == NOT_SIGNED else FOLDER, error)
            return data

    def is_current(self, path: str, data: bytes) -> bool:
        """Return False: what is verified is what the registry sends."""
        return False

    def counts_offline(self, path: str, data: bytes) -> bool:
        """Return whether a file's copy may be read without asking the registry."""
        return self._signed.counts_offline(path, data)

    def prefetch(self, path: str, pool: Executor) -> None:
        """Begin to fetch what `checked` will need for a file."""
        self._signed.prefetch(path, pool)

    def names(self) -> list[str] | None:
        """Return the modules whose index files are signed, as far as that can be known."""
        if self._private or FOLDER in self.refused:
            return None
        try:
            return self._signed.names()
        except TrustError as error:
            self.refused.setdefault(FOLDER, error)
            return None
