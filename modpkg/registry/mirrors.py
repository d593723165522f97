"""Mirrors: other places with a registry's files, asked before the registry itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from modpkg.core.digests import Digest
from modpkg.core.errors import IntegrityError, ModpkgError, RegistryUnreachable
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.records import RegistryInfo, decode_record
from modpkg.core.tree import check_digest
from modpkg.registry.source import NoRanges, NotThere, Source

T = TypeVar("T")

BLOBS = "blobs/sha256/"


class MirroredSource:
    """A registry whose files are read from its mirrors, in their order, and then from itself.

    A mirror that fails is passed over until the program ends, with one warning. A mirror is not
    trusted with bytes that have a digest; it has to be of the same registry by name.
    """

    def __init__(
        self,
        home: Source,
        mirrors: Sequence[Source],
        home_name: Callable[[], str | None],
        warn: Callable[[str], None] | None,
    ) -> None:
        """``home_name`` returns the registry's name; None where it cannot be had."""
        self.url = home.url
        self._home = home
        self._mirrors = list(mirrors)
        self._left = list(mirrors)
        self._proved: set[str] = set()
        self._home_name = home_name
        self._name: str | None = None
        self._warn = warn
        self._lock = threading.RLock()

    @property
    def serving(self) -> str:
        """The address that is asked first now."""
        mirror = self._next()
        return (mirror or self._home).url

    def pass_over(self, address: str, why: str) -> bool:
        """Ask a mirror no more; False when the address is not one's but the registry's own."""
        with self._lock:
            for mirror in self._left:
                if mirror.url == address:
                    self._left.remove(mirror)
                    if self._warn is not None:
                        self._warn(f"the mirror {address} of {self.url} is passed over: {why}")
            return any(mirror.url == address for mirror in self._mirrors)

    def read(self, path: str) -> bytes:
        def read_checked(source: Source) -> bytes:
            data = source.read(path)
            if path.startswith(BLOBS) and source is not self._home:
                digest = Digest("sha256:" + path.rpartition("/")[2])
                check_digest(data, digest, path, source.url)
            return data

        return self._ask(read_checked, path)

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
            except (NotThere, RegistryUnreachable) as error:
                self.pass_over(mirror.url, _reason(error, path))
            except NoRanges:
                if at == start:
                    raise
                self.pass_over(mirror.url, "it gives whole files only")
        try:
            yield from self._home.stream(path, at, stop)
        except NoRanges:
            if at == start:
                raise
            reason = f"it cannot go on with {path}, which a mirror began"
            raise RegistryUnreachable("M302", url=self.url, reason=reason) from None

    def names(self, folder: str) -> list[str] | None:
        return self._ask(lambda source: source.names(folder), folder)

    def _ask(self, use: Callable[[Source], T], path: str) -> T:
        """Return what the first source says that does not fail.

        A file that is no blob may be missing on a mirror: the registry may not have it either.
        """
        asked = 0
        while True:
            mirror = self._next(asked)
            if mirror is None:
                return use(self._home)
            try:
                return use(mirror)
            except NotThere as error:
                if path.startswith(BLOBS):
                    self.pass_over(mirror.url, _reason(error, path))
                else:
                    asked += 1
            except (RegistryUnreachable, IntegrityError) as error:
                self.pass_over(mirror.url, _reason(error, path))

    def _next(self, skip: int = 0) -> Source | None:
        """Return the first mirror, after so many, that is not passed over; None: the registry."""
        with self._lock:
            while len(self._left) > skip:
                mirror = self._left[skip]
                if mirror.url in self._proved or self._prove(mirror):
                    return mirror
            return None

    def _prove(self, mirror: Source) -> bool:
        """Check that a mirror is of this registry; else pass it over."""
        try:
            name = decode_record(
                mirror.read(REGISTRY_INFO), RegistryInfo, f"{mirror.url}/{REGISTRY_INFO}"
            ).name
        except (NotThere, ModpkgError) as error:
            self.pass_over(mirror.url, _reason(error, REGISTRY_INFO))
            return False
        self._name = self._name or self._home_name() or name
        if name != self._name:
            self.pass_over(mirror.url, f"it is of the registry {name!r}, not of {self._name!r}")
            return False
        self._proved.add(mirror.url)
        return True


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, NotThere):
        return f"it does not have {path}"
    if isinstance(error, IntegrityError):
        return f"what it has as {path} has another digest"
    if isinstance(error, RegistryUnreachable):
        return str(error.values["reason"])
    return str(error).rstrip(".")
