"""What a reader believes of a registry's metadata: the client's workflow of TUF, without any I/O.

Each step is one of section 5 of its specification: roots one after the other, then the timestamp,
the snapshot, the targets role, and bins. What was believed before is loaded first, so that nothing
goes back behind it; where the keys of the timestamp or the snapshot were replaced, it no longer
verifies and is left out, which undoes a version that somebody who had the keys set too high.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Any, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.core.files import human_bytes
from modpkg.trust.known_registry import SeenRegistry
from modpkg.trust.lives import counts_too_long
from modpkg.trust.metadata import (
    Delegations,
    MetadataFile,
    ReadMetadata,
    RoleKeys,
    RootMetadata,
    SignedFile,
    SnapshotMetadata,
    TargetsMetadata,
    TimestampMetadata,
    check_signed,
    moment_text,
    read_metadata,
)

_LEAST_OF_FILE = 64
"""Bytes of what a bin says of a file: a SHA-256 alone has as many."""
ROLES = ("root", "timestamp", "snapshot", "targets")
T = TypeVar("T")


class TrustedMetadata:
    """The metadata of a registry that was verified so far."""

    def __init__(self, url: str, first: bytes, now: datetime.datetime | None) -> None:
        """``first`` is a root that is believed; with None as ``now``, nothing expires.

        Raises:
            TrustError: It is malformed, or not signed by its own keys.
        """
        self._url = url
        self._now = now
        read = read_metadata(first, RootMetadata, self._what("root"))
        self.roots: dict[int, RootMetadata] = {}
        self._add_root(read, [read.signed])
        self.timestamp: TimestampMetadata | None = None
        self.snapshot: SnapshotMetadata | None = None
        self.targets: TargetsMetadata | None = None
        self.bins: dict[str, TargetsMetadata] = {}
        self._bytes_of_bins = 0

    @property
    def root(self) -> RootMetadata:
        return self.roots[max(self.roots)]

    @property
    def current(self) -> list[TimestampMetadata | SnapshotMetadata | TargetsMetadata]:
        """The timestamp, the snapshot and the targets role, as far as they are loaded."""
        return [one for one in (self.timestamp, self.snapshot, self.targets) if one is not None]

    def update_root(self, data: bytes) -> None:
        """Take the next root.

        Raises:
            TrustError: It is not signed by the keys of the one before and by its own, or not next.
        """
        number = self.root.version + 1
        read = read_metadata(data, RootMetadata, self._what("root", number))
        if read.signed.version != number:
            reason = f"it has version {read.signed.version}"
            raise TrustError("M563", what=self._what("root", number), reason=reason)
        self._add_root(read, [self.root, read.signed])

    def _add_root(self, read: ReadMetadata, by: list[RootMetadata]) -> None:
        root: RootMetadata = read.signed
        what = self._what("root", root.version)
        for role in ROLES:
            if role not in root.roles:
                reason = f"it does not say who signs the {role}"
                raise TrustError("M565", what=what, reason=reason)
        for one in by:
            check_signed(read, one.roles["root"], one.keys, what)
        self.roots[root.version] = root

    def update_timestamp(self, data: bytes) -> bool:
        """Take a timestamp; return whether it is newer than what was there.

        Raises:
            TrustError: It is not signed as it has to be, older than the one before, or expired, or
                the root is.
        """
        self._check_fresh(self.root, "root")
        what = self._what("timestamp")
        new: TimestampMetadata = self._read(data, TimestampMetadata, what, "timestamp").signed
        meta = new.meta.get("snapshot.json")
        if meta is None:
            raise TrustError("M565", what=what, reason="it names no snapshot")
        if (old := self.timestamp) is not None:
            self._check_forward(what, new.version, old.version)
            before = old.meta["snapshot.json"].version
            self._check_forward(self._what("snapshot"), meta.version, before)
            if new.version == old.version:
                self._check_fresh(old, "timestamp")
                return False
        self.timestamp = new
        self._check_fresh(new, "timestamp")
        return True

    def update_snapshot(self, data: bytes, *, believed: bool = False) -> None:
        """Take the snapshot that the timestamp names; one that was ``believed`` may be older.

        Raises:
            TrustError: It is not signed as it has to be, not the one that is named, a part of it
                went back, or it expired.
        """
        what, meta = self._what("snapshot"), self.snapshot_file
        if not believed:
            _check_bytes(data, meta, what)
        new: SnapshotMetadata = self._read(data, SnapshotMetadata, what, "snapshot").signed
        if (old := self.snapshot) is not None:
            for name, file in old.meta.items():
                now = new.meta.get(name)
                if now is None:
                    raise TrustError("M563", what=what, reason=f"it does not name {name} any more")
                self._check_forward(f"{name} of {self._url}", now.version, file.version)
        if believed:
            self.snapshot = new
            return
        _check_version(what, new.version, meta.version)
        self._check_fresh(new, "snapshot")
        self.snapshot = new

    def snapshot_is_current(self) -> bool:
        """Return whether the snapshot is the one that the timestamp names, and has not expired."""
        current = self.snapshot is not None and self.snapshot.version == self.snapshot_file.version
        if current:
            self._check_fresh(self.snapshot, "snapshot")
        return current

    def update_targets(self, data: bytes) -> None:
        """Take what the targets role says: who signs for the bins.

        Raises:
            TrustError: It is not signed as it has to be, not the one that is named, or expired.
        """
        what, meta = self._what("targets"), self.file_of("targets")
        _check_bytes(data, meta, what)
        new: TargetsMetadata = self._read(data, TargetsMetadata, what, "targets").signed
        _check_version(what, new.version, meta.version)
        self._check_fresh(new, "targets")
        if not isinstance(new.delegations, Delegations):
            raise TrustError("M565", what=what, reason="it names no bins")
        self.targets = new

    def update_bin(self, role: str, data: bytes) -> TargetsMetadata:
        """Take a bin, and return it.

        Raises:
            TrustError: It is not signed as it has to be, not the one that is named, or expired.
        """
        what, meta, given = self._what(role), self.file_of(role), self.delegations
        _check_bytes(data, meta, what)
        read = read_metadata(data, TargetsMetadata, what)
        check_signed(read, given.succinct_roles, given.keys, what)
        new: TargetsMetadata = replace(read.signed, delegations=UNSET)
        if len(new.targets) * _LEAST_OF_FILE > len(data):
            raise TrustError("M565", what=what, reason="it lists files without their digests")
        _check_version(what, new.version, meta.version)
        self._check_fresh(new, role)
        self._bytes_of_bins += len(data)
        if self._bytes_of_bins > bounds.TUF_BINS_BYTES:
            reason = f"its bins have over {human_bytes(bounds.TUF_BINS_BYTES)}"
            raise TrustError("M565", what=what, reason=reason)
        self.bins[role] = new
        return new

    @property
    def delegations(self) -> Delegations:
        """Who signs for the bins."""
        found = None if self.targets is None else self.targets.delegations
        if not isinstance(found, Delegations):
            raise AssertionError("the targets role is not loaded")
        return found

    @property
    def snapshot_file(self) -> MetadataFile:
        """What the timestamp says of the snapshot."""
        if self.timestamp is None:
            raise AssertionError("the timestamp is not loaded")
        return self.timestamp.meta["snapshot.json"]

    def file_of(self, role: str) -> MetadataFile:
        """Return what the snapshot says of the targets role, or of a bin.

        Raises:
            TrustError: Nothing.
        """
        if self.snapshot is None:
            raise AssertionError("the snapshot is not loaded")
        if (meta := self.snapshot.meta.get(f"{role}.json")) is None:
            reason = f"it does not name {role}.json"
            raise TrustError("M563", what=self._what("snapshot"), reason=reason)
        return meta

    def bin_of(self, path: str) -> str:
        """Return the role of the bin that a file is in."""
        return self.delegations.succinct_roles.name(path)

    def file(self, path: str) -> SignedFile | None:
        """Return what is signed of a file, whose bin is loaded; None if there is no such file."""
        return self.bins[self.bin_of(path)].file(path, self._url)

    def may_have(self, file: SignedFile, digest: str) -> bool:
        """Return whether a file may have a digest now."""
        return digest in (file.digests if self._now is None else file.digests_at(self._now))

    def check_since(self, seen: SeenRegistry) -> None:
        """Check that what is current is not older than what somebody has seen.

        Raises:
            TrustError: It is.
        """
        root = self.root.version
        if root < seen.root_version:
            what = self._what("root")
            raise TrustError("M562", what=what, version=root, before=seen.root_version)
        if self.snapshot is not None and self.same_online_keys(seen.root_version):
            version, before = self.snapshot.version, seen.snapshot
            if version < before:
                what = self._what("snapshot")
                raise TrustError("M562", what=what, version=version, before=before)

    def same_online_keys(self, version: int) -> bool:
        """Return whether a root of this version had the keys that now sign what is current."""
        before = self.roots.get(version)
        return before is not None and all(
            _keys_of(before, role) == _keys_of(self.root, role)
            for role in ("timestamp", "snapshot")
        )

    def _read(self, data: bytes, kind: Any, what: str, role: str) -> ReadMetadata:
        read = read_metadata(data, kind, what)
        check_signed(read, self.root.roles[role], self.root.keys, what)
        return read

    def _check_fresh(self, signed: Any, role: str) -> None:
        if self._now is None:
            return
        values = {"what": self._what(role), "expires": signed.expires}
        if signed.until <= self._now:
            raise TrustError("M561", **values, now=moment_text(self._now))
        if role != "root" and counts_too_long(signed.until, self._now):
            raise TrustError("M596", **values, now=moment_text(self._now))

    def _check_forward(self, what: str, version: int, before: int) -> None:
        if version < before:
            raise TrustError("M562", what=what, version=version, before=before)

    def _what(self, role: str, version: int | None = None) -> str:
        name = role if version is None else f"{version}.{role}"
        return f"tuf/{name}.json of {self._url}"


def _keys_of(root: RootMetadata, role: str) -> tuple[frozenset[str], int]:
    keys: RoleKeys = root.roles[role]
    return frozenset(keys.keyids), keys.threshold


def _check_bytes(data: bytes, meta: MetadataFile, what: str) -> None:
    """Check the bytes of a file by what another one says of it.

    Bins do not say which they are, and may have one version and one key: the bytes tell them apart.

    Raises:
        TrustError: They are others, or it does not say which they are.
    """
    wanted = (meta.hashes or {}).get("sha256")
    if wanted is None:
        raise TrustError("M563", what=what, reason="no SHA-256 of its bytes is named")
    is_long = meta.length is not None and len(data) != meta.length
    if is_long or hashlib.sha256(data).hexdigest() != wanted:
        raise TrustError("M563", what=what, reason="its bytes are not those that are named")


def _check_version(what: str, version: int, wanted: int) -> None:
    if version != wanted:
        raise TrustError("M563", what=what, reason=f"it has version {version}, not {wanted}")
