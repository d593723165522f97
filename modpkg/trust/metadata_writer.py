"""Writing the metadata that is signed over a registry's index.

A file of the index is replaced in three steps: its new digest is announced beside the one that
counts, the file is replaced, and the new digest alone counts. So a reader who has asked for the
metadata before the file finds either digest in it, whoever was killed, and when; who asks again
finds the newer one. What was announced and never settled is settled by the next round of `renew`.

Bins, snapshots and roots are never replaced, and have their version in their names: the timestamp
is written last, and only as it was read.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from modpkg.core import bounds, system
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import TrustError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.registry.place import Place, RegistryChange, registry_at
from modpkg.registry.upkeep import all_names
from modpkg.trust.bins import bits_for, spread
from modpkg.trust.bundle import Signer
from modpkg.trust.lives import SERVED, Lives, check_clock, counts_too_long
from modpkg.trust.metadata import (
    Announced,
    BinKeys,
    Delegations,
    MetadataFile,
    SignedFile,
    SnapshotMetadata,
    TargetsMetadata,
    TimestampMetadata,
    metadata_key,
    moment_text,
    read_metadata,
    signed_metadata,
)
from modpkg.trust.metadata_draft import MetadataDraft
from modpkg.trust.root_metadata import ONLINE
from modpkg.trust.signed_paths import FOLDER, private_path
from modpkg.trust.stored_metadata import TIMESTAMP, StoredMetadata
from modpkg.trust.trusted_metadata import TrustedMetadata

Clock = Callable[[], datetime.datetime]
ANNOUNCED = datetime.timedelta(hours=1)
"""After which an announcement that nobody settled is nobody's any more."""
KEPT = datetime.timedelta(days=1)
"""For how long files of metadata stay that are not current: readers may be at them."""
_FREE = 1000
"""Versions that are tried for one that nobody has written: who was killed has left one or two."""


_DIGITS = 9
"""Of a version that a registry can have reached by itself."""


