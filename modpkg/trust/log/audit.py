"""Auditing a registry: all of its log and its index are read, and each difference is named.

So is each release for which the registry does not say where in the log it is, or says it wrongly.

The index is read first, and the log after it, so that a release which is published meanwhile is in
the log. What differs is read once more: an entry is there a moment before its index line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import islice

from msgspec import UNSET, Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.core.errors import InvalidValue, TrustError
from modpkg.core.names import module_name, parse_version
from modpkg.core.progress import Progress
from modpkg.core.records import SPEC, IndexLine, LogInfo
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import asked_at_once
from modpkg.registry.upkeep import all_names, fetch_indexes
from modpkg.trust.log.checking import (
    CHECKPOINT,
    check_history,
    earlier_states,
    known_log,
    read_checkpoint,
    read_logged,
    read_tile,
)
from modpkg.trust.log.difference import LogDifference, VoidRelease
from modpkg.trust.log.entries import (
    LogEntry,
    LoggedStanding,
    logged_path,
    logged_standing,
    parse_entry,
    parse_logged,
    private_name,
)
from modpkg.trust.log.first_day import other_date
from modpkg.trust.log.log_checkpoint import LogCheckpoint
from modpkg.trust.log.logged_successions import (
    LoggedSuccessions,
    read_successions,
    signed_names,
)
from modpkg.trust.log.memory import LogMemory, LogState
from modpkg.trust.log.merkle import GrowingTree, leaf_hash
from modpkg.trust.log.tiles import (
    TILE_WIDTH,
    Tile,
    entries_in,
    entry_bundles,
    hashes_in,
    perfect_hash,
)

_BUNDLES_AT_ONCE = 64
_RELEASES_AT_ONCE = 512
Indexes = Mapping[str, list[IndexLine]]


class LogAudit(Struct, frozen=True, kw_only=True):
    """What an audit has found."""

    registry: str
    origin: str
    """What the log calls itself."""
    key: str
    entries: int
    root: str
    """The root of the tree of all entries, in hex."""
    modules: int
    releases: int
    """In the index."""
    private: int
    """Releases of private modules in the log, of which the index says nothing."""
    void: list[VoidRelease]
    """Those that count no more, and statements on successors; who runs the registry has said so.
    A release is a difference if the project's lock has it, or its version is another one since."""
    differences: list[LogDifference]


_NO_ENTRY = LogEntry(spec=SPEC, action="publish", at="")


class _Release(Struct):
    """A release as the log has it."""

    release: str
    entry: int
    leaves: dict[int, bytes]
    """The hashes of the entries that say that it was published, by their numbers."""
    logged: list[str]
    """When each of them was logged."""
    standing: LoggedStanding = LoggedStanding()


