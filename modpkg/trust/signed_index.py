"""Reading a registry's index against the metadata that is signed over it.

Before an index file or ``registry.json`` counts, the registry's timestamp, snapshot and the bin of
the file are verified; of a name, that is one bin of many, so that a registry may have a hundred
thousand. What was verified is remembered in modpkg's home, and nothing goes back behind it. A
registry is signed if it was before, if the lock or the manifest says so, or if its own
``registry.json`` does (which is believed the first time).

A file that is newer than the metadata that was read is asked for again with new metadata, a few
times; a registry that is honest never needs more than one.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modpkg.core import bounds, system
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ModpkgError, RegistryError, RegistryUnreachable, TrustError
from modpkg.core.filenames import LOCK_NAME, REGISTRY_INFO
from modpkg.core.records import RegistryInfo, decode_record
from modpkg.core.redacted import redacted
from modpkg.registry.signature_files import asked_at_once
from modpkg.registry.source import FileMissing, Source
from modpkg.trust.known_registry import NamedRoot, SeenRegistry, Unsigned, remembered_folder
from modpkg.trust.remembered_metadata import FIRST_ROOT, RememberedMetadata, is_taken
from modpkg.trust.signed_paths import FOLDER, is_signed_path, private_path

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from modpkg.trust.fetched_metadata import FetchedMetadata
    from modpkg.trust.signed_copies import SignedCopies
    from modpkg.trust.trusted_metadata import TrustedMetadata

T = TypeVar("T")
TRIES = 3
"""How often a file is asked for that does not fit the metadata."""
NOT_SIGNED = "M564"
"""What is raised where one file alone is not what is signed; all else is of the whole registry."""
PAUSE = 0.2
"""Seconds before it is asked for again the first time."""


class SignedIndex:
    """The signed metadata of one registry, for one command."""

    def __init__(
        self,
        source: Source,
        own: Source,
        info: Callable[[], bytes | None],
        *,
        folder: Path | None = None,
        now: Callable[[], datetime.datetime | None] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            source: What reads the registry, from mirrors perhaps.
            own: What reads it without them.
            info: Returns ``registry.json`` as it is sent, None if it is missing.
            folder: Where what was seen is remembered.
            now: Returns what time it is; None, if nothing is to expire.
        """
        self._sources = [source] if source is own else [source, own]
        self.address = own.url
        self.url = self._url = redacted(own.url)
        self._word = system.shell_word(self._url)
        self._info = info
        self._memory = RememberedMetadata(remembered_folder(own.url) if folder is None else folder)
        self._now = now or (lambda: datetime.datetime.now(datetime.timezone.utc))
        self._lock = threading.RLock()
        self._bins: dict[str, threading.Lock] = {}
        """Of the bins that are loaded, or are being loaded."""
        self._trusted: TrustedMetadata | None = None
        self._copies: SignedCopies | None = None
        self._is_unsigned = False
        self._failure: Exception | None = None
        """Why the metadata could not be read when that was tried last."""
        self._begun = False
        self._wanted = {REGISTRY_INFO}
        """Files that are asked for before there is metadata."""
        self._root = ""
        self.locked: SeenRegistry | None = None
        """What the lock has seen of it."""
        self.named: NamedRoot | None = None
        """What the project's manifest says of it."""

    def checked(
        self, path: str, data: bytes | None, again: Callable[[], bytes | None]
    ) -> bytes | None:
        """Return a file as the registry has signed it: None if there is none.

        Args:
            path: The file.
            data: What was read there, None for nothing.
            again: Reads it once more, not from a mirror.

        Raises:
            TrustError: The metadata, or the file by it, is not what it has to be.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        if self._is_unsigned:
            return data
        self._want(path)
        trusted = self.metadata()
        for number in range(TRIES):
            if trusted is None:
                return data
            reason = self._refusal(trusted, path, data)
            if reason is None:
                return data
            if number < TRIES - 1:
                time.sleep(PAUSE * number)
                trusted = self._refreshed(trusted)
                data = again()
        raise TrustError("M564", path=path, url=self._url, reason=reason)

    def is_current(self, path: str, data: bytes) -> bool:
        """Return whether a file is signed as it is here, and is not being replaced.

        Raises:
            TrustError: The metadata is not what it has to be.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        if not self.is_ready and self._known_root() is None:
            return False  # whether it is signed would take a request, as the file does
        if self._is_unsigned or (trusted := self.metadata()) is None:
            return False
        self._load_bin(trusted, trusted.bin_of(path))
        file = trusted.file(path)
        return file is not None and file.is_settled_as(digest_bytes(data))

    @property
    def is_ready(self) -> bool:
        """Whether the metadata was read, or there is none."""
        return self._is_unsigned or self._trusted is not None

    def covers(self, path: str) -> bool:
        """Return whether a file is signed where anything is."""
        return is_signed_path(path)

    def prefetch(self, path: str, pool: Executor) -> None:
        """Begin to fetch what `checked` will need for a file."""
        self._want(path)
        if (trusted := self._trusted) is not None:
            if trusted.bin_of(path) in self._bins:
                return
        elif self._is_unsigned or self._begun:
            return  # who is at it holds the lock, for which nobody waits here
        self._begun = True
        pool.submit(self._fetch_ahead, path)

    def _want(self, path: str) -> None:
        if self._trusted is None:
            self._wanted.add(path)

    def _fetch_ahead(self, path: str) -> None:
        try:
            if (trusted := self.metadata()) is not None:
                self._load_bin(trusted, trusted.bin_of(path))
        except (ModpkgError, FileMissing):
            pass  # who needs it meets it

    def names(self) -> list[str] | None:
        """Return the modules whose index files are signed; None if the registry is not."""
        from modpkg.trust.signed_names import signed_names

        trusted = self.metadata()
        return None if trusted is None else signed_names(trusted, self._load_bin)

    def seen(self) -> SeenRegistry | None:
        """Return what was seen of the registry by this command; None if it is not signed."""
        trusted = self._trusted
        if trusted is None or trusted.snapshot is None:
            return None
        return SeenRegistry(self._root, trusted.root.version, trusted.snapshot.version)

    def _refusal(self, trusted: TrustedMetadata, path: str, data: bytes | None) -> str | None:
        """Return why a file is not what is signed; None if it is."""
        self._load_bin(trusted, trusted.bin_of(path))
        file = trusted.file(path)
        if data is None:
            return None if file is None or file.custom.new else "it is missing"
        digest = digest_bytes(data)
        if file is not None:
            return None if trusted.may_have(file, digest) else "it has another digest"
        private = private_path(digest)
        self._load_bin(trusted, trusted.bin_of(private))
        return "it is not listed" if trusted.file(private) is None else None

    # The metadata ---------------------------------------------------------------------------

    def metadata(self) -> TrustedMetadata | None:
        """Return the metadata, which is read now if it was not yet; None if it is not signed.

        Raises:
            TrustError: It is not what it has to be.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        before = self._failure
        with self._lock:
            if self._trusted is None and not self._is_unsigned:
                if self._failure is not None and self._failure is not before:
                    raise self._failure  # else all who waited would try in turn
                try:
                    first = self._first_root()
                    self._trusted = self._of_any(lambda source: self._read(source, first))
                except Unsigned:
                    self._is_unsigned = True
                except Exception as error:
                    self._failure = error
                    raise
            return self._trusted

    def _of_any(self, read: Callable[[Source], T]) -> T:
        """Return what is read with mirrors, or without them if that is not what it has to be."""
        for mirrored in self._sources[:-1]:
            with contextlib.suppress(TrustError, RegistryUnreachable):
                return read(mirrored)
        return self._of_own(read)

    def _of_own(self, read: Callable[[Source], T]) -> T:
        """Return what is read without mirrors, of a registry that is there."""
        from modpkg.trust.fetched_metadata import explained

        try:
            return read(self._sources[-1])
        except TrustError as error:
            first = self._memory.read(FIRST_ROOT)
            raise explained(error, self._sources[-1], self._url, first) from None

    def _refreshed(self, before: TrustedMetadata) -> TrustedMetadata | None:
        """Return the metadata as the registry itself has it now, read once by all threads."""
        with self._lock:
            if self._trusted is before:
                self._trusted = self._of_own(lambda own: self._read(own, self._first_root()))
            return self._trusted

    def counts_offline(self, path: str, data: bytes) -> bool:
        """Return whether a file's copy may be read without asking the registry.

        Raises:
            TrustError: The lock or the manifest knows another root than the one that is remembered.
        """
        with self._lock:
            if self._copies is None:
                if (first := self._known_root()) is None:
                    return True  # as far as is known, it is not signed
                if isinstance(first, str):
                    return False  # it is signed, and was never read so on this machine
                from modpkg.trust.signed_copies import SignedCopies

                self._copies = SignedCopies(self._url, first, self._memory.read)
            return self._copies.has(path, data)

    def _known_root(self) -> bytes | str | None:
        """Return the first root, or its digest, as it is known without asking; None if it is not.

        Raises:
            TrustError: The lock knows another one, or the manifest does.
        """
        data = self._memory.read("1.root.json")
        locked = None if self.locked is None else self.locked.root
        if self.named is not None:
            known = locked if data is None else digest_bytes(data)
            if known not in (None, self.named.root):
                raise self._unlike_named(f"its first root is {known}")
            locked = locked or self.named.root
        if data is not None and locked is not None and (found := digest_bytes(data)) != locked:
            raise self._other_root(LOCK_NAME, found, locked)
        return locked if data is None else data

    def _first_root(self) -> bytes | str:
        """Return the first root, which is remembered, or else its digest.

        Raises:
            Unsigned: There is none.
            TrustError: The lock knows another one, or the manifest does.
        """
        if (known := self._known_root()) is not None:
            return known
        if (own := self._own_root()) is None:
            raise Unsigned
        return own

    def _own_root(self) -> str | None:
        """Return the first root that the registry itself names; its mirrors, if it cannot be read.

        A mirror would else have a root of its own remembered, or hide that there is one.
        """
        what = f"{self._url}/{REGISTRY_INFO}"
        if len(self._sources) > 1:
            own = self._sources[-1]
            try:
                data = own.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
                return decode_record(data, RegistryInfo, what).tuf
            except FileMissing:
                return None
            except ModpkgError:
                pass  # it cannot be reached, or something else answers in its place
        info = self._info()
        return None if info is None else decode_record(info, RegistryInfo, what).tuf

    def _read(self, source: Source, first: bytes | str) -> TrustedMetadata:
        """Return the metadata as it is now: what is remembered, and what is newer."""
        from modpkg.trust.fetched_metadata import FetchedMetadata  # what is not signed needs none
        from modpkg.trust.trusted_metadata import TrustedMetadata

        ahead = FetchedMetadata(source)
        if isinstance(first, str):
            names = ("1.root.json", "2.root.json", "timestamp.json")
            ahead.fetch([(name, bounds.TUF_ROOT_BYTES) for name in names])
            data = self._fetched(ahead, names[0], bounds.TUF_ROOT_BYTES)[names[0]]
            if (found := digest_bytes(data)) != first:
                if self.named is not None:
                    raise self._unlike_named(f"its first root is {found}")
                raise self._other_root("its lock or registry.json", found, first)
            first = data
        trusted = TrustedMetadata(self._url, first, self._now())
        while (known := self._memory.read(f"{trusted.root.version + 1}.root.json")) is not None:
            if not is_taken(partial(trusted.update_root, known)):
                break  # it is damaged
        roots, stamp = asked_at_once(
            [
                lambda: self._new_roots(ahead, trusted),
                lambda: self._fetched(ahead, "timestamp.json", bounds.TUF_ROOT_BYTES),
            ],
            is_remote=ahead.is_remote,
        )
        self._memory.keep({FIRST_ROOT: first, **roots})
        if (kept := self._memory.read(FIRST_ROOT) or first) != first:
            raise self._other_root("another command", digest_bytes(first), digest_bytes(kept))
        root = trusted.root.version
        if (old := self._memory.read("timestamp.json")) is not None:
            is_taken(lambda: trusted.update_timestamp(old))
        is_after = trusted.timestamp is not None
        if (old_snapshot := self._memory.read("snapshot.json")) is not None and is_after:
            is_taken(lambda: trusted.update_snapshot(old_snapshot, believed=True))
        if trusted.update_timestamp(stamp["timestamp.json"]):
            self._memory.keep(stamp, refused=None if is_after else old, root=root)
        if not trusted.snapshot_is_current():
            refused = old_snapshot if trusted.snapshot is None else None
            name = f"{trusted.snapshot_file.version}.snapshot.json"
            data = self._fetched(ahead, name, bounds.TUF_FILE_BYTES)[name]
            trusted.update_snapshot(data)
            self._memory.keep({"snapshot.json": data}, refused=refused, root=root)
        if self.locked is not None:
            trusted.check_since(self.locked)
        self._root = digest_bytes(first)
        ahead.fetch_changed(trusted, self._wanted.copy(), self._memory.read)
        self._load(trusted, ahead, "targets", trusted.update_targets)
        for role in {trusted.bin_of(path) for path in self._wanted.copy()}:  # others may add to it
            if ahead.has(f"{trusted.file_of(role).version}.{role}.json"):
                is_taken(
                    partial(self._load, trusted, ahead, role, partial(trusted.update_bin, role))
                )
        return trusted

    def _new_roots(self, source: FetchedMetadata, trusted: TrustedMetadata) -> dict[str, bytes]:
        """Take the roots that follow, and return their files."""
        new: dict[str, bytes] = {}
        for _ in range(bounds.TUF_ROOTS):
            name = f"{trusted.root.version + 1}.root.json"
            try:
                data = source.read(name, bounds.TUF_ROOT_BYTES)
            except FileMissing:
                break
            except RegistryError as error:
                raise self._malformed(error, name) from None
            trusted.update_root(data)
            new[name] = data
        return new

    def _load_bin(self, trusted: TrustedMetadata, role: str) -> None:
        from modpkg.trust.fetched_metadata import FetchedMetadata

        with self._lock:
            turn = self._bins.setdefault(role, threading.Lock())
        with turn:
            if role in trusted.bins:
                return
            take = partial(trusted.update_bin, role)
            self._of_any(lambda source: self._load(trusted, FetchedMetadata(source), role, take))

    def _load(
        self,
        trusted: TrustedMetadata,
        source: FetchedMetadata,
        role: str,
        take: Callable[[bytes], object],
    ) -> None:
        """Take the targets role or a bin: what is remembered, or else what the registry has."""
        known = self._memory.read(f"{role}.json")
        if known is not None and is_taken(lambda: take(known)):
            return
        name = f"{trusted.file_of(role).version}.{role}.json"
        data = self._fetched(source, name, bounds.TUF_BIN_BYTES)[name]
        take(data)
        self._memory.keep_copy(f"{role}.json", data)

    def _fetched(self, source: FetchedMetadata, name: str, most: int) -> dict[str, bytes]:
        """Return a file of metadata, by its name.

        Raises:
            TrustError: It is missing, or too long.
            RegistryUnreachable: It cannot be read.
        """
        try:
            return {name: source.read(name, most)}
        except FileMissing:
            if name not in ("1.root.json", "timestamp.json"):
                what = f"{FOLDER}/{name} of {self._url}"
                raise TrustError("M565", what=what, reason="it is missing") from None
            reason = f"it has no {FOLDER}/{name}"
            if self.named is not None:
                raise self._unlike_named(reason) from None
            if self.locked is None and self._memory.read("1.root.json") is None:
                what, reason = f"{REGISTRY_INFO} of {self._url}", f"{reason}, which it names"
                raise TrustError("M565", what=what, reason=reason) from None
            raise TrustError("M566", url=self._url, reason=reason, word=self._word) from None
        except RegistryError as error:
            raise self._malformed(error, name) from None

    def _malformed(self, error: RegistryError, name: str) -> ModpkgError:
        if error.code != "M327":
            return error
        what = f"{FOLDER}/{name} of {self._url}"
        return TrustError("M565", what=what, reason=f"it has over {error.values['most']}")

    def _unlike_named(self, reason: str) -> TrustError:
        if self.named is None:
            raise AssertionError("nothing names a root")
        where, root = self.named.where, self.named.root
        return TrustError("M573", url=self._url, where=where, root=root, reason=reason)

    def _other_root(self, where: str, found: str, root: str) -> TrustError:
        seen = {"where": where, "found": found, "root": root}
        return TrustError("M567", url=self._url, word=self._word, **seen)
