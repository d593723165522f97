"""Checking a registry's log: that it continues what was seen of it, and that releases are in it.

Two round trips: the checkpoint and where the releases are, then the tiles for all proofs; or, of a
small log, the checkpoint and then all entries. Nothing that the registry says of these is believed:
a wrong place, entry or tile gives another root than the one that is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from modpkg.core import bounds, system
from modpkg.core.digests import parse_digest
from modpkg.core.errors import NotFound, TrustError
from modpkg.core.filenames import LOCK_NAME, REGISTRY_INFO
from modpkg.core.files import shown
from modpkg.core.records import IndexLine, LogInfo, RegistryInfo, decode_record
from modpkg.registry.mirrors import MirroredSource
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import asked_at_once
from modpkg.registry.source import FileMissing
from modpkg.trust.log.entries import (
    LogEntry,
    LoggedRelease,
    is_release_of,
    logged_path,
    parse_entry,
    parse_logged,
)
from modpkg.trust.log.log_checkpoint import LogCheckpoint, verified_checkpoint
from modpkg.trust.log.memory import LogMemory, LogState, SeenLog
from modpkg.trust.log.merkle import (
    NodeHash,
    consistency_ranges,
    inclusion_ranges,
    is_consistent,
    is_included,
    leaf_hash,
    nodes_of,
    proof_over,
)
from modpkg.trust.log.small_log import SMALL, WholeLog, size_in
from modpkg.trust.log.succession import SUCCESSORS, is_successor
from modpkg.trust.log.tiles import LOG, Tile, TileHashes, hashes_in, tile_of
from modpkg.trust.public_key import parse_key

CHECKPOINT = f"{LOG}/checkpoint"
Judge = Callable[[IndexLine, LogEntry, LogCheckpoint], None]
TRIES = 8
"""How often a log is asked again since other commands have seen it elsewhere meanwhile."""
_MOST = {
    SUCCESSORS: bounds.SIGNATURES_BYTES,
    CHECKPOINT: bounds.CHECKPOINT_BYTES,
    REGISTRY_INFO: bounds.REGISTRY_INFO_BYTES,
}


def check_logged(
    registry: Registry,
    lines: Sequence[IndexLine],
    memory: LogMemory,
    locked: LogState | None = None,
    judge: Judge | None = None,
) -> LogState | None:
    """Check that releases are in the log of their registry, if it has or had one.

    Args:
        registry: The registry.
        lines: The releases. If there are none, the log is asked only where it is not known yet
            that it continues what the lock has.
        memory: What was seen of the log before.
        locked: What the lock has seen of it.
        judge: Is called with each release that is in it, its entry, and the log's checkpoint.

    Returns:
        How far it has come; None if it was not asked, or there is none.

    Raises:
        TrustError: A release is not; or the log is not the one that was seen before, goes back
            behind it, or is damaged.
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    for _ in range(TRIES):
        seen = memory.read()
        now = _checked(registry, lines, memory, earlier_states(seen, memory, locked), judge)
        if now is None or memory.keep(now, seen, locked):
            break  # else another command has seen it elsewhere: it is compared with that too
    return now