class _Log:
    """What the entries of a log say, one after the other."""

    def __init__(self) -> None:
        self.releases: dict[str, dict[str, _Release]] = {}
        """By name and normal version."""
        self.private: dict[str, dict[str, dict[int, bytes]]] = {}
        """By what stands for a name, the releases of a private module, each with its entries."""
        self.successions = LoggedSuccessions()
        self.void: list[VoidRelease] = []
        self._first_void: dict[tuple[str, str], VoidRelease] = {}
        """By name and normal version."""
        self.differences: list[LogDifference] = []
        self.began: str | None = None
        """When the first entry was logged."""

    def add(self, number: int, data: bytes, leaf: bytes) -> None:
        """Take an entry in, whose hash is ``leaf``; what is wrong with it is a difference."""
        entry = _NO_ENTRY
        try:
            entry = parse_entry(data)
            self.began = self.began or entry.at
            self._add(number, entry, leaf)
        except (ValueError, InvalidValue) as error:
            about = f" ({entry.action} {entry.name} {entry.version})" if entry.name else ""
            self.differences.append(
                LogDifference(
                    kind="entry",
                    message=f"Entry {number}{about} counts for nothing: {str(error).rstrip('.')}.",
                    name=entry.name,
                    version=entry.version,
                    entry=number,
                )
            )

    def _add(self, number: int, entry: LogEntry, leaf: bytes) -> None:
        """Take an entry in.

        Raises:
            ValueError, InvalidValue: It says nothing that can be so.
        """
        if entry.action == "transfer":
            return
        if entry.private is UNSET and module_name(entry.name) != entry.name:
            raise ValueError("it names no module")
        if entry.statement is not UNSET:
            self.void += self.successions.add(number, entry)
            return
        if entry.release is UNSET:
            raise ValueError("it names no release")
        if entry.private is not UNSET:
            own = self.private.setdefault(entry.private, {})
            own.setdefault(entry.release, {})[number] = leaf
            return
        version = str(parse_version(entry.version))
        known = self.releases.setdefault(entry.name, {})
        before = known.get(version)
        if entry.action != "publish":
            if before is None or before.release != entry.release:
                raise ValueError("it is about a release that the log does not have")
            if entry.action == "void":
                del known[version]
                gone = VoidRelease(
                    name=entry.name,
                    version=entry.version,
                    release=entry.release,
                    entry=before.entry,
                    void=number,
                )
                self.void.append(gone)
                self._first_void.setdefault((entry.name, version), gone)
            before.standing = before.standing.after(entry)
        elif before is None:
            known[version] = _Release(entry.release, number, {number: leaf}, [entry.at])
            self.differences += self._other_than_void(entry, version)
        elif before.release != entry.release:
            raise ValueError(f"it is another release of the version than entry {before.entry}")
        else:
            before.leaves[number] = leaf
            before.logged.append(entry.at)

    def _other_than_void(self, entry: LogEntry, version: str) -> Iterator[LogDifference]:
        """Yield that a version was another release, which is void: who was shown that has it."""
        gone = self._first_void.get((entry.name, version))
        if gone is not None and gone.release != entry.release:
            message = (
                f"{entry.name} {entry.version} is {entry.release} in the log, and was "
                f"{gone.release} (entry {gone.entry}), which is void (entry {gone.void})."
            )
            yield _of_void(gone, message)

    def void_among(self, releases: Collection[str]) -> Iterator[LogDifference]:
        """Yield which of these releases are void, and were not published again since."""
        for gone in {one.release: one for one in self.void if one.release in releases}.values():
            now = self.releases[gone.name].get(str(parse_version(gone.version)))
            if now is None or now.release != gone.release:
                message = (
                    f"{gone.name} {gone.version} is in modpkg.lock as {gone.release}, and void in "
                    f"the log (entry {gone.void}): others were not shown it."
                )
                yield _of_void(gone, message)

    def places(self) -> Iterator[tuple[str, str, str, Mapping[int, bytes]]]:
        """Yield name, version, digest and entries of each release; a private one has no name."""
        for name, versions in self.releases.items():
            for version, one in versions.items():
                yield name, version, one.release, one.leaves
        for releases in self.private.values():
            for release, leaves in releases.items():
                yield "", "", release, leaves


def _of_void(gone: VoidRelease, message: str) -> LogDifference:
    return LogDifference(
        kind="void",
        message=message,
        name=gone.name,
        version=gone.version,
        release=gone.release,
        entry=gone.void,
    )


