"""What pages read of a registry; what never changes is read once, and kept within bounds."""

from __future__ import annotations

import heapq
import threading
import time
from operator import itemgetter
from typing import TypeVar

from msgspec import Struct

from modpkg.community.review.overlap import changed_differently
from modpkg.core import bounds
from modpkg.core.candidates import CandidateLine, ThreadEntry
from modpkg.core.digests import Digest, blob_path, digest_bytes, parse_digest
from modpkg.core.errors import ModpkgError, NotFound
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.names import parse_requirement, parse_version
from modpkg.core.records import (
    Expects,
    IndexLine,
    ModuleLine,
    Provides,
    ReleaseRecord,
    decode_record,
)
from modpkg.core.tree import check_digest
from modpkg.registry.candidates import (
    candidates_path,
    parse_candidates,
    parse_thread,
    thread_path,
)
from modpkg.registry.index import parse_index
from modpkg.registry.module_lines import check_bounds, parse_module_lines, shown_release
from modpkg.registry.reader import Registry
from modpkg.registry.select import newest_release
from modpkg.registry.signature_files import signatures_path
from modpkg.registry.source import FileMissing, FolderSource, Source
from modpkg.registry.standing import is_removed
from modpkg.release.verify import check_record
from modpkg.server.pages.differences import DrawnComparison, compare, drawn, touched
from modpkg.server.pages.kept import KeptValues
from modpkg.server.pages.readme import Readme, readme_path, render_readme
from modpkg.server.pages.release_facts import ReleaseFacts, facts_of, facts_of_removed, update_bytes
from modpkg.server.pages.search import SearchedModules
from modpkg.server.pages.tensor_groups import TensorTable, table_of
from modpkg.trust.signatures import signers_of

Interface = TypeVar("Interface", Provides, Expects)

_KEPT_BYTES = 64 << 20
"""Of index files and records that are kept decoded, as they are on disk."""
_SECONDS = 5
"""For how long an index file of an object store is not asked for again."""
_README_BYTES = 1 << 20
_NEW_INDEXES = 64
"""Index files that one page reads to bring up to date which modules need which."""


class ModuleReleases(Struct, frozen=True):
    """The releases of one module, as its index file has them."""

    name: str
    lines: tuple[IndexLine, ...]
    """Newest first."""
    newest: IndexLine
    """The one that describes the module: a yanked one only where all were."""

    def find(self, version: str) -> IndexLine:
        """Return a release's line.

        Raises:
            InvalidValue: ``version`` is not a version.
            NotFound: There is no such release.
        """
        wanted = parse_version(version)
        for line in self.lines:
            if parse_version(line.version) == wanted:
                return line
        raise no_page(f"{self.name} {version}")

    def before(self, line: IndexLine) -> IndexLine | None:
        """Return the release before one, by version; None for the first."""
        at = self.lines.index(line)
        earlier = self.lines[at + 1 :] if not is_removed(line) else ()
        return next((each for each in earlier if each.yanked is None), None)


