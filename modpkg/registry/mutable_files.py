"""The files of a registry that may change: of a remote one they are kept, and asked for seldom.

``modules.jsonl`` has the digests of the others. So one request, which mostly finds that it is as it
was, tells of all copies whether they are current; only what differs is asked for. That is all that
is believed of it: a copy is what the registry itself has sent, and a file is what the registry
sends when it is asked for, whatever digest it was announced with.

A list that is long beside what a project needs is not fetched: each file is asked for then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import InstallError, ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.names import module_name
from modpkg.core.records import IndexLine, RegistryInfo, decode_record
from modpkg.core.redacted import redacted
from modpkg.core.regular_file import read_file
from modpkg.registry.hinted_files import HintedFiles
from modpkg.registry.revalidation import Sent, asked, write_changed
from modpkg.registry.source import FileMissing, Source

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

NEWS = 32
"""Changes of a registry since it was read before, of which all are fetched ahead if it is no more:
which of them a project needs may only be seen one after the other."""

NOT_KEPT = ("M501", "M592")
"""What is raised where something is read offline that is not here, or not as it is signed."""
Arrived = Callable[[bytes], None] | None
"""Called with what was read, in whatever thread reads it, if it takes a while to verify that."""


class _Digests(Struct):
    """What a line of ``modules.jsonl`` says of files."""

    name: str
    index: str | None = None
    registry: str | None = None


_LINE = msgspec.json.Decoder(_Digests)


class FileCheck(Protocol):
    """What verifies files of a registry that may change, where its maintainers sign them."""

    @property
    def is_ready(self) -> bool:
        """Whether it is known who signs, and whether anything is signed."""
        ...

    def covers(self, path: str) -> bool:
        """Return whether a file is signed where anything is."""
        ...

    def checked(
        self, path: str, data: bytes | None, again: Callable[[], bytes | None]
    ) -> bytes | None:
        """Return a file as it is signed, which is ``data`` or what ``again`` reads; None for none.

        Raises:
            TrustError: It is not what is signed.
        """
        ...

    def is_current(self, path: str, data: bytes) -> bool:
        """Return whether a file is signed as it is here, and is not being replaced.

        Raises:
            TrustError: What says so is not what it has to be.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        ...

    def counts_offline(self, path: str, data: bytes) -> bool:
        """Return whether a file's copy may be read without asking the registry.

        Raises:
            TrustError: What says so is not what it has to be.
        """
        ...

    def prefetch(self, path: str, pool: Executor) -> None:
        """Begin to fetch what `checked` will need for a file."""
        ...

    def names(self) -> list[str] | None:
        """Return the modules whose index files are signed; None if the registry is not.

        Raises:
            TrustError: What says so is not what it has to be.
        """
        ...


