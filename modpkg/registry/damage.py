"""Damage in a registry: every file that a release names is read, and hashed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.candidates import CandidateLine
from modpkg.core.digests import Digest, blob_path, digest_bytes, parse_digest
from modpkg.core.errors import IntegrityError, ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine, ReleaseRecord, decode_record
from modpkg.registry.candidates import (
    CANDIDATES,
    candidate_names,
    candidates_path,
    read_candidates,
)
from modpkg.registry.module_lines import malformed_lines, parse_module_lines
from modpkg.registry.place import CopiedBlob, Place, RegistryChange, bounded_stream
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.source import FileMissing
from modpkg.registry.standing import without_removed
from modpkg.registry.upkeep import AT_ONCE, fetch_indexes
from modpkg.registry.writer import RegistryWriter
from modpkg.release.verify import check_record


class Damage(Struct, frozen=True, kw_only=True):
    """One file of a registry that is missing or damaged."""

    path: str
    """In the registry."""
    releases: list[str]
    """What needs it, as ``NAME VERSION``; only names for an index file."""
    code: str
    """Of the error that using it ends with."""
    reason: str
    size: int | None = None
    """Bytes that it should have, where a record tells."""
    mended_from: list[str] = []
    """Addresses of registries, mirrors or the store that have it undamaged."""


class Verified(Struct, frozen=True):
    """What was verified of a registry."""

    releases: int
    files: int
    bytes: int
    damaged: list[Damage]


class _Named(Struct):
    """A blob that releases name."""

    what: str
    size: int | None
    releases: list[str]


class Verification:
    """Reads what a registry has, and collects what is wrong with it.

    Args:
        registry: The registry, opened without copies and mirrors (`open_alone`).
        progress: Shows the bytes that were verified.

    Attributes:
        listed: Whether it has ``modules.jsonl``, which may be missing.
    """

    def __init__(self, registry: Registry, progress: Progress) -> None:
        self._registry = registry
        self._progress = progress
        self._damaged: list[Damage] = []
        self._blobs: dict[Digest, _Named] = {}
        self._unread: dict[str, IndexLine] = {}
        self._records = self._bytes = 0
        self.listed = True
        registry.warn = self._skipped

    def run(self, names: Sequence[str], sample: int | None = None) -> Verified:
        """Verify modules, or so many of their releases.

        Raises:
            RegistryUnreachable: A file cannot be read now.
        """
        self._progress.stage("Reading")
        fetch_indexes(self._registry, names)
        lines = [line for name in names for line in self._lines(name)]
        has_releases = bool(lines)
        lines = without_removed(lines)
        if sample is not None and sample < len(lines):
            lines = random.sample(lines, sample)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for line in lines:
                self._registry.prefetch_blob(line.release, _record_of(line), pool)
        for line in lines:
            self._record(line)
        if sample is None:
            for one in self._open_candidates(names):
                self._record(one.line, one)
        self._list(names, has_releases)
        return self._verified(len(lines), self._blobs)

    def go_on(self, paths: Iterable[str]) -> Verified:
        """Verify those of the files at these paths that are records, and what only they name.

        They could not be read before, and were mended since. What was reported before is not
        reported again.

        Raises:
            RegistryUnreachable: A file cannot be read now.
        """
        self._damaged, self._records, self._bytes = [], 0, 0
        before = {*self._blobs}
        for path in paths:
            if line := self._unread.pop(path, None):
                self._record(line)
        new = {digest: blob for digest, blob in self._blobs.items() if digest not in before}
        return self._verified(0, new)

    def _verified(self, releases: int, blobs: Mapping[Digest, _Named]) -> Verified:
        """Verify blobs, and return that, with the records that were read."""
        total = sum(blob.size or 0 for blob in blobs.values())
        self._progress.stage("Verifying")
        self._progress.total(total)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            order = sorted(blobs.items(), key=lambda item: -(item[1].size or 0))
            sizes = list(pool.map(lambda item: self._blob(*item), order))
        damaged = sorted(self._damaged, key=lambda damage: (damage.releases, damage.path))
        files, size = self._records + len(blobs), self._bytes + sum(sizes)
        return Verified(releases, files, size, damaged)

    def _lines(self, name: str) -> list[IndexLine]:
        try:
            lines = self._registry.index(name)
        except RegistryUnreachable:
            raise
        except ModpkgError as error:
            self._add(_index(name), [name], error)
            return []
        if not lines and not self._registry.knows(name):
            self._damaged.append(
                Damage(
                    path=_index(name), releases=[name], code="M304", reason="the file is missing"
                )
            )
        return lines

    def _open_candidates(self, names: Sequence[str]) -> list[CandidateLine]:
        """Return the open candidates of modules; with all modules, those of new ones too."""
        listed = self._registry.source.names(CANDIDATES)
        new = [] if listed is None else candidate_names(listed)
        if not {*(self._registry.names() or new)} <= {*names}:
            new = []
        found = []
        for name in dict.fromkeys((*names, *new)):
            try:
                lines = read_candidates(self._registry, name)
            except RegistryUnreachable:
                raise
            except ModpkgError as error:
                self._add(candidates_path(name), [name], error)
                continue
            found += [one for one in lines if one.status == "open"]
        return found

    def _skipped(self, sentence: str) -> None:
        """Note lines that cannot be read: the reader warns of them."""
        folder = next((part for part in ("index", CANDIDATES) if f"/{part}/" in sentence), None)
        if folder is None:
            return  # of the list of modules, which is checked by itself
        path = f"{folder}/" + sentence.partition(f"/{folder}/")[2].partition(":")[0]
        name = path.removeprefix(f"{folder}/").removesuffix(".jsonl")
        self._damaged.append(Damage(path=path, releases=[name], code="M209", reason=sentence))

    def _record(self, line: IndexLine, candidate: CandidateLine | None = None) -> None:
        """Check the record of a release or candidate, and note the blobs that it names."""
        label, path = f"{line.name} {line.version}", _index(line.name)
        if candidate is not None:
            label, path = candidate.label, candidates_path(line.name)
        digest = parse_digest(line.release)
        what = _record_of(line)
        try:
            data = self._registry.blob(digest, what, bounds.RECORD_BYTES)
            record = decode_record(data, ReleaseRecord, what)
            check_record(record)
            try:
                self._registry.check_line(line, record)
            except IntegrityError as error:
                self._add(path, [label], error)
        except RegistryUnreachable:
            raise
        except ModpkgError as error:
            self._add(blob_path(digest), [label], error)
            self._unread[blob_path(digest)] = line
            return
        self._records += 1
        self._bytes += len(data)
        sizes = record.packs | {entry.digest: entry.size for entry in record.files.values()}
        for blob, what in blobs_of(record):
            named = self._blobs.setdefault(blob, _Named(what, sizes.get(blob), []))
            named.releases.append(label)

    def _blob(self, digest: Digest, named: _Named) -> int:
        """Verify a blob, and return its bytes."""
        try:
            return _hashed(self._registry, digest, named.what, named.size, self._progress.advance)
        except RegistryUnreachable:
            raise
        except ModpkgError as error:
            self._add(blob_path(digest), named.releases, error, named.size)
            return 0

    def _list(self, names: Iterable[str], has_releases: bool) -> None:
        """Check ``modules.jsonl``, also its digests, which make readers use their copies."""
        source = self._registry.source
        try:
            data = source.read(REGISTRY_MODULES, bounds.MODULES_BYTES)
        except FileMissing:
            self.listed = False
            return  # it may be missing
        malformed = malformed_lines(data)
        if malformed or (has_releases and not data.strip()):
            lines_are = "1 line is" if malformed == 1 else f"{malformed or 'its'} lines are"
            reason = f"{lines_are} {'malformed' if malformed else 'missing'}"
            self._damaged.append(
                Damage(path=REGISTRY_MODULES, releases=[], code="M209", reason=reason)
            )
            return
        lines = parse_module_lines(data, REGISTRY_MODULES)
        listed = {_index(name): lines[name].index for name in names if name in lines}
        listed[REGISTRY_INFO] = next((line.registry for line in lines.values()), None)
        wrong = [path for path, digest in listed.items() if digest not in (None, self._read(path))]
        if wrong:
            # A publisher may have been at work; then the list is another by now.
            again = source.read(REGISTRY_MODULES, bounds.MODULES_BYTES)
            if again == data:
                reason = f"it has another digest of {wrong[0]} than that file has"
                self._damaged.append(
                    Damage(path=REGISTRY_MODULES, releases=[], code="M305", reason=reason)
                )

    def _read(self, path: str) -> str | None:
        try:
            return digest_bytes(self._registry.source.read(path, bounds.INDEX_BYTES))
        except FileMissing:
            return ""

    def _add(
        self, path: str, releases: list[str], error: ModpkgError, size: int | None = None
    ) -> None:
        reason = str(error)
        if error.code == "M305":
            reason = f"its bytes have the digest {error.values['actual']}"
        elif error.code == "M306":
            reason = "it is missing"
        damage = Damage(path=path, releases=releases, code=error.code, reason=reason, size=size)
        self._damaged.append(damage)


def _index(name: str) -> str:
    return f"index/{name}.jsonl"


def _record_of(line: IndexLine) -> str:
    return f"the release record of {line.name} {line.version}"


def _hashed(
    registry: Registry,
    digest: Digest,
    what: str,
    size: int | None,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Read a blob of a registry, verify it, and return its bytes.

    Raises:
        IntegrityError, RegistryError: It is missing or damaged, or has more bytes.
        RegistryUnreachable: It cannot be read.
    """
    state, count = hashlib.sha256(), 0
    for chunk in bounded_stream(registry, digest, what, size):
        state.update(chunk)
        count += len(chunk)
        advance(len(chunk))
    actual = f"sha256:{state.hexdigest()}"
    if actual != digest:
        raise IntegrityError("M305", what=what, expected=digest, actual=actual, source=registry.url)
    return count