def _checked(
    registry: Registry,
    lines: Sequence[IndexLine],
    memory: LogMemory,
    earlier: Mapping[str, LogState],
    judge: Judge | None,
) -> LogState | None:
    """Return what `check_logged` does, by what a log has to continue, and remember nothing."""
    if not lines and not earlier:
        return None
    info = known_log(registry, earlier)
    if info is None or (not lines and LOCK_NAME not in earlier):
        return None
    questions: list[Callable[[], bytes | None]] = [partial(_own, registry, CHECKPOINT)]
    places = [
        partial(read_logged, registry, logged_path(parse_digest(line.release))) for line in lines
    ]
    is_remote, may_be_small = registry.folder is None, is_small(registry)
    data, *files = asked_at_once(
        questions if may_be_small else [*questions, *places], is_remote=is_remote
    )
    if (now := _signed_now(registry, info, data, earlier)) is None:
        return None
    info, checkpoint = now.log, now.checkpoint
    for where, state in earlier.items():
        if checkpoint.size <= state.checkpoint.size:
            check_continues(registry, where, state, checkpoint, TileHashes(0, {}), memory)
    found: dict[str, LoggedRelease] = {}
    missing: list[TrustError] = []
    if checkpoint.size <= SMALL:  # whatever it said before: there it is seen what is void
        whole = WholeLog(checkpoint.size, partial(read_tile, registry), registry.url, is_remote)
        node, found = whole.node, whole.places(lines, checkpoint.origin)
        reason = "no entry is about it, or a later one says that it is void"
        missing += [_not_logged(registry, x, reason) for x in lines if x.release not in found]
    else:
        if may_be_small:
            files = asked_at_once(places, is_remote=is_remote)
        for line, place in zip(lines, files, strict=True):
            try:
                found[line.release] = _logged(registry, checkpoint, line, place)
            except TrustError as error:  # noqa: PERF203
                missing.append(error)
        indexes = [one.index for one in found.values()]
        node = _hashes(registry, checkpoint, earlier.values(), indexes)
    for where, state in earlier.items():  # that a log has shown two things comes before its gaps
        check_continues(registry, where, state, checkpoint, node, memory)
    if missing:
        raise missing[0]
    for line in lines:
        one = found[line.release]
        proof = proof_over(inclusion_ranges(one.index, checkpoint.size), node)
        leaf = leaf_hash(one.entry.encode())
        if not is_included(leaf, one.index, checkpoint.size, proof, checkpoint.root):
            raise _not_logged(registry, line, "its entry is none of the tree that is signed")
        if judge is not None:
            judge(line, parse_entry(one.entry.encode()), checkpoint)
    return now


def is_small(registry: Registry) -> bool:
    """Return whether a log is small, as far as a checkpoint says that was fetched ahead."""
    data = registry.files.arrived(CHECKPOINT)
    size = None if data is None else size_in(data)
    return size is not None and size <= SMALL


def files_of_log(registry: Registry, line: IndexLine) -> Iterator[tuple[str, int]]:
    """Yield the files that `check_logged` is going to ask for, each with its most bytes."""
    yield CHECKPOINT, bounds.CHECKPOINT_BYTES
    if registry.files.arrived(CHECKPOINT) is not None and not is_small(registry):
        yield logged_path(parse_digest(line.release)), bounds.LOGGED_RELEASE_BYTES


def earlier_states(
    seen: SeenLog | None, memory: LogMemory, locked: LogState | None = None
) -> dict[str, LogState]:
    """Return what a log has to continue, by where that is written.

    What the lock has is left out where the log is known to continue it.
    """
    found = {} if seen is None else {shown(memory.path): seen.state}
    if locked is not None and (seen is None or not seen.knows(locked)):
        found[LOCK_NAME] = locked
    return found


def known_log(registry: Registry, earlier: Mapping[str, LogState]) -> LogInfo | None:
    """Return what a registry says of its log; None if it has and had none.

    A mirror may have none of it. What was seen is kept to then, and else the registry itself asked,
    if it can be reached.

    Raises:
        TrustError: It had another, or has none any more.
    """
    info = _told(registry, earlier)
    try:
        _check_same(registry, info, earlier)
    except TrustError:
        if not _may_be_old(registry):
            raise
        info = _own_log(registry)
        _check_same(registry, info, earlier)
    return info


def _check_same(registry: Registry, info: LogInfo | None, earlier: Mapping[str, LogState]) -> None:
    """Check that a log is the one that was seen before.

    Raises:
        TrustError: It is another, or there is none any more.
        NotFound: There is no registry any more, whatever its mirrors have.
    """
    for where, state in earlier.items():
        if info is None and _own(registry, REGISTRY_INFO) is None:
            raise NotFound("M301", url=registry.shown, remedy=registry.remedy)
        if info is None or not _is_same(registry, state.log, info):
            raise TrustError(
                "M551",
                registry=registry.url,
                was=state.log.key,
                where=where,
                found="has none" if info is None else f"has one with {info.key} ({info.origin})",
                word=system.shell_word(registry.url),
            )


