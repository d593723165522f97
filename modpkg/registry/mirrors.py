"""Mirrors: copies of a registry that are read before the registry itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.core.errors import IntegrityError, ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.records import RegistryInfo, decode_record
from modpkg.core.tree import check_digest
from modpkg.registry.source import FileMissing, RangesUnsupported, Source
from modpkg.registry.validator import FetchedFile, Validator

T = TypeVar("T")

BLOBS = "blobs/sha256/"


class MirroredSource:
    """A registry whose files are read from its mirrors, in order, and then from itself.

    A mirror that fails is disabled until the program ends, with one warning. Blobs of a mirror are
    verified by their digest, and its name has to be the registry's.
    """

    def __init__(
        self,
        home: Source,
        mirrors: Sequence[Source],
        home_name: Callable[[], str | None],
        warn: Callable[[str], None] | None,
    ) -> None:
        """``home_name`` returns the registry's name; None if it cannot be read."""
        self.url = home.url
        self._home = home
        self._mirrors = list(mirrors)
        self._enabled = list(mirrors)
        self._verified: set[str] = set()
        self._home_name = home_name
        self._name: str | None = None
        self._warn = warn
        self._lock = threading.RLock()

    @property
    def home(self) -> Source:
        """The registry itself, for what no mirror can be believed about."""
        return self._home

    @property
    def current_address(self) -> str:
        """The address that is read from next."""
        mirror = self._next()
        return (mirror or self._home).url

    def disable_mirror(self, address: str, reason: str) -> bool:
        """Stop using a mirror; return False if the address is the registry's own."""
        with self._lock:
            for mirror in self._enabled:
                if mirror.url == address:
                    self._enabled.remove(mirror)
                    if self._warn is not None:
                        self._warn(f"skipping the mirror {address} of {self.url}: {reason}")
            return any(mirror.url == address for mirror in self._mirrors)

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        def read_verified(source: Source) -> bytes:
            data = source.read(path, most)
            if path.startswith(BLOBS) and source is not self._home:
                digest = Digest("sha256:" + path.rpartition("/")[2])
                check_digest(data, digest, path, source.url)
            return data

        return self._first_success(read_verified, path)

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        return self._first_success(lambda source: source.read_changed(path, known, most), path)

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        at = start
        while True:
            mirror = self._next()
            if mirror is None:
                break
            try:
                for chunk in mirror.stream(path, at, stop):
                    at += len(chunk)
                    yield chunk
                return
            except (FileMissing, RegistryUnreachable) as error:
                self.disable_mirror(mirror.url, _reason(error, path))
            except RangesUnsupported:
                if at == start:
                    raise
                self.disable_mirror(mirror.url, "it does not support ranges")
        try:
            yield from self._home.stream(path, at, stop)
        except RangesUnsupported:
            if at == start:
                raise
            reason = f"it does not support ranges, to resume {path}, which a mirror began"
            raise RegistryUnreachable("M302", url=self.url, reason=reason) from None

    def names(self, folder: str) -> list[str] | None:
        return self._first_success(lambda source: source.names(folder), folder)

    def _first_success(self, use: Callable[[Source], T], path: str) -> T:
        """Return what the first source gives that does not fail.

        A file that is not a blob may be missing on a mirror, or too long: so may the registry's be.
        """
        skip = 0
        while True:
            mirror = self._next(skip)
            if mirror is None:
                return use(self._home)
            try:
                return use(mirror)
            except FileMissing as error:
                if path.startswith(BLOBS):
                    self.disable_mirror(mirror.url, _reason(error, path))
                else:
                    skip += 1
            except RegistryError as error:
                if error.code == "M327" and not path.startswith(BLOBS):
                    skip += 1  # it may be longer than whoever asks wants it, as it is elsewhere
                else:
                    self.disable_mirror(mirror.url, _reason(error, path))

    def _next(self, skip: int = 0) -> Source | None:
        """Return the first enabled mirror after ``skip`` of them; None if none is left."""
        with self._lock:
            while len(self._enabled) > skip:
                mirror = self._enabled[skip]
                if mirror.url in self._verified or self._verify_identity(mirror):
                    return mirror
            return None

    def _verify_identity(self, mirror: Source) -> bool:
        """Return whether a mirror has the registry's name; disable it if not."""
        what = f"{mirror.url}/{REGISTRY_INFO}"
        try:
            data = mirror.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
            name = decode_record(data, RegistryInfo, what).name
        except (FileMissing, ModpkgError) as error:
            self.disable_mirror(mirror.url, _reason(error, REGISTRY_INFO))
            return False
        self._name = self._name or self._home_name() or name
        if name != self._name:
            reason = f"it is a copy of the registry {name!r}, not of {self._name!r}"
            self.disable_mirror(mirror.url, reason)
            return False
        self._verified.add(mirror.url)
        return True


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, FileMissing):
        return f"it does not have {path}"
    if isinstance(error, IntegrityError):
        return f"its {path} has another digest"
    if isinstance(error, RegistryUnreachable):
        return str(error.values.get("reason", error)).rstrip(".")
    return str(error).rstrip(".")