def blob_of(damage: Damage) -> Digest | None:
    """Return the digest that a damaged file should have; None if it is not a blob."""
    folder, _, last = damage.path.rpartition("/")
    return Digest(f"sha256:{last}") if folder.startswith("blobs/") else None


def healthy(damage: Damage, others: Iterable[Registry]) -> list[Registry]:
    """Return those of other registries that have a damaged blob undamaged."""
    digest = blob_of(damage)
    return [one for one in others if digest is not None and _has(one, digest, damage.size)]


def _has(registry: Registry, digest: Digest, size: int | None) -> bool:
    try:
        _hashed(registry, digest, "a file", size)
    except ModpkgError:
        return False
    return True


def mend(place: Place, damage: Damage, source: Registry | None) -> None:
    """Put an undamaged file in the place of a damaged one: a blob, or the list of modules.

    Raises:
        ModpkgError: It cannot be read any more, or nothing can be written.
    """
    if damage.path == REGISTRY_MODULES:
        RegistryWriter(place).describe_all()
        return
    digest = blob_of(damage)
    if digest is None or source is None:
        raise RegistryError("M871", path=damage.path, url=place.url)
    if place.size(damage.path) is not None:
        place.remove(damage.path)

    def edit(change: RegistryChange) -> None:
        change.add([CopiedBlob(digest, damage.path, source, damage.size)])

    place.change(edit)