class Catalogue:
    """One registry as its pages show it.

    Index files and ``modules.jsonl`` are read for each page, and parsed only when they are other
    bytes than before. Records and what is worked out from them are kept by digest.
    """

    def __init__(self, source: Source, behind: Catalogue | None = None) -> None:
        """``behind`` has the modules and blobs that this one lacks: a public one, of a private."""
        self.source = source
        self.behind = behind
        self._indexes: KeptValues[Digest, ModuleReleases | None] = KeptValues(_KEPT_BYTES)
        self._records: KeptValues[str, tuple[ReleaseRecord, int]] = KeptValues(_KEPT_BYTES)
        self._interfaces: KeptValues[str, tuple[Provides | Expects, int]] = KeptValues(_KEPT_BYTES)
        self._facts: KeptValues[str, ReleaseFacts] = KeptValues(4096)
        self._readmes: KeptValues[str, Readme | None] = KeptValues(256)
        self._tables: KeptValues[str, TensorTable] = KeptValues(500_000)
        self._updates: KeptValues[tuple[str, str], int] = KeptValues(8192)
        self._compared: KeptValues[tuple[str, str], DrawnComparison] = KeptValues(512)
        self._candidates: KeptValues[Digest, list[CandidateLine]] = KeptValues(_KEPT_BYTES // 4)
        self._threads: KeptValues[Digest, list[ThreadEntry]] = KeptValues(_KEPT_BYTES // 4)
        self._overlaps: KeptValues[tuple[str, str, str], list[str]] = KeptValues(200_000)
        self._signers: KeptValues[Digest, tuple[str, ...]] = KeptValues(4096)
        self._listings: KeptValues[tuple[str, int], bytes | None] = KeptValues(_KEPT_BYTES)
        self._modules: tuple[Digest, SearchedModules] | None = None
        self._needs: dict[str, tuple[str, frozenset[str]]] = {}
        self._needed: dict[str, set[str]] = {}
        self._counting = threading.Lock()

    @property
    def lag(self) -> float:
        """For how many seconds what is listed may be old."""
        return 0 if isinstance(self.source, FolderSource) else _SECONDS

    def releases(self, name: str) -> ModuleReleases:
        """Return the releases of a module.

        Raises:
            NotFound: There is no such module.
        """
        found = self.releases_or_none(name)
        if found is None:
            raise no_page(name)
        return found

    def releases_or_none(self, name: str) -> ModuleReleases | None:
        """Return the releases of a module; None if there is no such one."""
        data = self._listing(f"index/{name}.jsonl", bounds.INDEX_BYTES)
        if data is None:
            return None if self.behind is None else self.behind.releases_or_none(name)
        return self._indexes.get(
            digest_bytes(name.encode() + b"\n" + data),
            lambda: _releases(name, data, self.source.url),
            lambda _: len(data),
        )

    def record(self, line: IndexLine) -> ReleaseRecord:
        """Return the record of a release, verified by its digest."""
        what = f"release record of {line.name} {line.version}"

        def make() -> tuple[ReleaseRecord, int]:
            data = self._blob(line.release, what, bounds.RECORD_BYTES)
            record = decode_record(data, ReleaseRecord, what)
            check_record(record)
            return record, len(data)

        return self._records.get(line.release, make, itemgetter(1))[0]

    def facts(self, line: IndexLine) -> ReleaseFacts:
        """Return what pages say of a release, without its tensors."""
        if is_removed(line):
            return facts_of_removed(line)
        return self._facts.get(line.release, lambda: facts_of(self.record(line)))

    def table(self, line: IndexLine) -> TensorTable:
        """Return the tensors of a release by layer."""
        return self._tables.get(
            line.release, lambda: table_of(self.record(line).tensors), lambda made: made.rows + 1
        )

    def update(self, before: IndexLine, after: IndexLine) -> int:
        """Return how many bytes an update from one release to another fetches."""
        return self._updates.get(
            (before.release, after.release),
            lambda: update_bytes(self.record(before), self.record(after)),
        )

    def compared(self, before: IndexLine, after: IndexLine) -> DrawnComparison:
        """Return how the tensors of two releases differ."""
        return self._compared.get(
            (before.release, after.release),
            lambda: drawn(compare(self.record(before).tensors, self.record(after).tensors)),
        )

    def touched(self, base: IndexLine, line: IndexLine) -> DrawnComparison | None:
        """Return what a module acts on, of a release of its base; None if that is none of it."""
        expected = line.expects.get(base.name)
        if base.provides is None or expected is None:
            return None
        provides, expects = self.provides(base.provides), self.expects(expected)
        return self._compared.get(
            (base.provides, expected), lambda: drawn(touched(provides, expects), "acted on")
        )

    def provides(self, digest: str) -> Provides:
        """Return the interface that a release provides."""
        return self._interface(digest, Provides)

    def expects(self, digest: str) -> Expects:
        """Return the interface that a release expects."""
        return self._interface(digest, Expects)

    def readme(self, line: IndexLine) -> Readme | None:
        """Return a release's README; None if it has none that can be shown."""
        if is_removed(line):
            return None

        def make() -> Readme | None:
            record = self.record(line)
            path = readme_path(record)
            if path is None or record.files[path].size > _README_BYTES:
                return None
            data = self._blob(record.files[path].digest, path, _README_BYTES)
            own = f"/modules/{line.name}/{line.version}"
            return render_readme(data.decode("utf-8", "replace"), own, record.files.keys())

        return self._readmes.get(line.release, make)

    def signers(self, line: IndexLine) -> tuple[str, ...]:
        """Return the keys whose valid signatures a release has."""
        if line.signed is not True:
            return ()
        path = signatures_path(parse_digest(line.release))
        try:
            data = self.source.read(path, bounds.SIGNATURES_BYTES)
        except FileMissing:
            return ()

        def make() -> tuple[str, ...]:
            registry = Registry(self.source.url, source=self.source)
            return tuple(map(str, signers_of(registry, line).found))

        key = digest_bytes(f"{line.name} {line.version} {line.release}\n".encode() + data)
        return self._signers.get(key, make)

    def file(self, line: IndexLine, path: str, most: int) -> bytes:
        """Return a file of a release, verified.

        Raises:
            NotFound: The release has no such file, or a larger one.
        """
        entry = self.record(line).files.get(path)
        if entry is None or entry.size > most:
            raise no_page(path)
        return self._blob(entry.digest, path, most)

    def candidates(self, name: str) -> list[CandidateLine]:
        """Return the candidates of a module, by number."""
        try:
            data = self.source.read(candidates_path(name), bounds.CANDIDATES_BYTES)
        except FileMissing:
            return []
        return self._candidates.get(
            digest_bytes(name.encode() + b"\n" + data),
            lambda: parse_candidates(data, name, self.source.url).lines,
            lambda _: len(data),
        )

    def thread(self, name: str, number: int) -> list[ThreadEntry]:
        """Return what was said about a candidate, the first first."""
        try:
            data = self.source.read(thread_path(name, number), bounds.THREAD_BYTES)
        except FileMissing:
            return []
        return self._threads.get(
            digest_bytes(data),
            lambda: parse_thread(data, name, number, self.source.url).entries,
            lambda _: len(data),
        )

    def overlap(self, base: IndexLine, one: IndexLine, other: IndexLine) -> list[str]:
        """Return the tensors of a base that two releases both change, to different values."""
        return self._overlaps.get(
            (base.release, one.release, other.release),
            lambda: changed_differently(
                *(self.record(line).tensors for line in (base, one, other))
            ),
            lambda names: len(names) + 1,
        )

    def modules(self) -> SearchedModules:
        """Return all modules, as ``modules.jsonl`` describes them."""
        data = self._listing(REGISTRY_MODULES, bounds.MODULES_BYTES)
        if data is None:
            return SearchedModules({})
        digest = digest_bytes(data)
        known = self._modules
        if known is None or known[0] != digest:
            check_bounds(data, self.source.url)
            known = digest, SearchedModules(parse_module_lines(data, self.source.url))
            self._modules = known
        return known[1]

    def needed_by(self, name: str) -> tuple[list[str], bool]:
        """Return which modules require one in their newest release, and whether that is all.

        A registry that was not looked through yet is looked through bit by bit.
        """
        if self.behind is not None:
            return [], True  # whoever sees one private module may not see the others
        lines = self.modules().lines
        with self._counting:
            left = self._count(lines)
            return sorted(self._needed.get(name, ())), not left

    def most_needed(self, least: int, most: int) -> list[str]:
        """Return the modules that at least so many others require, the most needed first.

        As far as the registry was looked through; see `needed_by`.
        """
        lines = self.modules().lines
        with self._counting:
            self._count(lines)
            counts = {name: len(by) for name, by in self._needed.items() if name in lines}
        found = [(-count, name) for name, count in counts.items() if count >= least]
        return [name for _, name in heapq.nsmallest(most, found)]

    def _count(self, lines: dict[str, ModuleLine]) -> bool:
        """Note what modules need that changed; return whether some are left for the next time."""
        for gone in self._needs.keys() - lines.keys():
            self._note(gone, "", frozenset())
            del self._needs[gone]
        stale, unsure = [], []
        for name, line in lines.items():
            seen = self._needs.get(name)
            if seen is None or line.index not in (None, seen[0]):
                stale.append(name)
            elif line.index is None:  # somebody is changing it, or has left it to be looked at
                unsure.append(name)
        for name in [*stale, *unsure][:_NEW_INDEXES]:
            try:
                found = self.releases_or_none(name)
            except ModpkgError:
                found = None
            needs = frozenset[str]() if found is None else _required(found.newest)
            self._note(name, lines[name].index or "", needs)
        return len(stale) > _NEW_INDEXES

    def _note(self, name: str, index: str, needs: frozenset[str]) -> None:
        before = self._needs.get(name, ("", frozenset[str]()))[1]
        for one in before - needs:
            self._needed[one].discard(name)
        for one in needs - before:
            self._needed.setdefault(one, set()).add(name)
        self._needs[name] = index, needs

    def _listing(self, path: str, most: int) -> bytes | None:
        """Return an index file or the list of modules; None if there is none.

        A page may need dozens of them: one of an object store may be some seconds old.
        """

        def read() -> bytes | None:
            try:
                return self.source.read(path, most)
            except FileMissing:
                return None

        if not self.lag:
            return read()
        slot = int(time.monotonic() / _SECONDS)
        return self._listings.get((path, slot), read, lambda data: 100 + len(data or b""))

    def _interface(self, digest: str, kind: type[Interface]) -> Interface:
        what = f"interface {digest}"

        def make() -> tuple[Provides | Expects, int]:
            data = self._blob(digest, what, bounds.RECORD_BYTES)
            return decode_record(data, kind, what), len(data)

        found = self._interfaces.get(digest, make, itemgetter(1))[0]
        if not isinstance(found, kind):
            raise no_page(what)
        return found

    def _blob(self, digest: str, what: str, most: int) -> bytes:
        parsed = parse_digest(digest)
        try:
            data = self.source.read(blob_path(parsed), most)
        except FileMissing:
            if self.behind is not None:
                return self.behind._blob(digest, what, most)
            raise no_page(what) from None
        check_digest(data, parsed, what, self.source.url)
        return data


def required_line(releases: ModuleReleases, requirement: str) -> IndexLine | None:
    """Return the newest release that a requirement allows; None if there is none."""
    return newest_release(releases.lines, parse_requirement(requirement).specifier, or_yanked=True)


def _releases(name: str, data: bytes, source: str) -> ModuleReleases | None:
    lines = parse_index(data, name, source)
    if not lines:
        return None
    lines.sort(key=lambda line: parse_version(line.version), reverse=True)
    newest = shown_release(reversed(lines))
    return None if newest is None else ModuleReleases(name, tuple(lines), newest)


def _required(line: IndexLine) -> frozenset[str]:
    if is_removed(line):
        return frozenset()
    texts = [*line.requires, *(text for extra in line.extras.values() for text in extra)]
    return frozenset(parse_requirement(text).name for text in texts)


def no_page(what: str) -> NotFound:
    """Return the error for what a registry does not have."""
    return NotFound("M495", what=what)