class MetadataWriter:
    """What signs the index of the registry at a place."""

    def __init__(
        self,
        place: Place,
        keys: Sequence[Signer],
        *,
        lives: Lives = SERVED,
        now: Clock | None = None,
        private: Place | None = None,
    ) -> None:
        """``private`` is where the tree of private modules lies."""
        self.place = place
        self._signers = {metadata_key(key.public)[0]: key for key in keys}
        self._lives = lives
        self._now = now or (lambda: datetime.datetime.now(datetime.timezone.utc))
        self._private = private
        self._stored = StoredMetadata(place)

    # Steps of a change of the index -----------------------------------------------------------

    def announce(self, path: str, before: bytes | None, data: bytes) -> None:
        """Announce that a file is going to be replaced, as it was read.

        Raises:
            TrustError: It is not what was signed, or nothing can be signed.
        """
        digest = digest_bytes(data)

        def edit(draft: MetadataDraft) -> None:
            known, since = draft.file(path), moment_text(self._now())
            if before is None:
                was = known is None or known.custom.new
            else:
                was = known is not None and digest_bytes(before) in known.digests
            if not was:
                if self._stored.read(path) == before:
                    raise self._strange(path)
                return  # somebody else was first, and it will not be replaced
            if known is None:
                draft.put(path, _signed_file(data, Announced({digest: since}, new=True)))
            elif digest not in known.digests:
                coming = self._young(known.custom.coming) | {digest: since}
                draft.put(path, replace(known, custom=replace(known.custom, coming=coming)))

        self._change(edit)

    def settle(self, paths: Iterable[str]) -> list[str]:
        """Let what files have now count alone; return those that have what nobody announced."""
        strange: list[str] = []

        def edit(draft: MetadataDraft) -> None:
            strange.clear()
            strange.extend(path for path in sorted(set(paths)) if not self._settle(draft, path))

        self._change(edit)
        return strange

    def _settle(self, draft: MetadataDraft, path: str) -> bool:
        known, data = draft.file(path), self._stored.read(path)
        if known is None:
            return data is None
        coming = self._young(known.custom.coming)
        if data is None:
            if known.custom.new and not coming:
                draft.put(path, None)
            return known.custom.new
        digest = digest_bytes(data)
        if digest not in known.digests:
            return False
        coming.pop(digest, None)
        settled = _signed_file(data, Announced(coming))
        if settled != known:
            draft.put(path, settled)
        return True

    def announce_private(self, data: bytes) -> None:
        """Announce what the index file of a private module is going to be."""
        digest = digest_bytes(data)
        file = _signed_file(data, Announced({digest: moment_text(self._now())}))
        self._change(lambda draft: draft.put(private_path(digest), file))

    def settle_private(self, before: bytes | None, data: bytes) -> None:
        """Let the index file of a private module count alone, in the place of what it was."""

        def edit(draft: MetadataDraft) -> None:
            if before is not None and before != data:
                draft.put(private_path(digest_bytes(before)), None)
            draft.put(private_path(digest_bytes(data)), _signed_file(data))

        self._change(edit)

    # All of it --------------------------------------------------------------------------------

    def sign_all(self, *, bits: int | None = None) -> int:
        """Sign the registry as it is now, whatever was signed before; return the index files.

        Nobody may write to it meanwhile.

        Args:
            bits: Begin again, with ``2 ** bits`` bins; else go on with what there is.

        Raises:
            TrustError: There is nothing to go on with, or the key is another.
        """

        def run(change: RegistryChange) -> int:
            files = self._all_files()
            trusted = self._stored.current(change) if bits is None else self._stored.roots()
            keys = self._bin_keys(trusted, bits)
            bins: dict[str, dict[str, SignedFile]] = {role: {} for role in keys.names()}
            for path, file in files.items():
                bins[keys.name(path)][path] = file
            if bits is None:
                known = {role: self._stored.load_bin(trusted, role) for role in bins}
                for role, one in known.items():
                    if bins[role] == one.files() and not self._expires(one):
                        del bins[role]
                self._write(change, trusted, bins, keys if self._expires(trusted.targets) else None)
            else:
                self._write(change, trusted, bins, keys)
            return sum(path.startswith("index/") for path in files)

        return self.place.change(run)

    def _all_files(self) -> dict[str, SignedFile]:
        found = {REGISTRY_INFO: self._stored.read(REGISTRY_INFO)}
        for name in all_names(registry_at(self.place)):
            found[f"index/{name}.jsonl"] = self._stored.read(f"index/{name}.jsonl")
        for data in self._private_indexes():
            found[private_path(digest_bytes(data))] = data
        return {path: _signed_file(data) for path, data in found.items() if data is not None}

    def bits(self) -> int:
        """Return how many bits of a name's hash say which bin it is in."""
        with suppress(TrustError):
            return self._stored.current().delegations.succinct_roles.bit_length
        return bits_for(len(registry_at(self.place).names() or []))

    def check_clock(self) -> None:
        """Check this machine's clock by what is signed.

        Raises:
            TrustError: It cannot be right, or there is nothing that is signed.
        """
        check_clock(self._stored.current().current, self.place.url, self._now())

    def renew(self, *, thoroughly: bool = False, at_once: bool = False) -> list[str]:
        """Sign again what expires soon, or ``at_once``; return files with what nobody announced.

        Args:
            thoroughly: Look into all bins, for what was not settled or expires, and remove files
                that are not current any more.
        """
        strange: list[str] = []

        def run(change: RegistryChange) -> None:
            strange.clear()
            trusted = self._stored.current(change)
            for role in ONLINE:
                self._keyid(trusted, role)  # be there anything to sign or not
            draft, now, keys = MetadataDraft(trusted, self._stored), self._now(), None
            if thoroughly:
                count = self._settle_all(trusted, draft, strange)
                keys = spread(trusted, draft, count)
            stamp, snapshot, targets = trusted.timestamp, trusted.snapshot, trusted.targets
            if stamp is None or snapshot is None or targets is None:
                raise AssertionError("what is read has all of them")
            ends = ((stamp, self._lives.timestamp), (snapshot, self._lives.snapshot))
            if keys is None and self._expires(targets):
                keys = trusted.delegations.succinct_roles
            if keys or draft.bins or at_once or any(one.until - now < up / 2 for one, up in ends):
                self._write(change, trusted, draft.bins, keys)

        self.place.change(run)
        if thoroughly:
            self._remove_old()
        return strange

    def _settle_all(
        self, trusted: TrustedMetadata, draft: MetadataDraft, strange: list[str]
    ) -> int:
        """Settle what was announced in any bin, and change bins that expire soon.

        Return how many files there are.
        """
        privates: set[str] | None = None
        count = 0
        for role in trusted.delegations.succinct_roles.names():
            signed = self._stored.load_bin(trusted, role)
            count += len(signed.targets)
            if self._expires(signed):
                draft.bins[role] = signed.files()
            for path, file in signed.files().items():
                if not file.custom.coming and not file.custom.new:
                    continue
                if path.startswith("private/"):
                    if privates is None:
                        privates = {digest_bytes(data) for data in self._private_indexes()}
                elif not self._settle(draft, path):
                    strange.append(path)
            trusted.bins.pop(role, None)
        if privates is not None:
            self._settle_privates(trusted, draft, {private_path(digest) for digest in privates})
        return count

    def _settle_privates(
        self, trusted: TrustedMetadata, draft: MetadataDraft, there: set[str]
    ) -> None:
        for role in trusted.delegations.succinct_roles.names():
            for path, file in self._stored.load_bin(trusted, role).files().items():
                if not path.startswith("private/"):
                    continue
                if path in there and file.custom.coming:
                    draft.put(path, replace(file, custom=Announced()))
                elif path in there:
                    continue
                elif not self._young(file.custom.coming):
                    draft.put(path, None)
            trusted.bins.pop(role, None)

    def _private_indexes(self) -> list[bytes]:
        if self._private is None:
            return []
        registry = registry_at(self._private)
        paths = [f"index/{name}.jsonl" for name in registry.names() or []]
        return [self._private.source.read(path, bounds.INDEX_BYTES) for path in paths]

    def _remove_old(self) -> None:
        """Remove bins and snapshots that are not current, and have not been for a while."""
        snapshot = self._stored.current().snapshot
        if snapshot is None:
            raise AssertionError("what is read has one")
        current = {f"{file.version}.{name}" for name, file in snapshot.meta.items()}
        current.add(f"{snapshot.version}.snapshot.json")
        for file in list(self.place.stored(FOLDER)):
            name = file.path.rpartition("/")[2]
            is_old = self._now() - file.modified > KEPT and name not in current
            if is_old and name[:1].isdigit() and not name.endswith(".root.json"):
                self.place.remove(file.path)

    # Files ------------------------------------------------------------------------------------

    def _change(self, edit: Callable[[MetadataDraft], None]) -> None:
        def run(change: RegistryChange) -> None:
            trusted = self._stored.current(change)
            draft = MetadataDraft(trusted, self._stored)
            edit(draft)
            if draft.bins:
                self._write(change, trusted, draft.bins)

        self.place.change(run)

    def _expires(self, signed: TargetsMetadata | None) -> bool:
        """Return whether something is to be signed again: it ends soon, or counts for too long."""
        if signed is None or counts_too_long(signed.until, self._now()):
            return True
        return signed.until - self._now() < self._lives.bins / 4

    def _bin_keys(self, trusted: TrustedMetadata, bits: int | None) -> BinKeys:
        if bits is None:
            return trusted.delegations.succinct_roles
        keyid = self._keyid(trusted, "targets")
        return BinKeys([keyid], 1, bits)

    def _keyid(self, trusted: TrustedMetadata, role: str) -> str:
        """Return the id of a key at hand that signs for a role.

        Raises:
            TrustError: There is none.
        """
        wanted = trusted.root.roles[role]
        found = [keyid for keyid in wanted.keyids if keyid in self._signers]
        if not found or wanted.threshold > 1:
            raise self._stored.cannot(f"its root wants another key for the {role} than is here")
        return found[0]

    def _write(
        self,
        change: RegistryChange,
        trusted: TrustedMetadata,
        bins: dict[str, dict[str, SignedFile]],
        keys: BinKeys | None = None,
    ) -> None:
        """Write bins that have changed, and what follows; with ``keys``, the targets role too."""
        now, snapshot = self._now(), trusted.snapshot
        check_clock(trusted.current, self.place.url, now)
        if trusted.root.until < now:
            raise self._stored.cannot("its root has expired; run 'modpkg registry trust rotate'")
        last = {} if trusted.timestamp is not None else self._last_versions(change)
        meta = {} if snapshot is None else dict(snapshot.meta)
        keyid = self._keyid(trusted, "targets")
        if keys is not None:
            delegations = Delegations({keyid: trusted.root.keys[keyid]}, keys)
            targets = TargetsMetadata(
                version=_next(meta, last, "targets"),
                expires=moment_text(now + self._lives.bins),
                delegations=delegations,
            )
            meta["targets.json"] = self._add(change, "targets", targets, keyid)
        elif keyid not in trusted.delegations.succinct_roles.keyids:
            raise self._stored.cannot("its bins are signed by another key; sign all of it again")
        for role, files in sorted(bins.items()):
            new = TargetsMetadata(
                version=_next(meta, last, role),
                expires=moment_text(now + self._lives.bins),
                targets=files,
            )
            meta[f"{role}.json"] = self._add(change, role, new, keyid)
        made = SnapshotMetadata(
            version=(last.get("snapshot", 0) if snapshot is None else snapshot.version) + 1,
            expires=moment_text(now + self._lives.snapshot),
            meta=meta,
        )
        named = self._add(change, "snapshot", made, self._keyid(trusted, "snapshot"))
        current = TimestampMetadata(
            version=(stamp.version if (stamp := trusted.timestamp) else last["timestamp"]) + 1,
            expires=moment_text(now + self._lives.timestamp),
            meta={"snapshot.json": named},
        )
        signer = self._keyid(trusted, "timestamp")
        change.replace(TIMESTAMP, signed_metadata(current, [(signer, self._signers[signer])]))

    def _add(
        self,
        change: RegistryChange,
        role: str,
        signed: SnapshotMetadata | TargetsMetadata,
        keyid: str,
    ) -> MetadataFile:
        """Write a file under the next version that nobody has written; return how it is named.

        That is by its bytes too: a bin does not say which one it is.
        """
        for version in range(signed.version, signed.version + _FREE):
            path = f"{FOLDER}/{version}.{role}.json"
            if self._is_there(change, path):
                continue
            data = signed_metadata(
                replace(signed, version=version), [(keyid, self._signers[keyid])]
            )
            change.replace(path, data)
            hashes = {"sha256": hashlib.sha256(data).hexdigest()}
            return MetadataFile(version, len(data), hashes)
        raise self._stored.cannot(f"{FOLDER}/ has {_FREE} files that nothing names, such as {path}")

    def _last_versions(self, change: RegistryChange) -> dict[str, int]:
        """Return the last versions that there are of files that are begun again, by role.

        Those that somebody has set out of reach are left out: keys were replaced after that.
        """
        found = {"timestamp": 0}
        for file in self.place.stored(FOLDER):
            version, _, role = file.path.rpartition("/")[2].removesuffix(".json").partition(".")
            if version.isdecimal() and len(version) <= _DIGITS:
                found[role] = max(found.get(role, 0), int(version))
        stamp = change.read(TIMESTAMP, bounds.TUF_ROOT_BYTES)
        if stamp is not None:
            with suppress(TrustError):
                signed = read_metadata(stamp, TimestampMetadata, TIMESTAMP).signed
                if len(str(signed.version)) <= _DIGITS:
                    found["timestamp"] = signed.version
        return found

    def _is_there(self, change: RegistryChange, path: str) -> bool:
        if self.place.folder is not None:  # whose lock of the timestamp this change has
            return self.place.size(path) is not None
        return change.read(path, bounds.TUF_FILE_BYTES) is not None

    def _young(self, coming: dict[str, str]) -> dict[str, str]:
        since = moment_text(self._now() - ANNOUNCED)
        return {digest: moment for digest, moment in coming.items() if moment > since}

    def _strange(self, path: str) -> TrustError:
        word = system.shell_word(self.place.url)
        return TrustError("M569", path=path, url=self.place.url, word=word)


def _next(meta: dict[str, MetadataFile], last: dict[str, int], role: str) -> int:
    known = meta.get(f"{role}.json")
    return (last.get(role, 0) if known is None else known.version) + 1


def _signed_file(data: bytes, custom: Announced | None = None) -> SignedFile:
    hashes = {"sha256": hashlib.sha256(data).hexdigest()}
    return SignedFile(len(data), hashes, custom or Announced())
