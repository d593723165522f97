"""A registry's signed metadata as it lies at its place, for who writes there.

The storage is believed no more than a server is by its readers: what is in it is verified by the
root before anything is signed that follows from it. Nothing of it expires here.
"""

from __future__ import annotations

import threading

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.registry.place import Place, RegistryChange
from modpkg.registry.source import FileMissing
from modpkg.trust.metadata import TargetsMetadata
from modpkg.trust.root_metadata import no_root
from modpkg.trust.signed_paths import FOLDER
from modpkg.trust.trusted_metadata import TrustedMetadata

TIMESTAMP = f"{FOLDER}/timestamp.json"


class StoredMetadata:
    """The metadata at a place; what one process has seen does not go back."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._roots: list[bytes] = []
        self._lock = threading.Lock()
        self._last = 0

    def current(self, change: RegistryChange | None = None) -> TrustedMetadata:
        """Return the metadata as it is, by a timestamp that ``change`` is going to replace.

        Raises:
            TrustError: There is none, or it is not signed by the registry's keys.
        """
        last = self._last
        stamp = (
            self.read(TIMESTAMP)
            if change is None
            else change.read(TIMESTAMP, bounds.TUF_ROOT_BYTES)
        )
        trusted = self.roots()
        if stamp is None:
            raise self.cannot("it has no metadata yet; run 'modpkg registry trust init'")
        trusted.update_timestamp(stamp)
        version = 0 if trusted.timestamp is None else trusted.timestamp.version
        if version < last:
            what = f"{TIMESTAMP} of {self._place.url}"
            raise TrustError("M562", what=what, version=version, before=last)
        with self._lock:
            self._last = max(version, self._last)
        trusted.update_snapshot(self._file(f"{trusted.snapshot_file.version}.snapshot.json"))
        trusted.update_targets(self._file(f"{trusted.file_of('targets').version}.targets.json"))
        return trusted

    def roots(self) -> TrustedMetadata:
        """Return the roots alone.

        Raises:
            TrustError: There is none, or one does not follow from those before.
        """
        with self._lock:
            while len(self._roots) < bounds.TUF_ROOTS:
                data = self.read(f"{FOLDER}/{len(self._roots) + 1}.root.json")
                if data is None:
                    break
                self._roots.append(data)
            found = [*self._roots]
        if not found:
            raise no_root(self._place)
        trusted = TrustedMetadata(self._place.url, found[0], None)
        for data in found[1:]:
            trusted.update_root(data)
        return trusted

    def load_bin(self, trusted: TrustedMetadata, role: str) -> TargetsMetadata:
        """Return a bin, which is loaded if it was not.

        Raises:
            TrustError: It is not what it has to be.
        """
        if role not in trusted.bins:
            trusted.update_bin(role, self._file(f"{trusted.file_of(role).version}.{role}.json"))
        return trusted.bins[role]

    def read(self, path: str) -> bytes | None:
        """Return a file of the registry; None if there is none."""
        try:
            return self._place.source.read(path, bounds.INDEX_BYTES)
        except FileMissing:
            return None

    def cannot(self, reason: str) -> TrustError:
        """Return the error for a registry that cannot be signed."""
        return TrustError("M568", url=self._place.url, reason=reason)

    def _file(self, name: str) -> bytes:
        data = self.read(f"{FOLDER}/{name}")
        if data is None:
            raise self.cannot(f"it lacks {FOLDER}/{name}; restore it, or sign all of it again")
        return data