class MutableFiles:
    """The files of one registry that may change.

    Args:
        source: Where they are.
        copies: The folder of their copies; None if none are kept, as of a folder.
        offline: Whether only copies are read.
        home: What reads the registry itself, if ``source`` reads its mirrors first.
    """

    def __init__(
        self, source: Source, copies: Path | None, *, offline: bool, home: Source | None = None
    ) -> None:
        self._source = source
        self.home = source if home is None else home
        """The registry without its mirrors."""
        self._copies = copies
        self._offline = offline
        self.needed: set[str] = set()
        """Modules that will be asked for, as far as they are known."""
        self._lock = threading.Lock()
        self._weighed = -1
        """For how many modules the list was too long."""
        self.vouching: Callable[[IndexLine], Iterator[tuple[str, int]]] | None = None
        """Returns the files that vouch for a release, each with how many bytes it may have."""
        self._ahead: dict[str, Future[bytes | None]] = {}
        self._ahead_bytes = 0
        self._ahead_lock = threading.Lock()
        self.checks: FileCheck | None = None
        """What verifies the files, of a registry that may be signed."""
        self._hinted: HintedFiles[Sent] = HintedFiles()
        self._is_home_silent = False
        self._info: Sent | None = None
        self._info_lock = threading.Lock()
        self._digests: dict[str, str] | None = None
        """By path, the digests of files; None as long as the list was not asked for."""
        self._changed: list[str] = []

    @property
    def source(self) -> Source:
        return self._source

    def copy(self, path: str) -> Path | None:
        """Return the path of a file's copy, be there one or not; None if none are kept."""
        return None if self._copies is None else self._copies / path

    def forget(self, path: str) -> None:
        """Remove a file's copy: a list that was not brought up to date calls it current for ever.

        Raises:
            OSError: It cannot be removed.
        """
        if (copy := self.copy(path)) is not None:
            copy.unlink(missing_ok=True)

    def read(self, path: str, most: int, arrived: Arrived = None) -> bytes:
        """Return a file, which may have ``most`` bytes.

        Raises:
            FileMissing: There is none.
            InstallError: It is read ``offline``, and there is no copy, or none that counts (see
                `NOT_KEPT`).
            TrustError: It, or what verifies it, is not what is signed.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        copy = self.copy(path)
        if self._offline:
            what = f"{redacted(self._source.url)}/{path}"
            with suppress(FileNotFoundError):
                if copy is not None:
                    if self._counts(path, kept := read_file(copy)):
                        return kept
                    raise InstallError("M592", what=what)
            raise InstallError("M501", what=what)
        is_checked = self.checks is not None and self.checks.covers(path)
        sent = None
        try:
            sent = self._asked(path, most)
        except FileMissing:
            if not is_checked:
                raise
        data = None if sent is None else sent.data
        if self.checks is not None and is_checked:
            self._arrive(data, arrived)
            found = self.checks.checked(path, data, lambda: self._own(path, most))
            if found is None:
                raise FileMissing(path)
            if found is not data:
                sent = Sent(found, copy)
        if sent is None:
            raise AssertionError("only what is checked may be missing")
        if sent.copy is not None:
            sent.keep(is_signed=self._is_current(path, sent.data))
        return sent.data

    def _is_current(self, path: str, data: bytes) -> bool:
        """Return whether a file is signed as it is here, so that nobody has to ask for it.

        Raises:
            TrustError: What says so is not what it has to be.
            RegistryUnreachable, RegistryError: It cannot be read.
        """
        checks = self.checks
        if checks is None or path == REGISTRY_INFO or not checks.covers(path):
            return False  # who signs is seen by registry.json, which is asked for each time
        return checks.is_current(path, data)

    def _counts(self, path: str, data: bytes) -> bool:
        """Return whether a file's copy may be read offline."""
        checks = self.checks
        return checks is None or not checks.covers(path) or checks.counts_offline(path, data)

    def hint(self, path: str, pool: Executor, most: int, arrived: Arrived) -> None:
        """Begin to fetch a file, and what verifies it, which something unverified says is needed.

        They are ``most`` files at most.

        Raises:
            RuntimeError: The pool was shut down.
        """

        def read() -> Sent:
            self.prefetch(path, pool)
            sent = self._asked_now(path, bounds.HINTED_FILE_BYTES)
            self._arrive(sent.data, arrived)
            return sent

        self._hinted.begin(path, read, pool, most)

    def _arrive(self, data: bytes | None, arrived: Arrived) -> None:
        is_verified = self.checks is None or self.checks.is_ready
        if arrived is not None and data is not None and not is_verified:
            arrived(data)

    def prefetch(self, path: str, pool: Executor) -> None:
        """Begin to fetch what verifies a file, if anything does."""
        if self.checks is not None and not self._offline:
            self.checks.prefetch(path, pool)

    def prefetch_vouching(self, line: IndexLine, pool: Executor) -> None:
        """Begin to fetch what vouches for a release, for `vouching_file`.

        Raises:
            ModpkgError: It is not known which files do.
        """
        if self.vouching is not None and not self._offline:
            for path, most in self.vouching(line):
                if path not in self._ahead:
                    self._ahead[path] = pool.submit(self._own_ahead, path, most)

    def _own_ahead(self, path: str, most: int) -> bytes | None:
        """Return what `own` does; None if that would be too much to keep."""
        data = self.own(path, most)
        with self._ahead_lock:
            if self._ahead_bytes + len(data) > bounds.VOUCHING_AHEAD_BYTES:
                return None
            self._ahead_bytes += len(data)
        return data

    def vouching_file(self, path: str, most: int) -> bytes:
        """Return a file that vouches for a release.

        Raises:
            FileMissing, RegistryUnreachable, RegistryError: As for `Source.read`.
        """
        ahead = self._ahead.pop(path, None)
        if ahead is None or (data := ahead.result()) is None:
            return self.own(path, most)
        with self._ahead_lock:
            self._ahead_bytes -= len(data)
        return data

    def own(self, path: str, most: int) -> bytes:
        """Return a file as the registry itself has it; a mirror's only if that cannot be reached.

        Raises:
            FileMissing, RegistryUnreachable, RegistryError: As for `Source.read`.
        """
        if self.home is not self._source and not self._is_home_silent:
            try:
                return self.home.read(path, most)
            except RegistryUnreachable:
                self._is_home_silent = True  # to find that out for each file would take long
        return self._source.read(path, most)

    def arrived(self, path: str) -> bytes | None:
        """Return a file that vouches for releases, if it was fetched ahead and has come by now."""
        ahead = self._ahead.get(path)
        if ahead is None or not ahead.done() or ahead.exception() is not None:
            return None
        return ahead.result()

    def info(self) -> bytes | None:
        """Return ``registry.json`` as it is sent; None if it is missing."""
        with suppress(FileMissing):
            return self._asked(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES).data
        return None

    def _asked(self, path: str, most: int) -> Sent:
        """Return a file as it is now."""
        if path != REGISTRY_INFO:
            hinted = self._hinted.take(path)
            return self._asked_now(path, most) if hinted is None else hinted
        with self._info_lock:  # once: whether the registry is signed is seen by it first
            if self._info is None:
                self._info = self._asked_now(path, most)
            return self._info

    def _asked_now(self, path: str, most: int) -> Sent:
        copy = self.copy(path)
        if copy is None:
            return Sent(self._source.read(path, most))
        if (before := _read(copy)) is not None:
            if path == REGISTRY_MODULES:
                if self._digests and len(before) <= most:
                    return Sent(before)  # it was asked for already
            elif (digest := self._current().get(path)) is not None:
                if digest == digest_bytes(before):
                    return Sent(before)
            elif len(before) <= most and self._is_current(path, before):
                return Sent(before)
        sent = asked(self._source, path, copy, most)
        if path == REGISTRY_MODULES and len(sent.data) <= self._most_ahead():
            with self._lock:
                self._learn(before, sent.data)
        return sent

    def _own(self, path: str, most: int) -> bytes | None:
        """Return a file as the registry itself has it now; None if it has none."""
        with suppress(FileMissing):
            return self.home.read(path, most)
        return None

    def news(self) -> list[str]:
        """Return modules that are new, or have changed, since the registry was read before.

        They are none if they are many, or if that is not known.
        """
        if self._copies is None or self._offline or not (self._copies / REGISTRY_MODULES).exists():
            return []
        self._current()
        return self._changed if len(self._changed) <= NEWS else []

    def registry_name(self, home: Source) -> str | None:
        """Return the registry's name, from the copy or else from ``home``; None if unknown."""
        copy, what = self.copy(REGISTRY_INFO), f"{redacted(home.url)}/{REGISTRY_INFO}"
        if copy is not None:
            try:
                return decode_record(read_file(copy), RegistryInfo, what).name
            except (OSError, ModpkgError):
                pass  # missing or damaged
        try:
            data = home.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
            name = decode_record(data, RegistryInfo, what).name
        except (FileMissing, ModpkgError):
            return None
        if copy is not None:
            write_changed(copy, data)
        return name

    def _current(self) -> Mapping[str, str]:
        """Return the digests of the files as they are now, by path, as far as they are known."""
        with self._lock:
            if self._digests is None and len(self.needed) > self._weighed:
                self._weighed = len(self.needed)
                self._ask()
            return self._digests or {}

    def _ask(self) -> None:
        path = self.copy(REGISTRY_MODULES)
        if path is None:
            raise AssertionError("nothing is kept that could be current")
        most = self._most_ahead()
        before = _read(path)
        if before is not None and len(before) > most:
            return
        try:
            sent = asked(self._source, REGISTRY_MODULES, path, most)
        except RegistryError as error:
            if error.code != "M327":  # what is too long may be worth it for more modules
                self._digests = {}
            return
        except (FileMissing, ModpkgError):  # each file is asked for, which tells what is wrong
            self._digests = {}
            return
        sent.keep()
        self._learn(before, sent.data)

    def _learn(self, before: bytes | None, data: bytes) -> None:
        """Note what the list says, and what is other than it said ``before``."""
        self._digests = _digests(data)
        if before is not None and before != data:
            paths = dict(self._digests.items() - _digests(before).items()).keys() - {REGISTRY_INFO}
            self._changed = sorted(path[len("index/") : -len(".jsonl")] for path in paths)

    def _most_ahead(self) -> int:
        """Return how many bytes of the list are worth what they may spare."""
        return bounds.MODULES_AHEAD_BYTES + bounds.MODULES_AHEAD_BYTES_OF_NAME * self._spared()

    def _spared(self) -> int:
        """Return about how many questions may be spared: of how many modules there is a copy."""
        folder, names = self.copy("index"), self.needed
        if folder is None or not names or not folder.is_dir():
            return 0
        files = {file.name for file in folder.iterdir()}
        return sum(f"{name}.jsonl" in files for name in names)


def _digests(data: bytes) -> dict[str, str]:
    """Return the digests of the files that ``modules.jsonl`` tells, by path."""
    found: dict[str, str] = {}
    if data.count(b"\n") > bounds.MODULES_LINES:
        return found
    for raw in data.splitlines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ModpkgError):
            line = _LINE.decode(raw)
            if line.index is not None and module_name(line.name) == line.name:
                found[f"index/{line.name}.jsonl"] = line.index
            if line.registry is not None:
                found.setdefault(REGISTRY_INFO, line.registry)
    return found


def _read(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except OSError:
        return None