def _told(registry: Registry, earlier: Mapping[str, LogState]) -> LogInfo | None:
    info = registry.info.log
    if not isinstance(registry.source, MirroredSource):
        return info
    if len(logs := {state.log for state in earlier.values()}) == 1:
        return logs.pop()
    return info or _own_log(registry)  # nothing that is not signed takes away what is


def _may_be_old(registry: Registry) -> bool:
    """Return whether ``registry.json`` may be that of a mirror, or a copy: whoever has taken a log
    out of it by hand has left its digest in ``modules.jsonl``."""
    is_mirrored = isinstance(registry.source, MirroredSource)
    return is_mirrored or registry.files.copy(REGISTRY_INFO) is not None


def _own_log(registry: Registry) -> LogInfo | None:
    """Return what a registry itself says of its log now, and no mirror and no copy of it.

    Raises:
        TrustError: It is signed, and this is not what was signed.
    """
    data = _own(registry, REGISTRY_INFO)
    if (checks := registry.files.checks) is not None:
        data = checks.checked(REGISTRY_INFO, data, lambda: _own(registry, REGISTRY_INFO))
    what = f"{registry.url}/{REGISTRY_INFO}"
    return None if data is None else decode_record(data, RegistryInfo, what).log


def _is_same(registry: Registry, old: LogInfo, new: LogInfo) -> bool:
    """Return whether a log is another one, perhaps with a key that the other's has named."""
    if new == old or new.origin != old.origin:
        return new == old
    data = _own(registry, SUCCESSORS)
    return data is not None and is_successor(data, old, new)


def _signed_now(
    registry: Registry, info: LogInfo, data: bytes | None, earlier: Mapping[str, LogState]
) -> LogState | None:
    """Return a log as it is now, by the file of its checkpoint and what the registry itself says.

    It is None if that has none, and had none.

    Raises:
        TrustError: It is missing, malformed, or not signed by the log; or the log is another one.
    """
    try:
        return LogState(info, signed_checkpoint(registry, info, data))
    except TrustError:
        if not _may_be_old(registry) or (own := _own_log(registry)) == info:
            raise
    _check_same(registry, own, earlier)
    return None if own is None else LogState(own, signed_checkpoint(registry, own, data))


def signed_checkpoint(registry: Registry, info: LogInfo, data: bytes | None) -> LogCheckpoint:
    """Return a log's checkpoint by its file, which None stands for if it is missing.

    Raises:
        TrustError: It is missing, malformed, or not signed by the log.
    """
    if data is None:
        raise TrustError("M550", registry=registry.url, reason=f"{CHECKPOINT} is missing")
    return verified_checkpoint(data, info.origin, parse_key(info.key), registry.url)


def read_checkpoint(registry: Registry, info: LogInfo) -> LogCheckpoint:
    """Return a log's checkpoint as it is now.

    Raises:
        What `signed_checkpoint` and reading can raise.
    """
    return signed_checkpoint(registry, info, _own(registry, CHECKPOINT))


def check_history(
    registry: Registry, earlier: Mapping[str, LogState], now: LogCheckpoint, memory: LogMemory
) -> None:
    """Check that a log begins with what was seen of it, by its tiles.

    Raises:
        What `check_continues` and reading can raise.
    """
    for where, state in earlier.items():
        tiles = tiles_to_continue(state.checkpoint.size, now.size)
        node = log_hashes(registry, now.size, tiles)
        check_continues(registry, where, state, now, node, memory)


