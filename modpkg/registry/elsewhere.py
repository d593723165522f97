"""Where else a blob can be read: places on other servers, which a registry lists instead of it.

``elsewhere/<aa>/<hex>.json`` lies beside the blobs, is no part of any release, and may be amended:
what is read is verified by its digest, as everything is. A registry's own copy comes first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.core.elsewhere import ASK_PUBLISHER, elsewhere_path, read_places
from modpkg.core.errors import InstallError, IntegrityError, ModpkgError
from modpkg.registry.source import FileMissing, RangesUnsupported

if TYPE_CHECKING:
    from modpkg.registry.outside import OutsideFile

ReadFile = Callable[[str, int], bytes]


class ElsewhereBlobs:
    """The blobs that a registry lacks, and other servers have."""

    def __init__(
        self,
        read: ReadFile,
        url: str,
        hosts: frozenset[str],
        warn: Callable[[str], None] | None = None,
        offline: bool = False,
    ) -> None:
        """``read`` reads a file of the registry, as `Source.read` does.

        ``offline`` is whether no place may be asked, although the registry may be a folder.
        """
        self.remedy = ASK_PUBLISHER
        """What to do about a place that has other bytes."""
        self._offline = offline
        self._read = read
        self._url = url
        self._hosts = hosts
        self._warn = warn
        self._lock = threading.RLock()
        self._files: dict[Digest, list[OutsideFile]] = {}
        self._failures: dict[Digest, ModpkgError] = {}

    def knows(self, digest: Digest) -> bool:
        """Return whether a blob was asked for and found to be elsewhere."""
        return digest in self._files

    def address(self, digest: Digest) -> str | None:
        """Return the place that a blob is read from next."""
        files = self._files.get(digest)
        return files[0].address if files else None

    def find(self, digest: Digest, what: str) -> bool:
        """Return whether the registry says where else a blob is."""
        with self._lock:
            if digest in self._files:
                return True
            path = elsewhere_path(digest)
            try:
                data = self._read(path, bounds.BLOB_PLACES_BYTES)
            except FileMissing:
                return False
            places = read_places(data, f"{self._url}/{path}")
            self._files[digest] = [*self._opened(places, digest, what)]
            return True

    def _opened(self, places: Sequence[str], digest: Digest, what: str) -> Iterator[OutsideFile]:
        from modpkg.registry.outside import Hosts, OutsideFile

        for place in places:
            try:
                yield OutsideFile(place, digest, what, Hosts(self._hosts), remedy=self.remedy)
            except ModpkgError as error:  # noqa: PERF203
                self._failures.setdefault(digest, error)

    def stream(
        self, digest: Digest, what: str, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """Yield a blob that `find` has found, or a part of it, without verifying it.

        Raises:
            IntegrityError, RegistryError, RegistryUnreachable: No place has it; the first reason.
            InstallError: ``--offline`` forbids to ask one.
            RangesUnsupported: ``start`` or ``stop`` is given, and the next place has no ranges.
        """
        if self._offline:
            raise InstallError("M501", what=what)
        at = start
        while True:
            file = self._next(digest, what)
            try:
                for chunk in file.stream(at, stop):
                    at += len(chunk)
                    yield chunk
                return
            except RangesUnsupported:
                if at == start:
                    raise
                self.disable(file.address, "it does not support ranges", file.changed())
            except ModpkgError as error:
                self.disable(file.address, "it could not be read", error)

    def disable(self, address: str, reason: str, error: ModpkgError | None = None) -> bool:
        """Stop reading a place; return False if it is none."""
        found = False
        with self._lock:
            for digest, files in self._files.items():
                for file in [file for file in files if file.address == address]:
                    found = True
                    files.remove(file)
                    self._failures.setdefault(digest, error or file.changed())
                    if files and self._warn is not None:
                        self._warn(f"skipping {address}: {reason}")
            # Pieces of a pack fail at the same time: only the first finds the place in the list.
            return found or address in self._refused()

    def _refused(self) -> set[str]:
        return {str(error.values.get("address")) for error in self._failures.values()}

    def _next(self, digest: Digest, what: str) -> OutsideFile:
        with self._lock:
            if files := self._files[digest]:
                return files[0]
            with contextlib.suppress(KeyError):
                raise self._failures[digest].with_traceback(None)
        raise IntegrityError("M306", what=what, digest=digest, source=self._url)
