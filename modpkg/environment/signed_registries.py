"""What a lock records of registries that have a signed index or a log: how far each had come.

By it, another machine sees whether a registry goes back behind what this one has seen, and whether
one that was signed is not any more, or has another log or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import structs

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.hub_address import is_hub_address
from modpkg.core.records import IndexLine, LogInfo
from modpkg.manifest.normal_address import normal_address
from modpkg.manifest.schema import Manifest
from modpkg.registry.mutable_files import MutableFiles
from modpkg.registry.reader import Registry
from modpkg.registry.recorded_address import BUILT_IN, same_place
from modpkg.registry.signature_files import signatures_path
from modpkg.resolve.lock import Lock, LockedRegistry
from modpkg.trust.known_registry import NamedRoot, SeenRegistry, remembered_folder
from modpkg.trust.log.log_checkpoint import LogCheckpoint
from modpkg.trust.log.memory import LogMemory, LogState
from modpkg.trust.signed_index import SignedIndex

_INDEX: dict[str, Any] = {"root": "", "root_version": 0, "snapshot": 0}
_LOG: dict[str, Any] = {"log": "", "log_key": "", "log_size": 0, "log_root": ""}
"""What a lock has of a registry without either."""


def verify_index(files: MutableFiles) -> SignedIndex:
    """Let files of a registry be verified by its signed metadata, if it has any; return that."""
    signed = SignedIndex(files.source, files.home, files.info)
    files.checks = signed
    return signed


def vouching_files(registry: Registry, line: IndexLine) -> Iterator[tuple[str, int]]:
    """Yield the files that `lock` asks for of a release that is new in it: see
    `modpkg.environment.signers` and `modpkg.environment.logged`."""
    if line.signed is True:
        yield signatures_path(parse_digest(line.release)), bounds.SIGNATURES_BYTES
    if registry.info.log is not None:
        from modpkg.trust.log.checking import files_of_log  # slow to import; most have no log

        yield from files_of_log(registry, line)


def expect_seen(registry: Registry, locked: LockedRegistry) -> None:
    """Hold a registry to what a lock has seen of it, before it is read."""
    checks = registry.files.checks
    if isinstance(checks, SignedIndex) and locked.root:
        checks.locked = SeenRegistry(locked.root, locked.root_version, locked.snapshot)


def expect_root(registry: Registry, manifest: Manifest) -> None:
    """Hold a registry to the first root that a manifest names, before it is read.

    Then it is signed, whatever it, or a mirror of it, says.
    """
    checks = registry.files.checks
    if not manifest.roots or not isinstance(checks, SignedIndex):
        return
    own = normal_address(registry.source.url)
    for alias, root in manifest.roots.items():
        address = manifest.registries[alias]
        if "://" not in address:
            address = str((manifest.folder / Path(address).expanduser()).absolute())
        if normal_address(address) == own:
            checks.named = NamedRoot(root, manifest.path.name)


class KnownRegistries(Protocol):
    """What a manifest and its lock say of registries."""

    def recorded(self, registry: Registry) -> str:
        """Return what the lock records of a registry's address."""
        ...

    def locked(self, registry: Registry, lock: Lock | None) -> LockedRegistry | None:
        """Return what a lock has seen of a registry."""
        ...

    def among(self, address: str, others: Iterable[str]) -> bool:
        """Return whether one of the recorded addresses leads to the same place."""
        ...

    def still_names(self, address: str, lock: Lock) -> bool:
        """Return whether a module of a lock is from an address, or the manifest names that."""
        ...


def log_of(locked: LockedRegistry | None) -> LogState | None:
    """Return what a lock has seen of the log of a registry."""
    if locked is None or not locked.log:
        return None
    root = bytes.fromhex(locked.log_root.removeprefix("sha256:"))
    checkpoint = LogCheckpoint(locked.log, locked.log_size, root)
    return LogState(LogInfo(locked.log, locked.log_key), checkpoint)