def audit_log(
    open_registry: Callable[[], Registry],
    memory: LogMemory,
    progress: Progress,
    *,
    locked: LogState | None = None,
    locked_releases: Collection[str] = (),
    logged_in: bool = False,
) -> LogAudit:
    """Return what a registry's log and index do not agree on.

    Args:
        open_registry: Returns the registry as it is now.
        memory: What was seen of its log before; what is seen now is kept there if it is right.
        progress: Shows the stages.
        locked: What a lock has seen of the log.
        locked_releases: The digests of the registry's releases that the lock has.
        logged_in: Whether private modules may be read: what is logged as one is public otherwise.

    Raises:
        TrustError: It has no log, or not the one that it had; its checkpoint is not signed.
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    registry = open_registry()
    seen = memory.read()
    earlier = earlier_states(seen, memory, locked)
    if (info := known_log(registry, earlier)) is None:
        raise TrustError("M558", registry=registry.url)
    progress.stage("Reading the index")
    indexes = {name: registry.index(name) for name in all_names(registry)}
    shown = read_successions(registry, signed_names(indexes))
    progress.stage("Reading the log")
    checkpoint, log, broken = _whole_log(registry, info)
    if hidden := log.releases.keys() - indexes.keys():  # no list is believed to be complete
        registry = open_registry()
        fetch_indexes(registry, hidden)
        indexes |= {name: registry.index(name) for name in hidden}
        checkpoint, log, broken = _whole_log(registry, info)  # for what came meanwhile
    broken += _history(registry, checkpoint, earlier, memory)
    if not broken:
        memory.keep(LogState(info, checkpoint), seen, locked)
    progress.stage("Reading where releases are in the log")
    broken += _misplaced(registry, log)
    broken += log.successions.compared(registry, shown, log.releases)
    found = [*_compared(indexes, log, info.origin, logged_in=logged_in)]
    if names := {one.name for one in found if one.name}:
        again = open_registry()
        fetch_indexes(again, names)
        later = {name: again.index(name) for name in names}
        differ = _compared(later, log, info.origin, logged_in=logged_in)
        still = {(one.kind, one.name, one.version) for one in differ}
        found = [one for one in found if (one.kind, one.name, one.version) in still]
    return LogAudit(
        registry=registry.url,
        origin=info.origin,
        key=info.key,
        entries=checkpoint.size,
        root=checkpoint.root.hex(),
        modules=sum(map(bool, indexes.values())),
        releases=sum(map(len, indexes.values())),
        private=sum(map(len, log.private.values())),
        void=log.void,
        differences=[*broken, *log.differences, *log.void_among(locked_releases), *found],
    )


def _whole_log(
    registry: Registry, info: LogInfo
) -> tuple[LogCheckpoint, _Log, list[LogDifference]]:
    """Return the checkpoint, what the entries say, and where they do not give its root."""
    checkpoint = read_checkpoint(registry, info)
    if checkpoint.size > bounds.AUDITED_ENTRIES:
        reason = f"its size is {checkpoint.size:,}, and {bounds.AUDITED_ENTRIES:,} entries are read"
        raise TrustError("M555", registry=registry.url, path=CHECKPOINT, reason=reason)
    log = _Log()
    return checkpoint, log, [*_read_log(registry, checkpoint, log)]


def _read_log(registry: Registry, checkpoint: LogCheckpoint, log: _Log) -> Iterator[LogDifference]:
    """Read all entries, and yield where they and the tiles do not give the root."""
    size, number = checkpoint.size, 0
    tree = GrowingTree()
    above: list[bytes] = []
    bundles = iter(entry_bundles(size))
    while batch := [*islice(bundles, _BUNDLES_AT_ONCE)]:
        tiles = [Tile(0, bundle.index, bundle.width) for bundle in batch]
        read = _read_all(registry, [*batch, *tiles])
        for bundle, tile in zip(batch, tiles, strict=True):
            entries = entries_in(bundle, read[bundle], registry.url)
            leaves = [leaf_hash(entry) for entry in entries]
            for entry, leaf in zip(entries, leaves, strict=True):
                log.add(number, entry, leaf)
                tree.add(leaf)
                number += 1
            yield from _other_tile(registry, tile, leaves, read[tile])
            above += [perfect_hash(leaves)] if len(leaves) == TILE_WIDTH else []
    level = 1
    while above:
        rows = [above[at : at + TILE_WIDTH] for at in range(0, len(above), TILE_WIDTH)]
        upper = [Tile(level, index, len(row)) for index, row in enumerate(rows)]
        read = _read_all(registry, upper)
        for tile, row in zip(upper, rows, strict=True):
            yield from _other_tile(registry, tile, row, read[tile])
        above = [perfect_hash(row) for row in rows if len(row) == TILE_WIDTH]
        level += 1
    if tree.root != checkpoint.root:
        message = f"Its entries give the root {tree.root.hex()} for size {size}; another is signed."
        yield LogDifference(kind="root", message=message)


def _read_all(registry: Registry, tiles: list[Tile]) -> dict[Tile, bytes]:
    questions = [partial(read_tile, registry, tile) for tile in tiles]
    read = asked_at_once(questions, is_remote=registry.folder is None)
    return dict(zip(tiles, read, strict=True))


def _other_tile(
    registry: Registry, tile: Tile, hashes: list[bytes], data: bytes
) -> Iterator[LogDifference]:
    if hashes_in(tile, data, registry.url) != hashes:
        message = f"{tile.path} has other hashes than those of the entries."
        yield LogDifference(kind="tile", message=message)


def _misplaced(registry: Registry, log: _Log) -> Iterator[LogDifference]:
    """Yield each release for which the registry does not rightly say where in the log it is.

    Whoever locks one finds it there, or is refused.
    """
    releases = log.places()
    while batch := [*islice(releases, _RELEASES_AT_ONCE)]:
        paths = [logged_path(parse_digest(release)) for _, _, release, _ in batch]
        read = asked_at_once(
            [partial(read_logged, registry, path) for path in paths],
            is_remote=registry.folder is None,
        )
        for (name, version, release, leaves), path, data in zip(batch, paths, read, strict=True):
            reason = _misplacement(data, leaves)
            if reason is not None:
                what = f"{name} {version}" if name else f"the private release {release}"
                yield LogDifference(
                    kind="place",
                    message=f"{path} {reason}, and nobody can lock {what}.",
                    name=name,
                    version=version,
                    entry=max(leaves),
                )


def _misplacement(data: bytes | None, leaves: Mapping[int, bytes]) -> str | None:
    """Return what is wrong with a file that says where a release is; None if nothing is."""
    if data is None:
        return "is missing"
    try:
        found = parse_logged(data)
    except ValueError as error:
        return f"is malformed ({error})"
    if leaves.get(found.index) != leaf_hash(found.entry.encode()):
        return f"has another entry than the log, as number {found.index}"
    return None


def _history(
    registry: Registry,
    checkpoint: LogCheckpoint,
    earlier: Mapping[str, LogState],
    memory: LogMemory,
) -> Iterator[LogDifference]:
    """Yield that the log does not continue what was seen of it."""
    try:
        check_history(registry, earlier, checkpoint, memory)
    except TrustError as error:
        yield LogDifference(kind="history", message=str(error))


def _compared(
    indexes: Indexes, log: _Log, origin: str, *, logged_in: bool
) -> Iterator[LogDifference]:
    """Yield where an index and a log differ about names, those that only the log has too."""
    for name in sorted({*indexes, *log.releases}):
        logged = log.releases.get(name, {})
        private = log.private.get(private_name(origin, name), {})
        if logged and private:
            message = f"The log has releases of {name}, and others as those of a private module."
            yield LogDifference(kind="private", message=message, name=name)
        lines = {str(parse_version(line.version)): line for line in indexes.get(name, [])}
        for version, line in lines.items():
            one = logged.get(version)
            if one is None and not logged and line.release in private:
                if not logged_in:
                    message = f"{name} {version} is public, and in the log as a private module's."
                    yield LogDifference(kind="private", message=message, name=name, version=version)
                continue
            yield from _of_line(line, one, log.began or "")
        for version, one in logged.items():
            if version not in lines:
                yield LogDifference(
                    kind="missing",
                    message=f"{name} {version} is in the log (entry {one.entry}), and not in the "
                    "index.",
                    name=name,
                    version=version,
                    release=one.release,
                    entry=one.entry,
                )


def _of_line(line: IndexLine, logged: _Release | None, began: str) -> Iterator[LogDifference]:
    what = f"{line.name} {line.version}"
    about = LogDifference(kind="not-logged", message="", name=line.name, version=line.version)
    if logged is None:
        yield replace(about, message=f"{what} is in the index, and not in the log.")
        return
    about = replace(about, entry=logged.entry)
    if logged.release != line.release:
        message = f"{what} is {line.release} in the index, and {logged.release} in the log."
        yield replace(about, kind="replaced", message=message)
        return
    said = ", ".join(logged_standing(line).other_than(logged.standing))
    if said:
        yield replace(about, kind="standing", message=f"{what} {said}.")
    if (other := other_date(line, logged.logged, began)) is not None:
        yield replace(about, kind="published", message=f"{what} {other}.")
