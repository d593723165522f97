"""Locked releases that were yanked or removed after they were locked: they stay installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from modpkg.core.errors import ModpkgError, TrustError
from modpkg.core.files import write_atomically
from modpkg.core.hub_address import is_hub_address
from modpkg.core.names import parse_version
from modpkg.core.regular_file import read_file
from modpkg.registry.standing import NO_REASON, check_present, deprecation, removal

if TYPE_CHECKING:
    from modpkg.core.records import IndexLine
    from modpkg.environment.generations import Environment
    from modpkg.environment.workspace import Workspace
    from modpkg.registry.reader import Registry
    from modpkg.resolve.lock import Lock, LockedModule


_FILE = "yanked.json"
_BY = {
    None: "",
    True: ", and its signer has signed that",
    False: ", which its signer has not signed",
}


def yanked_releases(
    lock: Lock,
    by_name: Mapping[str, Registry],
    *,
    consulted: Callable[[str], bool] = lambda name: False,
    signed: Mapping[str, bool | None] = MappingProxyType({}),
) -> list[str]:
    """Return a warning for each locked release that its registry yanked, removed or lost.

    Another release in its place is reported too.

    Registries in folders are read, and others for the names that ``consulted`` returns true for:
    an install with nothing to do needs no network. ``signed`` is by name whether a yank is signed,
    where that is known.

    Raises:
        TrustError: The index of a registry that is consulted is not what is signed.
    """
    warnings = []
    for module in lock.module:
        registry = by_name.get(module.name)
        if registry is None or registry.stands_for:
            continue  # of a hub, which takes back nothing
        if registry.folder is None and not consulted(module.name):
            continue
        try:
            if module.candidate:
                from modpkg.environment.tried_candidates import candidate_note

                note = candidate_note(registry, module)
                warnings += [] if note is None else [note]
                continue
            line = registry.line(module.name, module.version)
        except ModpkgError as error:
            if isinstance(error, TrustError) and consulted(module.name):
                raise  # who was asked to say so cannot
            # the lock has the digest, and fetching tells what is missing
            if error.code in ("M304", "M312"):
                warnings.append(
                    f"{module.name} {module.version} is locked, and the registry "
                    f"{registry.shown} does not have it any more; it stays as it is"
                )
            continue
        if line.release != module.release:
            warnings.append(
                f"the registry {registry.shown} now has another release as {module.name} "
                f"{module.version} than the locked one, which stays"
            )
        elif (gone := removal(line)) is not None:
            warnings.append(f"{module.name} {module.version} {gone}; it stays as it is installed")
        elif line.yanked is not None:
            who = _BY[signed.get(module.name)]
            reason = line.yanked or NO_REASON
            warnings.append(f"{module.name} {module.version} was yanked{who}: {reason}")
    return warnings


def deprecated_releases(
    lock: Lock, by_name: Mapping[str, Registry], wanted: Callable[[str], bool]
) -> list[str]:
    """Return a warning for each locked release, of a wanted name, that is deprecated."""
    warnings = []
    for module in lock.module:
        registry = by_name.get(module.name)
        if registry is None or registry.stands_for or not wanted(module.name):
            continue
        with contextlib.suppress(ModpkgError):  # `yanked_releases` tells what is wrong
            note = deprecation(registry.line(module.name, module.version))
            if note is not None:
                warnings.append(f"{module.name} {module.version} {note}")
    return warnings


def check_not_removed(lock: Lock, by_name: Mapping[str, Registry], missing: Iterable[str]) -> None:
    """Check that no locked release of which something has to be fetched was removed.

    Raises:
        NotFound: One was.
    """
    for name in missing:
        module, registry = lock.find(name), by_name.get(name)
        if module is None or registry is None or registry.stands_for:
            continue
        lines: list[IndexLine] = []
        with contextlib.suppress(ModpkgError):  # fetching tells what is wrong
            lines = registry.index(name)
        line = next((line for line in lines if line.release == module.release), None)
        if line is not None:
            check_present(line, registry.shown)


def replaced_release(module: LockedModule, lines: Iterable[IndexLine]) -> str | None:
    """Return how an index differs from a lock in a version, as a clause; None if it does not.

    A locked candidate is no release, so an index need not have it.
    """
    version = parse_version(module.version)
    line = next((line for line in lines if parse_version(line.version) == version), None)
    if line is None:
        return None if module.candidate else "its registry does not have it any more"
    if line.release != module.release:
        return "its registry now has another release under that version"
    return None


class _Reported(Struct, frozen=True):
    """What the indexes said when an install with nothing to do last read them."""

    lock: str
    """Digest of the lock."""
    indexes: dict[str, tuple[int, int]]
    """Time and size of each index file, by path."""
    warnings: list[str]


def yanked_since(workspace: Workspace) -> list[str]:
    """Return what `yanked_releases` does for an install with nothing to do.

    Opening registries takes longer than all else that such an install does, so what they said is
    kept in the environment for as long as their index files do not change.
    """
    current = workspace.environment.current()
    if current is None:
        return []
    reported = _read(workspace.environment.root / _FILE)
    if reported is not None and reported.lock == current.lock and _unchanged(reported.indexes):
        return reported.warnings
    lock = workspace.usable_lock()
    if lock is None:
        return []
    of_registries = [m for m in lock.module if not is_hub_address(lock.source_of(m.name))]
    by_name = workspace.registries.by_name(msgspec.structs.replace(lock, module=of_registries))
    return note_yanked(workspace.environment, lock, by_name)


def note_yanked(environment: Environment, lock: Lock, by_name: Mapping[str, Registry]) -> list[str]:
    """Keep what the indexes say of an installed lock for `yanked_since`, and return it."""
    current = environment.current()
    indexes = {}
    for module in lock.module:
        registry = by_name.get(module.name)
        if registry is not None and not registry.stands_for and registry.folder is not None:
            folder = registry.folder
            index = folder.absolute() / "index" / f"{module.name}.jsonl"
            indexes[str(index)] = _stamp(index)
            if module.candidate:
                path = folder.absolute() / "candidates" / f"{module.name}.jsonl"
                indexes[str(path)] = _stamp(path)
    warnings = yanked_releases(lock, by_name)
    reported = _Reported("" if current is None else current.lock, indexes, warnings)
    with contextlib.suppress(OSError, ModpkgError):  # an environment that cannot be written
        write_atomically(environment.root / _FILE, msgspec.json.encode(reported))
    return warnings


def _read(path: Path) -> _Reported | None:
    try:
        return msgspec.json.decode(read_file(path, follow=False), type=_Reported)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _unchanged(indexes: Mapping[str, tuple[int, int]]) -> bool:
    return all(_stamp(Path(path)) == stamp for path, stamp in indexes.items())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