def with_seen(
    lock: Lock,
    previous: Lock | None,
    registries: Iterable[Registry],
    known: KnownRegistries,
    logs: Mapping[Registry, LogState],
) -> Lock:
    """Return a lock with how far its registries have come.

    What the one so far says stays of a registry that was not read now, as long as a module of the
    new one is from there, or the manifest names it.

    Args:
        lock: The new lock.
        previous: The one so far.
        registries: Those that the lock's modules were resolved from.
        known: What manifest and lock say of registries.
        logs: How far the logs had come that were asked.
    """
    found: dict[str, LockedRegistry] = {}
    for registry in registries:
        where = known.recorded(registry)
        checks = registry.files.checks
        seen = checks.seen() if isinstance(checks, SignedIndex) else None
        before = known.locked(registry, previous)
        new = structs.replace(before or LockedRegistry(address=where), address=where)
        if seen is not None:
            new = structs.replace(
                new, root=seen.root, root_version=seen.root_version, snapshot=seen.snapshot
            )
        if (state := logs.get(registry)) is not None:
            new = structs.replace(
                new,
                log=state.log.origin,
                log_key=state.log.key,
                log_size=state.checkpoint.size,
                log_root=f"sha256:{state.checkpoint.root.hex()}",
            )
        if new.root or new.log:
            found[where] = new
    for one in previous.registry if previous is not None else ():
        if not known.among(one.address, found) and known.still_names(one.address, lock):
            found[one.address] = one
    return structs.replace(lock, registry=[found[where] for where in sorted(found)])


def with_later(lock: Lock, current: Lock, base: Path) -> Lock:
    """Return an earlier lock that takes the place of the current one, and forgets no registry.

    Of each registry it has the newer of what both know. What only the earlier one has of a registry
    that the other has modules from was forgotten since, on purpose.

    Args:
        lock: The earlier lock.
        current: The current one.
        base: The folder that relative addresses are relative to.
    """
    found = {one.address: one for one in current.registry}
    here = {*found, *(module.address for module in current.module)}
    for one in lock.registry:
        same = next((where for where in here if same_place(where, one.address, base)), None)
        if same is None:
            found[one.address] = one
        elif same in found:
            found[same] = _newer(one, found[same])
    return structs.replace(lock, registry=[found[where] for where in sorted(found)])


def _newer(one: LockedRegistry, current: LockedRegistry) -> LockedRegistry:
    """Return the current state of a registry, or the parts of another one that are newer."""
    new = current
    if one.root == current.root:
        version = max((one.root_version, one.snapshot), (current.root_version, current.snapshot))
        new = structs.replace(new, root_version=version[0], snapshot=version[1])
    is_same_log = (one.log, one.log_key) == (current.log, current.log_key)
    if is_same_log and one.log_size > current.log_size:
        new = structs.replace(new, log_size=one.log_size, log_root=one.log_root)
    return new


def not_in_lock(lock: Lock, folder: Path) -> Iterator[str]:
    """Yield a sentence for each registry of a lock that is signed or logged, and has no entry.

    That is known on this machine; others, which read the registry for the first time, could not
    tell whether it goes back.

    Args:
        lock: The lock.
        folder: Where relative addresses begin.
    """
    has = {one.address: one for one in lock.registry}
    for address in dict.fromkeys(module.address for module in lock.module if not module.candidate):
        if not address or address == BUILT_IN or is_hub_address(address):
            continue
        url = address if "://" in address else str(folder / address)
        locked = has.get(address, LockedRegistry(address=address))
        known = [("log", LogMemory(url).is_there, locked.log)]
        known.append(("signed index", remembered_folder(url).is_dir(), locked.root))
        if what := [text for text, is_known, its in known if is_known and not its]:
            yield (
                f"{LOCK_NAME} has nothing of the {' and the '.join(what)} of {address}, which this "
                "machine has seen; 'modpkg lock' writes down how far the registry has come"
            )


def without_progress(lock: Lock) -> Lock:
    """Return a lock without how far its registries have come, to compare it with another."""
    registries = [
        structs.replace(one, root_version=0, snapshot=0, log_key="", log_size=0, log_root="")
        for one in lock.registry
    ]
    return structs.replace(lock, registry=registries)


def without_seen(lock: Lock, is_of: Callable[[str], bool], *, log: bool) -> Lock:
    """Return a lock without what it has of the log, or of the signed index, of a registry.

    ``is_of`` returns whether an address is the registry's.
    """
    what = _LOG if log else _INDEX
    registries = [
        structs.replace(one, **what) if is_of(one.address) else one for one in lock.registry
    ]
    return structs.replace(lock, registry=[one for one in registries if one.root or one.log])
