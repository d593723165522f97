"""The read side of a registry: index, release records and interfaces, all verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modpkg.digests import Digest, blob_path, parse_digest
from modpkg.errors import (
    BlobMissing,
    IndexLies,
    ModpkgError,
    NoSuchRelease,
    Offline,
    RegistryMissing,
    RegistryNewer,
)
from modpkg.files import write_atomically
from modpkg.names import parse_version
from modpkg.records import (
    SPEC,
    Expects,
    IndexLine,
    Provides,
    RegistryInfo,
    ReleaseRecord,
    decode_record,
)
from modpkg.registry.index import parse_index
from modpkg.registry.source import FolderSource, NotThere, Source, open_source
from modpkg.tree import BlobTree, check_digest

_CLAIMS = (
    "name",
    "version",
    "kind",
    "requires",
    "extras",
    "provides",
    "expects",
    "requires_modpkg",
)
"""What an index line and its release record both say."""

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future


class Registry:
    """One registry as it can be read from one address.

    Index files are read once per instance. Records and interfaces are immutable and are kept in
    ``cache`` (the store); index files of a distant registry are kept beside it for ``offline``.
    """

    def __init__(
        self,
        url: str,
        *,
        base: Path | None = None,
        cache: BlobTree | None = None,
        offline: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.source: Source = open_source(url, base)
        self.cache = cache
        self.warn = warn
        self.offline = offline and not isinstance(self.source, FolderSource)
        self._info: RegistryInfo | None = None
        self._indexes: dict[str, list[IndexLine]] = {}
        self._ahead: dict[str, Future[bytes]] = {}
        self._provides: dict[str, Provides] = {}
        self._expects: dict[str, Expects] = {}

    @property
    def url(self) -> str:
        return self.source.url

    @property
    def folder(self) -> Path | None:
        """The registry's folder, when it is one on this machine."""
        return self.source.root if isinstance(self.source, FolderSource) else None

    @property
    def info(self) -> RegistryInfo:
        """What the registry says of itself.

        Raises:
            RegistryMissing, RegistryUnreachable, RegistryNewer, BadRecord.
        """
        if self._info is None:
            try:
                data = self._read_mutable("registry.json")
            except NotThere:
                raise RegistryMissing(url=self.url, reason="no such file") from None
            info = decode_record(data, RegistryInfo, f"{self.url}/registry.json")
            if info.spec > SPEC:
                raise RegistryNewer(url=self.url, spec=info.spec, known=SPEC)
            self._info = info
        return self._info

    @property
    def name(self) -> str:
        return self.info.name

    def index(self, name: str) -> list[IndexLine]:
        """Return the releases of a module, in the index's order; empty when it has none."""
        if name not in self._indexes:
            try:
                ahead = self._ahead.pop(name, None)
                data = self._read_index(name) if ahead is None else ahead.result()
            except NotThere:
                data = b""
            lines = parse_index(data, name, self.url, self.warn)
            if not lines:
                _ = self.info  # tells a registry without this name from no registry at all
            self._indexes[name] = lines
        return self._indexes[name]

    def fetch_ahead(self, name: str, pool: Executor) -> None:
        """Begin to fetch a module's index file; `index` waits for it, and tells what went wrong."""
        if name not in self._indexes and name not in self._ahead:
            self._ahead[name] = pool.submit(self._read_index, name)

    def _read_index(self, name: str) -> bytes:
        return self._read_mutable(f"index/{name}.jsonl")

    def names(self) -> list[str] | None:
        """Return the names of all modules, sorted; None where the source cannot list."""
        found = self.source.names("index")
        if found is None:
            return None
        return [name[: -len(".jsonl")] for name in found if name.endswith(".jsonl")]

    def remembered(self) -> list[str]:
        """Return the names whose index files were read from a distant registry before, sorted."""
        kept = self._kept("index")
        return [] if kept is None else sorted(path.stem for path in kept.glob("[!.]*.jsonl"))

    def line(self, name: str, version: str) -> IndexLine:
        """Return one release's index line.

        Raises:
            NoSuchRelease: the registry does not have it.
        """
        wanted = parse_version(version)
        for line in self.index(name):
            if parse_version(line.version) == wanted:
                return line
        versions = ", ".join(line.version for line in self.index(name)[-5:])
        raise NoSuchRelease(
            name=name,
            version=version,
            registry=self.url,
            hint=f" (it has {versions})" * bool(versions),
        )

    def record(self, line: IndexLine) -> ReleaseRecord:
        """Return the release record that an index line names, checked against the line.

        Raises:
            DigestMismatch, BlobMissing, BadRecord, IndexLies.
        """
        what = f"the release record of {line.name} {line.version}"
        record = decode_record(self.blob(parse_digest(line.release), what), ReleaseRecord, what)
        for claim in _CLAIMS:
            if getattr(line, claim) != getattr(record, claim):
                raise IndexLies(
                    registry=self.url,
                    name=line.name,
                    version=line.version,
                    claim=f"{claim} = {getattr(line, claim)!r}",
                    truth=f"{getattr(record, claim)!r}",
                )
        return record

    def provides(self, digest: str) -> Provides:
        """Return an interface that a release provides."""
        if digest not in self._provides:
            data = self.blob(parse_digest(digest), "an interface")
            self._provides[digest] = decode_record(data, Provides, f"the interface {digest}")
        return self._provides[digest]

    def expects(self, digest: str) -> Expects:
        """Return an interface that a release expects."""
        if digest not in self._expects:
            data = self.blob(parse_digest(digest), "an interface")
            self._expects[digest] = decode_record(data, Expects, f"the interface {digest}")
        return self._expects[digest]

    def blob(self, digest: Digest, what: str) -> bytes:
        """Return a small blob, verified; kept in the cache.

        Raises:
            DigestMismatch, BlobMissing, Offline.
        """
        if self.cache is not None and self.cache.has(digest):
            try:
                return self.cache.read(digest, what)
            except ModpkgError:
                self.cache.path(digest).unlink(missing_ok=True)  # damaged here: fetch it again
        if self.offline:
            raise Offline(what=what)
        try:
            data = self.source.read(blob_path(digest))
        except NotThere:
            raise BlobMissing(what=what, digest=digest, source=self.url) from None
        check_digest(data, digest, what, self.url)
        if self.cache is not None:
            self.cache.add(data)
        return data

    def stream(self, digest: Digest, what: str) -> Iterator[bytes]:
        """Yield a blob of any size, not yet verified.

        Raises:
            BlobMissing, Offline, RegistryUnreachable.
        """
        if self.offline:
            raise Offline(what=what)
        try:
            yield from self.source.stream(blob_path(digest))
        except NotThere:
            raise BlobMissing(what=what, digest=digest, source=self.url) from None

    def _kept(self, path: str) -> Path | None:
        """Return where a distant registry's file that may change is remembered."""
        if isinstance(self.source, FolderSource) or self.cache is None:
            return None
        from hashlib import sha256

        site = sha256(self.url.encode()).hexdigest()[:16]
        return self.cache.root / "index-cache" / site / path

    def _read_mutable(self, path: str) -> bytes:
        """Return a file that may change; a distant one is remembered for work offline."""
        kept = self._kept(path)
        if kept is None:
            return self.source.read(path)
        if self.offline:
            try:
                return kept.read_bytes()
            except FileNotFoundError:
                raise Offline(what=f"{self.url}/{path}") from None
        data = self.source.read(path)
        if not kept.exists() or kept.read_bytes() != data:
            write_atomically(kept, data)
        return data