def check_continues(
    registry: Registry,
    where: str,
    earlier: LogState,
    now: LogCheckpoint,
    node: NodeHash,
    memory: LogMemory,
) -> None:
    """Check that a log begins with what was seen of it.

    Raises:
        TrustError: It does not.
    """
    last = earlier.checkpoint
    proof = proof_over(consistency_ranges(last.size, now.size), node)
    if is_consistent(last.size, last.root, now.size, now.root, proof):
        return
    values = {
        "registry": registry.url,
        "where": where,
        "path": shown(memory.keep_evidence(last, now)),
        "before": last.size,
        "now": now.size,
        "word": system.shell_word(registry.url),
    }
    if now.size < last.size:
        raise TrustError("M553", **values)
    raise TrustError("M552", **values)


def log_hashes(registry: Registry, size: int, tiles: Collection[Tile]) -> NodeHash:
    """Return the hashes of a log's tree, as far as these tiles have them.

    Raises:
        TrustError: One is missing or damaged.
    """
    wanted = sorted(tiles, key=lambda tile: tile.path)
    read = asked_at_once(
        [partial(read_tile, registry, tile) for tile in wanted],
        is_remote=registry.folder is None,
    )
    found: Mapping[Tile, list[bytes]] = {
        tile: hashes_in(tile, data, registry.url) for tile, data in zip(wanted, read, strict=True)
    }
    return TileHashes(size, found)


def tiles_to_continue(before: int, size: int) -> set[Tile]:
    """Return the tiles that show that a tree begins with an earlier one."""
    return {tile_of(node, size) for node in nodes_of(consistency_ranges(before, size))}


def read_tile(registry: Registry, tile: Tile) -> bytes:
    """Return the file of a tile; if that is gone, that of the tile which is full by now.

    Raises:
        TrustError: Neither is there.
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    for one in dict.fromkeys((tile, tile.full)):
        if (data := _read(registry, one.path, one.most)) is not None:
            return data
    raise TrustError("M555", registry=registry.url, path=tile.path, reason="it is missing")


def read_logged(registry: Registry, path: str) -> bytes | None:
    """Return the file that says where a release is in the log; None if there is none.

    Raises:
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    try:
        return registry.files.vouching_file(path, bounds.LOGGED_RELEASE_BYTES)
    except FileMissing:
        return None


def _hashes(
    registry: Registry,
    checkpoint: LogCheckpoint,
    earlier: Iterable[LogState],
    indexes: Sequence[int],
) -> NodeHash:
    size, tiles = checkpoint.size, set[Tile]()
    for state in earlier:
        tiles |= tiles_to_continue(state.checkpoint.size, size)
    for index in indexes:
        tiles |= {tile_of(node, size) for node in nodes_of(inclusion_ranges(index, size))}
    return log_hashes(registry, size, tiles)


def _read(registry: Registry, path: str, most: int) -> bytes | None:
    try:
        return registry.files.own(path, most)
    except FileMissing:
        return None


def _own(registry: Registry, path: str) -> bytes | None:
    """Return a file as the registry itself has it, if it can be reached: a mirror's may be old."""
    return _read(registry, path, _MOST[path])


def _logged(
    registry: Registry, checkpoint: LogCheckpoint, line: IndexLine, data: bytes | None
) -> LoggedRelease:
    """Return where a release is said to be, if the entry is about it.

    Raises:
        TrustError: It is not.
    """
    if data is None:
        raise _not_logged(registry, line, "the registry does not say where")
    try:
        found = parse_logged(data)
        entry = parse_entry(found.entry.encode())
    except ValueError as error:  # msgspec's are such
        raise _not_logged(registry, line, f"what stands there is malformed ({error})") from None
    if not is_release_of(entry, line, checkpoint.origin):
        raise _not_logged(registry, line, "its entry is about something else")
    if found.index >= checkpoint.size:
        reason = f"its entry would be number {found.index}, and there are {checkpoint.size}"
        raise _not_logged(registry, line, reason)
    return found


def _not_logged(registry: Registry, line: IndexLine, reason: str) -> TrustError:
    return TrustError(
        "M554", name=line.name, version=line.version, registry=registry.url, reason=reason
    )
