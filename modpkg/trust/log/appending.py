"""Adding to a log: each entry has its place for ever, whoever is killed, and when.

Two servers may add at the same time, and an object store has no locks. So what is added next is
decided first: ``log/decided.json`` has the size of the log and the entries that follow, and is
replaced only as it was read. All else follows from it, the same bytes whoever writes them: bundles,
tiles, where each release is, and last the checkpoint, which is replaced only as it was read too.
Who finds entries decided that the checkpoint lacks writes all this again before he decides anything
himself. A release is in the log before it is in the index: nothing that can be seen is not logged.
An entry whose index line was never written, since the server was killed between, is followed by
another one when the release is published again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct

from modpkg.core import bounds
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError, PublishError, TrustError
from modpkg.core.filenames import SUCCESSIONS
from modpkg.core.files import shown
from modpkg.core.records import IndexLine, LogInfo, canonical_json
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.bucket_place import BucketPlace
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.identity import set_info
from modpkg.registry.index import parse_index
from modpkg.registry.place import Place, RegistryChange, is_registry, registry_at
from modpkg.registry.signature_files import add_bundles
from modpkg.registry.source import FileMissing
from modpkg.registry.upkeep import all_names
from modpkg.trust.bundle import Signer
from modpkg.trust.log.entries import (
    LogEntry,
    LoggedRelease,
    entries_between,
    logged_path,
    parse_entry,
    private_entry,
    succeed_entry,
)
from modpkg.trust.log.log_checkpoint import (
    LogCheckpoint,
    parse_checkpoint,
    verified_checkpoint,
)
from modpkg.trust.log.logged_successions import read_successions, succession_entries
from modpkg.trust.log.merkle import EMPTY_ROOT, leaf_hash, subtree_hash
from modpkg.trust.log.succession import SUCCESSORS, check_may_follow, named_successor
from modpkg.trust.log.tiles import (
    LOG,
    Tile,
    TileHashes,
    bundle_of,
    edge_tiles,
    entries_in,
    grown_tiles,
    hashes_in,
)
from modpkg.trust.private_key import PASSPHRASE, key_path, read_key
from modpkg.trust.public_key import PublicKey, parse_key

CHECKPOINT = f"{LOG}/checkpoint"
DECIDED = f"{LOG}/decided.json"
AT_ONCE = 2048
"""Entries that are decided together."""


class DecidedEntries(Struct, frozen=True):
    """``log/decided.json``: the entries that were added last, or are being added."""

    size: Annotated[int, Meta(ge=0, le=bounds.LOG_ENTRIES)]
    """How many the log has before them."""
    entries: Annotated[list[str], Meta(max_length=AT_ONCE)]

    @property
    def end(self) -> int:
        """How many the log has with them."""
        return self.size + len(self.entries)


class LogWriter:
    """The log of a registry, for its server, which has the key."""

    def __init__(self, place: FolderPlace | BucketPlace, signer: Signer) -> None:
        """Nothing is read yet."""
        self._place = place
        self._signer = signer
        self._turn = threading.Lock()

    @property
    def key(self) -> PublicKey:
        """Its key."""
        return self._signer.public

    @cached_property
    def info(self) -> LogInfo:
        """What the registry says of its log.

        Raises:
            TrustError: Its key is another one, or it has no log yet.
        """
        info = registry_at(self._place).info.log
        given = str(self._signer.public)
        if info is None or info.key != given:
            known = "no log" if info is None else info.key
            raise TrustError("M556", registry=self._place.url, known=known, given=given)
        return info

    def begin(
        self,
        origin: str,
        public: Place,
        private: Place | None = None,
        before: LogWriter | None = None,
    ) -> None:
        """Begin the log, if the registry has none: with what is in the index already.

        Who is killed goes on with it. The registry says that it has one when all is in it.

        Args:
            origin: What its checkpoints call it.
            public: The place, in which changes of ``registry.json`` may be signed.
            private: Where private modules lie, if there are any.
            before: The log with the key that has signed it so far, if this one takes its place.

        Raises:
            TrustError: It has one, with another key; or the key before may not name this one.
        """
        known = registry_at(self._place).info.log
        if known is not None:
            if before is not None and known.key == str(before._signer.public):
                before._hand_over(self._signer, public)
            _ = self.info
            if before is not None:
                self._sign_alone(before._signer.public)
            return
        info = LogInfo(origin, str(self._signer.public))
        self.__dict__["info"] = info
        try:

            def make(change: RegistryChange) -> None:
                if change.read(CHECKPOINT, bounds.CHECKPOINT_BYTES) is None:
                    change.replace(CHECKPOINT, bytes(self._signed(0, EMPTY_ROOT)))

            self._place.change(make)
            self.append(self._unlogged())
            if private is not None and is_registry(private):
                self.append(self._unlogged_private(private))
            set_info(public, "log", msgspec.to_builtins(info))
        finally:
            del self.__dict__["info"]

    def _hand_over(self, new: Signer, public: Place) -> None:
        """Let another key sign the log from now on.

        Both sign the checkpoint before the registry names the new one, so that no reader is refused
        meanwhile.

        Raises:
            TrustError: One of them has named another one before: readers would take none.
        """
        self.append([])
        origin, own = self.info.origin, self._signer.public
        bundle = named_successor(origin, self._signer, new.public)

        def name(change: RegistryChange) -> None:
            named = change.read(SUCCESSORS, bounds.SIGNATURES_BYTES) or b""
            check_may_follow(named, self._place.url, origin, own, new.public)
            add_bundles(change, SUCCESSORS, [bundle])

        def sign(change: RegistryChange) -> None:
            both = self._checkpoint(change).signed_by(origin, new)
            change.replace(CHECKPOINT, bytes(both))

        self._place.change(name)
        self._place.change(sign)
        set_info(public, "log", msgspec.to_builtins(LogInfo(origin, str(new.public))))

    def _sign_alone(self, before: PublicKey) -> None:
        """Take the signature of the key before off the checkpoint: who has that adds no more."""
        origin, own = self.info.origin, self._signer.public

        def edit(change: RegistryChange) -> None:
            data = change.read(CHECKPOINT, bounds.CHECKPOINT_BYTES) or b""
            found = parse_checkpoint(data, self._place.url)
            if not (found.is_signed(origin, before) or found.is_signed(origin, own)):
                self._checkpoint(change)  # raises
            alone = found.without(origin, before).signed_by(origin, self._signer)
            if alone != found:
                change.replace(CHECKPOINT, bytes(alone))

        self._place.change(edit)

    def _unlogged(self) -> Iterator[LogEntry]:
        """Yield the entries for what is in the index and not in the log."""
        registry = registry_at(self._place)
        for name in all_names(registry):
            yield from self._new_entries([], registry.index(name))
        for name, statements in read_successions(registry, all_names(registry)).items():
            for statement in statements:
                yield succeed_entry(name, statement, moment_text())

    def _unlogged_private(self, private: Place) -> Iterator[LogEntry]:
        registry = registry_at(private)
        for name in all_names(registry):
            yield from self._private_entries([], registry.index(name))

    def note(self, path: str, before: bytes, after: bytes) -> None:
        """Add what an index file, or one of successors, says that it did not say before.

        Raises:
            What `append` raises.
        """
        name = PurePosixPath(path).stem
        if path.startswith(SUCCESSIONS):
            self.append(succession_entries(name, before, after, moment_text()))
            return
        lines = [parse_index(data, name, self._place.url) for data in (before, after)]
        self.append(self._new_entries(*lines))

    def note_private(self, path: str, before: bytes, after: bytes) -> None:
        """Add that releases of a private module are new in its index file.

        Raises:
            What `append` raises.
        """
        if path.startswith(SUCCESSIONS):
            return
        name = PurePosixPath(path).stem
        lines = [parse_index(data, name, self._place.url) for data in (before, after)]
        self.append(self._private_entries(*lines))

    def _private_entries(
        self, before: Sequence[IndexLine], after: Sequence[IndexLine]
    ) -> Iterator[LogEntry]:
        for entry in self._new_entries(before, after):
            if entry.action == "publish":
                yield private_entry(entry, self.info.origin)

    def _new_entries(
        self, before: Sequence[IndexLine], after: Sequence[IndexLine]
    ) -> Iterator[LogEntry]:
        """Yield the entries for a change, but for releases that are logged: who logged them was
        killed before their line was written, or lost a race."""
        for entry in entries_between(before, after, moment_text()):
            if entry.action != "publish" or not self._is_logged(entry):
                yield entry

    def _is_logged(self, entry: LogEntry) -> bool:
        return self._place.size(logged_path(parse_digest(str(entry.release)))) is not None

    def append(self, entries: Iterable[LogEntry]) -> None:
        """Add entries; if there are none, see that those that were decided before are in the log.

        Raises:
            TrustError: The log is damaged, or has another key.
            OSError, PublishError, RegistryUnreachable: The place cannot be read or written.
        """
        with self._turn:
            rest = map(canonical_json, entries)
            while texts := [*islice(rest, AT_ONCE)]:
                self._append([text.decode() for text in texts])
            self._append([])

    def _append(self, texts: list[str]) -> None:
        own: DecidedEntries | None = None

        def edit(change: RegistryChange) -> None:
            nonlocal own
            decided = self._decided(change)
            checkpoint = self._checkpoint(change)
            if decided is not None and decided.end > checkpoint.size:
                checkpoint = self._complete(change, decided, checkpoint)
            is_done = own is not None and own.end <= checkpoint.size
            if not texts or is_done or (decided is not None and decided.entries == texts):
                return
            proposed = DecidedEntries(checkpoint.size, texts)
            change.replace(DECIDED, canonical_json(proposed) + b"\n")
            own = proposed  # from now on they are decided, whatever else is
            self._complete(change, own, checkpoint)

        self._place.change(edit)

    def _decided(self, change: RegistryChange) -> DecidedEntries | None:
        data = change.read(DECIDED, bounds.DECIDED_BYTES)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=DecidedEntries)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TrustError(
                "M555", registry=self._place.url, path=DECIDED, reason=decoding_reason(error)
            ) from None

    def _checkpoint(self, change: RegistryChange) -> LogCheckpoint:
        data = change.read(CHECKPOINT, bounds.CHECKPOINT_BYTES)
        if data is None:
            reason = "it is missing, and has to come back from a back-up of the storage"
            raise TrustError("M555", registry=self._place.url, path=CHECKPOINT, reason=reason)
        key = parse_key(self.info.key)
        return verified_checkpoint(data, self.info.origin, key, self._place.url)

    def _complete(
        self, change: RegistryChange, decided: DecidedEntries, before: LogCheckpoint
    ) -> LogCheckpoint:
        """Write all that follows from entries that were decided, the checkpoint last."""
        if decided.size != before.size:
            reason = f"it follows size {decided.size}, and the checkpoint has size {before.size}"
            raise TrustError("M555", registry=self._place.url, path=DECIDED, reason=reason)
        entries = [text.encode() for text in decided.entries]
        files, root = self._grown(before, entries)
        for path, data in files.items():
            self._place.write(path, data)
        for index, entry in enumerate(entries, before.size):
            self._point_to(index, entry)
        checkpoint = self._signed(decided.end, root)
        change.replace(CHECKPOINT, bytes(checkpoint))
        for tile in [*files]:
            self._remove_partial(tile)
        return checkpoint

    def _grown(
        self, before: LogCheckpoint, entries: Sequence[bytes]
    ) -> tuple[dict[str, bytes], bytes]:
        """Return the files of tiles that change, and the new root.

        Raises:
            TrustError: The tiles that are there are not those of the checkpoint.
        """
        size, end = before.size, before.size + len(entries)
        edge: dict[Tile, list[bytes]] = {}
        bundled: list[bytes] = []
        for tile in edge_tiles(size):
            data = self._read(tile)
            if tile.level is None:
                bundled = entries_in(tile, data, self._place.url)
            else:
                edge[tile] = hashes_in(tile, data, self._place.url)
        if subtree_hash(0, size, TileHashes(size, edge)) != before.root:
            reason = "the tiles at the end of the log do not give its root"
            raise TrustError("M555", registry=self._place.url, path=CHECKPOINT, reason=reason)
        new = grown_tiles(size, edge, [leaf_hash(entry) for entry in entries])
        files = {tile.path: b"".join(hashes) for tile, hashes in new.items()}
        first, row = size // 256, [*bundled, *entries]
        for at in range(0, len(row), 256):
            part = row[at : at + 256]
            files[Tile(None, first + at // 256, len(part)).path] = bundle_of(part)
        return files, subtree_hash(0, end, TileHashes(end, edge | new))

    def _read(self, tile: Tile) -> bytes:
        try:
            return self._place.source.read(tile.path, tile.most)
        except FileMissing:
            raise TrustError(
                "M555", registry=self._place.url, path=tile.path, reason="it is missing"
            ) from None

    def _point_to(self, index: int, entry: bytes) -> None:
        """Write where a release is in the log, as far as it is one."""
        try:
            parsed = parse_entry(entry)
        except ValueError:  # a newer modpkg has decided it
            return
        if parsed.action == "publish" and parsed.release is not UNSET:
            found = canonical_json(LoggedRelease(index, entry.decode())) + b"\n"
            self._place.write(logged_path(parse_digest(parsed.release)), found)
        elif parsed.action == "void" and parsed.release is not UNSET:
            self._place.remove(logged_path(parse_digest(parsed.release)))  # it may be logged again

    def _remove_partial(self, path: str) -> None:
        """Remove the partial files of a tile that is full."""
        if ".p/" in path:
            return
        with contextlib.suppress(OSError, ModpkgError):  # nobody needs that they are gone
            for file in [*self._place.stored(f"{path}.p")]:
                self._place.remove(file.path)

    def _signed(self, size: int, root: bytes) -> LogCheckpoint:
        origin = self.info.origin
        return LogCheckpoint(origin, size, root).signed_by(origin, self._signer)


class PrivateJournal:
    """The part of private modules in the log of a registry."""

    def __init__(self, log: LogWriter) -> None:
        self.note = log.note_private


def keep_log(public: Place, private: Place | None, key: str | None) -> LogWriter | None:
    """Return the log of a registry, and have what changes reported to it; None without a key.

    Raises:
        What `open_log` raises.
    """
    if key is None:
        return None
    log = open_log(public, key)
    for place, journal in ((public, log), (private, PrivateJournal(log))):
        if isinstance(place, FolderPlace | BucketPlace):
            place.journal = journal
    return log


def open_log(place: Place, key: str) -> LogWriter:
    """Return the log of a place, by the name or the file of its key.

    Raises:
        TrustError: There is no such key, it is of another kind than Ed25519, or its passphrase is
            not in the environment.
        PublishError: The place is not the storage of a registry.
    """
    if not isinstance(place, FolderPlace | BucketPlace):
        raise PublishError("M576", url=place.url)
    path = key_path(key)

    def passphrase() -> str:
        if (given := os.environ.get(PASSPHRASE)) is None:
            reason = f"it has a passphrase; set {PASSPHRASE} for the server"
            raise TrustError("M547", what=shown(path), reason=reason)
        return given

    signer = read_key(path, passphrase)
    if signer.public.algorithm != "ed25519":
        raise TrustError("M547", what=shown(path), reason="the key of a log is an Ed25519 one")
    return LogWriter(place, signer)


def origin_of(url: str) -> str:
    """Return what the log of the registry at an address calls itself.

    >>> origin_of("https://models.example:8420/team/")
    'models.example:8420/team/log'
    """
    return f"{url.partition('://')[2].strip('/')}/{LOG}"