class Mending(Struct, frozen=True):
    """What was verified of a registry, and what of it was mended."""

    verified: Verified
    """Each damage has where the file is undamaged."""
    left: list[Damage]
    """What of it is damaged still."""


def mend_all(
    verification: Verification,
    verified: Verified,
    others: Sequence[Registry],
    place: Callable[[], Place] | None,
    report: Callable[[str], None],
) -> Mending:
    """Find where damaged files are undamaged, and mend them if there is a place to write to.

    What a record names is verified, and mended, after the record was.

    Args:
        verification: What has found the damage.
        verified: What it has found.
        others: Where files may be undamaged.
        place: Opens the registry for writing; None if nothing is to be mended.
        report: Called with the path of each file that was mended.

    Raises:
        ModpkgError: A file cannot be read any more, or nothing can be written.
    """
    damaged, tried, mended, found = list[Damage](), set[str](), set[str](), verified
    while found.damaged:
        now = set[str]()
        # The list of modules comes last: it is written by what the others say.
        for damage in sorted(found.damaged, key=lambda one: one.path == REGISTRY_MODULES):
            sources = healthy(damage, others)
            damaged.append(replace(damage, mended_from=[one.url for one in sources]))
            can_be = bool(sources) or damage.path == REGISTRY_MODULES
            if place is not None and can_be and damage.path not in tried:
                mend(place(), damage, sources[0] if sources else None)
                now.add(damage.path)
                report(damage.path)
        if not now:
            break
        tried |= now
        found = verification.go_on(sorted(now))
        again = tried & {damage.path for damage in found.damaged}  # what replaced it is no better
        damaged = [damage for damage in damaged if damage.path not in again]
        mended = (mended | now) - again
        verified = replace(
            verified, files=verified.files + found.files, bytes=verified.bytes + found.bytes
        )
    left = [damage for damage in damaged if damage.path not in mended]
    return Mending(replace(verified, damaged=damaged), left)


def without_others(damage: Damage) -> str:
    """Return what to do about a damaged file that nothing that is known has undamaged."""
    if damage.code in ("M877", "M879"):  # nothing of it lies in the registry
        return "whoever has the project runs 'modpkg publish --upload'"
    if damage.code == "M562":  # whoever has read it knows a later state, which no time brings back
        return (
            "where it is right, after a restored back-up, sign it with another key: "
            "modpkg registry trust rotate STORAGE --root-key KEY --online-key ANOTHER"
        )
    if damage.code.startswith("M56"):  # it is not what is signed
        return (
            "restore it, or look at it and sign it as it is: "
            "modpkg registry trust sign STORAGE --online-key KEY"
        )
    first = "" if damage.code == "M306" else "remove that file, and "
    return f"{first}publish the release again"
