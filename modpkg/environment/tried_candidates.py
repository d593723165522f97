"""Candidates in a lock: releases that are tried before they are released.

Whoever asks for a candidate has it as the only release of its module. The lock says so, and each
later one keeps to it, as to any locked version, for as long as nobody has decided about it: once it
is accepted it is a release as any other, with the same digest; once it is not, a release takes its
place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.errors import LockError
from modpkg.core.names import module_name
from modpkg.environment.registries import Registries
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule

if TYPE_CHECKING:
    from modpkg.core.candidates import CandidateLine


class TriedCandidates(Struct, frozen=True):
    """What of a resolution are candidates."""

    numbers: Mapping[str, int] = {}
    """By module."""
    free: Collection[str] = ()
    """Modules that the lock before does not hold to their release: they were candidates, or one is
    asked for in their place."""
    notes: tuple[str, ...] = ()

    def recorded(self, lock: Lock) -> Lock:
        """Return a lock that says which of its modules are candidates."""
        if not self.numbers:
            return lock
        modules = [
            replace(module, candidate=self.numbers[module.name])
            if module.name in self.numbers
            else module
            for module in lock.module
        ]
        return replace(lock, module=modules)


def try_candidates(
    registries: Registries,
    previous: Lock | None,
    *,
    kept: Collection[str],
    asked: Mapping[str, int],
    accepted: Collection[str] = (),
) -> TriedCandidates:
    """Let candidates be the only releases of their modules, before anything is resolved.

    Args:
        registries: Those that are resolved from.
        previous: The lock so far.
        kept: Modules whose locked release is kept.
        asked: By module, the number of a candidate that is to be tried from now on.
        accepted: Modules that may be another release than in ``previous``.

    Raises:
        NotFound: There is no candidate that is asked for.
        PublishError: It is decided already.
        LockError: A locked candidate is another release by now.
    """
    numbers: dict[str, int] = {}
    notes: list[str] = []
    for name, number in asked.items():
        from modpkg.registry.candidates import check_open, read_candidate  # most locks have none

        registry = registries.of(name)
        one = read_candidate(registry, name, number)
        check_open(one)
        _use(registry, one)
        numbers[name] = number
        notes.append(
            f"{one.line.name} {one.line.version} is {one.label}, a candidate that is no release "
            "yet; 'modpkg update' goes back to releases"
        )
    locked = [] if previous is None else [m for m in previous.module if m.candidate]
    for module in locked:
        if module.name in asked or module.name not in kept:
            continue
        registry = registries.of(module.name)
        found = _candidate_of(registry, module)
        if found is None:  # a vendored copy has it as a release
            if (note := candidate_note(registry, module)) is not None:
                notes.append(note.replace("it stays as it is", "a release takes its place"))
            continue
        if found.status == "open":
            named = {module_name(name) for name in accepted}
            if found.line.release != module.release and module.name not in named:
                changes = f"{registry.shown} now has another release as {found.label}"
                options = f"--accept-changed {module.name}"
                raise LockError("M416", changes=changes, options=options)
            _use(registry, found)
            numbers[module.name] = found.number
        elif found.status != "accepted":
            notes.append(f"{_locked(module, found)}; a release takes its place")
    free = {*asked, *(module.name for module in locked if module.name not in numbers)}
    return TriedCandidates(numbers, free, tuple(notes))


def candidate_note(registry: Registry, module: LockedModule) -> str | None:
    """Return what became of a locked candidate that stays installed; None if nothing did."""
    one = _candidate_of(registry, module)
    if one is None:
        if any(line.release == module.release for line in registry.index(module.name)):
            return None
        return (
            f"{module.name}#{module.candidate} is locked, and the registry {registry.shown} does "
            "not have it any more; it stays as it is"
        )
    if one.status == "open":
        return None
    if one.status == "accepted":
        return f"{_locked(module, one)}; 'modpkg lock' notes that it is a release now"
    return f"{_locked(module, one)}; 'modpkg update {module.name}' puts a release in its place"


def candidate_line(registry: Registry, module: LockedModule) -> CandidateLine | None:
    """Return the open candidate that a module is locked as; None if it is none any more."""
    one = _candidate_of(registry, module) if module.candidate else None
    is_it = one is not None and one.status == "open" and one.line.release == module.release
    return one if is_it else None


def _candidate_of(registry: Registry, module: LockedModule) -> CandidateLine | None:
    from modpkg.registry.candidates import read_candidates

    found = read_candidates(registry, module.name)
    return next((one for one in found if one.number == module.candidate), None)


def _locked(module: LockedModule, one: CandidateLine) -> str:
    from modpkg.registry.candidates import decision_of

    return f"{module.name} {module.version} is locked as {one.label}, which {decision_of(one)}"


def _use(registry: Registry, one: CandidateLine) -> None:
    """Let a candidate be the only release of its module; its time is that of its submission."""
    registry.substitute(one.line.name, [replace(one.line, published=one.at)])


def with_candidate(registry: Registry, one: CandidateLine) -> None:
    """Let a candidate be the release of its version, beside the others of its module."""
    others = [line for line in registry.index(one.line.name) if line.version != one.line.version]
    registry.substitute(one.line.name, [*others, replace(one.line, published=one.at)])
