"""Reading a registry: index files, release records and interfaces, all verified."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.errors import InstallError, IntegrityError, ModpkgError, NotFound, RegistryError
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.names import parse_version
from modpkg.core.records import (
    SHARED_FIELDS,
    SPEC,
    Expects,
    IndexLine,
    ModuleLine,
    Provides,
    Record,
    RegistryInfo,
    ReleaseRecord,
    decode_record,
)
from modpkg.core.redacted import redacted
from modpkg.core.tree import BlobTree, check_digest
from modpkg.manifest.config import Settings
from modpkg.manifest.normal_address import site_name
from modpkg.registry.allowance import Allowance
from modpkg.registry.elsewhere import ElsewhereBlobs
from modpkg.registry.index import parse_index
from modpkg.registry.index_history import IndexMemory
from modpkg.registry.mirrors import MirroredSource
from modpkg.registry.missing import missing_blob, no_such_module
from modpkg.registry.mutable_files import Arrived, MutableFiles
from modpkg.registry.open_source import open_configured
from modpkg.registry.select import newest_release
from modpkg.registry.source import FileMissing, FolderSource, Source
from modpkg.registry.standing import check_present

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future


class Registry:
    """One registry, read from one address.

    Each index file, record and interface is read and parsed at most once per instance; whoever
    publishes to the registry opens it again. Records and interfaces are immutable and are kept in
    ``cache`` (the store); index files of a remote registry are kept beside it for ``offline``.
    ``settings`` says which mirrors the registry has, and how to log in.
    """

    def __init__(
        self,
        url: str,
        *,
        base: Path | None = None,
        cache: BlobTree | None = None,
        offline: bool = False,
        warn: Callable[[str], None] | None = None,
        settings: Settings | None = None,
        origin: str = "",
        source: Source | None = None,
    ) -> None:
        """``origin`` is what named the address, for messages; ``source`` is open already."""
        settings = settings or Settings()
        self.allowance = Allowance(url, settings.limits)  # what a command may still take from it
        self._home = source or open_configured(url, base, settings, self.allowance)
        self.source: Source = self._home
        self.cache = cache
        self.warn = warn
        if addresses := settings.of(url).mirrors:
            limits = self.allowance
            mirrors = [open_configured(one, None, settings, limits, of=url) for one in addresses]
            self.source = MirroredSource(
                self._home, mirrors, lambda: self.files.registry_name(self._home), warn
            )
        self.origin, self.remedy = origin, "check the address"
        self.stands_for = self.listing = ""  # a model of a hub, and the digest of what it lists
        self._address = redacted(self.source.url)
        read, hosts = self.source.read, settings.place_hosts
        self.elsewhere = ElsewhereBlobs(read, self.url, hosts, warn, offline)
        self.expected: Mapping[str, str] = {}
        """By name, a version of which whoever resolves tells by himself that it was lost."""
        self.offline = offline and self.folder is None
        self._info: RegistryInfo | None = None
        self._indexes: dict[str, list[IndexLine]] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._counted: set[str] = set()
        copies = None if cache is None or self.folder is not None else self._site(cache)
        self.files = MutableFiles(self.source, copies, offline=self.offline, home=self._home)
        self._present: set[str] = set()
        self._memory = None if cache is None else IndexMemory(self._site(cache) / "index")
        self._names: list[str] | None = None
        self._ahead: dict[str, Future[bytes]] = {}
        self._blobs_ahead: dict[Digest, Future[bytes]] = {}
        self._records: dict[str, ReleaseRecord] = {}
        self._provides: dict[str, Provides] = {}
        self._expects: dict[str, Expects] = {}

    @property
    def url(self) -> str:
        """The address as it is shown and recorded: ``stands_for``, or its own without secrets."""
        return self.stands_for or self._address

    @property
    def shown(self) -> str:
        """The address, and what named it, for messages."""
        return f"{self.url} ({self.origin})" if self.origin else self.url

    @property
    def folder(self) -> Path | None:
        """The registry's folder, when it is one on this machine."""
        return self.source.root if isinstance(self.source, FolderSource) else None

    @property
    def info(self) -> RegistryInfo:
        """The registry's ``registry.json``.

        Raises:
            NotFound: There is no registry at the address.
            RegistryUnreachable: The file cannot be read.
            RegistryError: The registry has a newer spec version.
            RecordError: The file is malformed.
        """
        if self._info is None:
            try:
                data = self.files.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
            except FileMissing:
                raise NotFound("M301", url=self.shown, remedy=self.remedy) from None
            info = decode_record(data, RegistryInfo, f"{self.url}/{REGISTRY_INFO}")
            if info.spec > SPEC:
                raise RegistryError("M303", url=self.url, spec=info.spec, known=SPEC)
            self._info = info
        return self._info

    @property
    def name(self) -> str:
        return self.info.name

    def index(self, name: str) -> list[IndexLine]:
        """Return the releases of a module, in the index's order; empty when it has none."""
        lines = self.known_index(name)
        self.warn_of_lost()
        return lines

    def known_index(self, name: str) -> list[IndexLine]:
        """Return what `index` does, for who raises `no_such_module`, which says what was lost."""
        if name not in self._indexes:
            try:
                ahead = self._ahead.get(name)  # kept if it failed: it was retried often enough
                data = self._read_index(name) if ahead is None else ahead.result()
            except FileMissing:
                data = b""
            else:
                self._present.add(name)
            path, counts = f"index/{name}.jsonl", {"index-values": data.count(b",")}
            if len(data) > self.allowance.limit("releases"):  # before it is decoded
                self.allowance.spend_if_over("releases", data.count(b"\n"), path)
            self.allowance.spend_if_over("index-values", counts["index-values"], path)

            def count(requirements: int) -> None:
                counts["requirements"] = requirements
                self.allowance.spend_if_over("requirements", requirements, path)

            lines = parse_index(data, name, self.url, self.warn, count)
            self._sizes[name] = {**counts, "index-bytes": len(data)}
            if not lines:
                _ = self.info  # raises if this is not a registry
            if self._memory is not None and self.warn is not None:
                expected = self.expected.get(name) if lines else None
                for sentence in self._memory.taken_back(name, self.url, data, lines, expected):
                    self.warn(sentence)
            self._indexes[name] = lines
            self._ahead.pop(name, None)
        return self._indexes[name]

    def substitute(self, name: str, lines: list[IndexLine]) -> None:
        """Let a module have these releases from now on, for who tries a candidate of it."""
        _ = self.index(name)  # what it has is counted
        self._indexes[name] = lines

    def resolved_index(self, name: str) -> list[IndexLine]:
        """Return what `index` returns, for a name that something requires: these are counted.

        Raises:
            RegistryError: What the command may take from the registry is spent.
        """
        lines = self.known_index(name)
        if name not in self._counted:
            self._counted.add(name)
            counts = {"names": 1, "releases": len(lines), **self._sizes[name]}
            self.allowance.spend_all(counts, f"index/{name}.jsonl")
        return lines

    def keep_seen(self, names: Iterable[str]) -> None:
        """Keep what the index of a folder has of these names, to tell what it takes back later.

        That of a remote registry is kept whenever it is read.
        """
        if self.folder is None or self._memory is None:
            return
        self._memory.keep(sorted(set(names).difference(self._memory.same)), self._read_index)

    def knows(self, name: str) -> bool:
        """Return whether there is an index file of a name, be it one without a valid line."""
        return bool(self.known_index(name)) or name in self._present

    def lost(self, name: str) -> str:
        """Return the versions that a module had when its index was read, if it has none now."""
        return "" if self._memory is None else self._memory.lost(name)

    def warn_of_lost(self) -> None:
        """Warn of modules that have no index any more, unless errors have said so."""
        if self._memory is not None and self.warn is not None:
            for sentence in self._memory.unreported(self.url):
                self.warn(sentence)

    def prefetch(self, name: str, pool: Executor, arrived: Arrived = None) -> None:
        """Begin to fetch a module's index file; `index` waits for it, and raises its errors."""
        if name not in self._indexes and name not in self._ahead:
            self.files.prefetch(f"index/{name}.jsonl", pool)
            self._ahead[name] = pool.submit(self._read_index, name, arrived)

    def prefetch_blob(self, digest: str, what: str, pool: Executor) -> None:
        """Begin to fetch a record or an interface; whoever asks for it first waits for it."""
        known = self._records.keys() | self._provides.keys() | self._expects.keys()
        blob = parse_digest(digest)
        if self.folder is not None or digest in known or blob in self._blobs_ahead:
            return
        if self.cache is None or not self.cache.has(blob):
            self._blobs_ahead[blob] = pool.submit(self._fetched, blob, what, bounds.RECORD_BYTES)

    def _read_index(self, name: str, arrived: Arrived = None) -> bytes:
        if self._memory is not None and not self.offline:
            self._memory.note(name)
        path, most = f"index/{name}.jsonl", self.allowance.limit("index-bytes")
        try:
            return self.files.read(path, most, arrived)
        except RegistryError as error:
            if error.code == "M327":  # of what one command may take, one file alone takes more
                self.allowance.spend("index-bytes", most + 1, path)
            raise

    def names(self) -> list[str] | None:
        """Return the names of all modules, sorted; None if the source cannot list them."""
        if self._names is None:
            if (files := self.source.names("index")) is None:
                return None
            self._names = [file[: -len(".jsonl")] for file in files if file.endswith(".jsonl")]
        return self._names

    def modules(self, most: int = bounds.MODULES_BYTES) -> dict[str, ModuleLine] | None:
        """Return what ``modules.jsonl`` says of each module, by name; None if there is none."""
        try:
            data = self.files.read(REGISTRY_MODULES, most)
        except FileMissing:
            _ = self.info  # raises if this is not a registry
            return None
        from modpkg.registry.module_lines import check_bounds, parse_module_lines

        check_bounds(data, self.url)
        return parse_module_lines(data, f"{self.url}/{REGISTRY_MODULES}", self.warn)

    def likely_names(self) -> list[str]:
        """Return names that may be meant where one is unknown: what one request tells, or less."""
        if self.folder is None:
            with contextlib.suppress(ModpkgError):
                if (lines := self.modules(bounds.MODULES_HINT_BYTES)) is not None:
                    return sorted(lines)
        names = None if self.offline else self.names()
        return self.cached_names() if names is None else names

    def cached_names(self) -> list[str]:
        """Return the names whose index files were read from a remote registry before, sorted."""
        folder = self.files.copy("index")
        return [] if folder is None else sorted(path.stem for path in folder.glob("[!.]*.jsonl"))

    def line(self, name: str, version: str) -> IndexLine:
        """Return one release's index line.

        Raises:
            NotFound: The registry does not have it.
        """
        wanted = parse_version(version)
        for line in self.known_index(name):
            if parse_version(line.version) == wanted:
                return line
        raise self.not_found(name, version)

    def newest(self, name: str, specifier: SpecifierSet) -> IndexLine:
        """Return the index line of the newest release to use in a range; see `newest_release`.

        Raises:
            NotFound: The registry has none.
        """
        line = newest_release(self.known_index(name), specifier)
        if line is None:
            raise self.not_found(name, str(specifier) or "any")
        return line

    def not_found(self, name: str, version: str) -> NotFound:
        """Return the error for a version, or a range of versions, that the registry lacks."""
        lines = self.known_index(name)
        if not lines:
            return no_such_module(name, self)
        newest = sorted(lines, key=lambda line: parse_version(line.version))[-5:]
        hint = f"; it has {', '.join(line.version for line in newest)}"
        return NotFound("M312", name=name, version=version, registry=self.shown, hint=hint)

    def record(self, line: IndexLine) -> ReleaseRecord:
        """Return the release record that an index line names, checked against the line.

        Raises:
            IntegrityError, RecordError, NotFound: It is missing, damaged, malformed or removed.
            InstallError: The record is not in the store, and ``offline`` forbids fetching it.
        """
        check_present(line, self.shown)
        record = self.release(line.release, f"the release record of {line.name} {line.version}")
        self.check_line(line, record)
        return record

    def release(self, digest: str, what: str) -> ReleaseRecord:
        """Return the release record with this digest; ``what`` names it in errors.

        Raises:
            IntegrityError, RecordError, InstallError: As for `record`.
        """
        return self._decoded(self._records, digest, ReleaseRecord, what, what)

    def check_line(self, line: IndexLine, record: ReleaseRecord) -> None:
        """Check that an index line agrees with its release record.

        Raises:
            IntegrityError: A field differs.
        """
        for claim in SHARED_FIELDS:
            if getattr(line, claim) != getattr(record, claim):
                raise IntegrityError(
                    "M310",
                    registry=self.url,
                    name=line.name,
                    version=line.version,
                    claim=f"{claim} = {getattr(line, claim)!r}",
                    truth=f"{getattr(record, claim)!r}",
                )

    def provides(self, digest: str) -> Provides:
        """Return the interface with this digest, which a release provides."""
        return self._decoded(self._provides, digest, Provides, "an interface")

    def expects(self, digest: str) -> Expects:
        """Return the interface with this digest, which a release expects."""
        return self._decoded(self._expects, digest, Expects, "an interface")

    def _decoded(
        self, kept: dict[str, Record], digest: str, kind: type[Record], what: str, name: str = ""
    ) -> Record:
        """Return a record, ``kept`` unless it is large; ``what`` is its blob, for errors."""
        if digest in kept:
            return kept[digest]
        data = self.blob(parse_digest(digest), what, bounds.RECORD_BYTES)
        record = decode_record(data, kind, name or f"the interface {digest}")
        if len(data) <= bounds.KEPT_RECORD_BYTES:
            kept[digest] = record
        return record

    def blob(self, digest: Digest, what: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        """Return a small blob of at most ``most`` bytes, verified, and add it to the cache.

        Raises:
            IntegrityError: The blob is missing, or has another digest.
            RegistryError: The blob is larger.
            InstallError: The blob is not in the cache, and ``offline`` forbids fetching it.
        """
        if self.cache is not None and self.cache.has(digest):
            try:
                return self.cache.read(digest, what)
            except ModpkgError:
                self.cache.path(digest).unlink(missing_ok=True)  # damaged: fetch it again
        ahead = self._blobs_ahead.pop(digest, None)
        return self._fetched(digest, what, most) if ahead is None else ahead.result()

    def _fetched(self, digest: Digest, what: str, most: int) -> bytes:
        if self.offline:
            raise InstallError("M501", what=what)
        try:
            data = self.source.read(blob_path(digest), most)
        except FileMissing:
            raise missing_blob(what, digest, self) from None
        check_digest(data, digest, what, self.url)
        if self.cache is not None:
            self.cache.add(data)
        return data

    def stream(
        self, digest: Digest, what: str, start: int = 0, stop: int | None = None
    ) -> Iterator[bytes]:
        """Yield a blob, or its bytes from ``start`` to before ``stop``, without verifying them.

        Raises:
            IntegrityError: The registry does not have the blob.
            InstallError: ``offline`` forbids fetching it.
            RegistryUnreachable: The blob cannot be read.
            RangesUnsupported: `start` or `stop` is given, and the registry serves whole files only.
        """
        if self.offline:
            raise InstallError("M501", what=what)
        if not self.elsewhere.knows(digest):
            try:
                yield from self.source.stream(blob_path(digest), start, stop)
                return
            except FileMissing:
                if not self.elsewhere.find(digest, what):
                    raise missing_blob(what, digest, self) from None
        yield from self.elsewhere.stream(digest, what, start, stop)

    def address_of(self, digest: Digest) -> str:
        """Return the address that a blob is read from next: a place's, a mirror's, or its own."""
        own = self.source
        if (place := self.elsewhere.address(digest)) is not None:
            return place
        return own.current_address if isinstance(own, MirroredSource) else own.url

    def disable(self, address: str, reason: str) -> bool:
        """Stop using a mirror or a place; return False if the address is the registry's own.

        For a stream whose bytes turn out to have another digest: ``address`` is what `address_of`
        was when they came.
        """
        if isinstance(self.source, MirroredSource) and self.source.disable_mirror(address, reason):
            return True
        return self.elsewhere.disable(address, reason)

    def local_path(self, digest: Digest) -> Path | None:
        """Return the file of a blob that is read without a request; None if it is elsewhere."""
        if self.folder is None:
            return None
        path = self.folder / blob_path(digest)
        return path if path.exists() or not self.elsewhere.find(digest, "a blob") else None

    def _site(self, cache: BlobTree) -> Path:
        return cache.root / "index-cache" / site_name(self.source.url)
