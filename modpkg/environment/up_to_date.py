"""Whether a lock is up to date: what the manifest asks for, and what was installed of it here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from modpkg.core.errors import LockError
from modpkg.core.names import module_name, read_requirement
from modpkg.core.records import ReleaseRecord
from modpkg.environment.generations import ModuleState
from modpkg.environment.locking import requirements_of
from modpkg.environment.policy import bounds_of, changed_policy
from modpkg.environment.project import Project
from modpkg.environment.remembered_signers import (
    RegistryOf,
    held_signers,
    other_signer,
    signed_otherwise,
)
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock


def current_lock(
    project: Project,
    manifest: Manifest,
    lock: Lock | None,
    *,
    registry_of: RegistryOf,
    warn: Callable[[str], None],
    installed: Sequence[ModuleState] = (),
    accepted: Collection[str] = (),
) -> Lock:
    """Return the lock of a project if it is up to date.

    Args:
        project: The project.
        manifest: Its manifest.
        lock: Its lock.
        registry_of: Returns the registry of a locked module.
        warn: Is called with a sentence for each release whose signer is not as it was installed,
            which is no reason to refuse it.
        installed: What the generations of the environment have.
        accepted: Modules whose signer may be another one than they have.

    Raises:
        LockError: There is no lock, or it is out of date, or has another signer of a release than
            the generations, and nothing shows that this is right.
    """
    if lock is None:
        raise LockError("M411", path=project.lock_path, remedy=project.to_lock)
    to_lock = f"'modpkg lock{project.user_option}'"
    if (reason := stale_reason(manifest, lock)) is not None:
        against, remedy = manifest.path.name, f"run {to_lock}"
        values = {"against": against, "reason": reason, "remedy": remedy}
        raise LockError("M412", path=project.lock_path, **values)
    if not (otherwise := signed_otherwise(lock, installed, manifest.trust, accepted)):
        return lock
    held = held_signers(lock, otherwise, registry_of, manifest.trust)
    modules = {module.name: module for module in lock.module}
    for name, signer in held.refused.items():
        remedy = (
            f"run {to_lock} for that signer, or, if the lock's is right, 'modpkg install"
            f"{project.user_option} --accept-changed {name}'"
        )
        reason = other_signer(modules[name], signer)
        values = {"against": "what was installed", "reason": reason, "remedy": remedy}
        raise LockError("M412", path=project.lock_path, **values)
    for name, signer in held.forgotten.items():
        warn(f"{other_signer(modules[name], signer)}; {to_lock} writes that down again")
    for note in held.notes:
        warn(note)
    return lock


def check_lock(workspace: Workspace, manifest: Manifest | None = None) -> Lock:
    """Return the workspace's lock if it is up to date with its manifest, or with ``manifest``.

    Raises:
        LockError: There is no lock, or it is malformed or out of date.
    """
    manifest = workspace.manifest if manifest is None else manifest
    return current_lock(
        workspace.project,
        manifest,
        workspace.lock,
        registry_of=lambda name: workspace.registries.of(name),
        warn=workspace.progress.warn,
        installed=workspace.environment.ever_installed(),
        accepted=workspace.options.accepted,
    )


def stale_reason(manifest: Manifest, lock: Lock) -> str | None:
    """Return why a lock is out of date with a manifest; None if it is not."""
    wanted, had = requirements_of(manifest), lock.requirements
    if wanted == had:
        return changed_policy(manifest, lock) or _unsatisfied(manifest, lock)
    for text in wanted:
        if text not in had:
            return f"{text} was added or changed"
    for text in had:
        if text not in wanted:
            return f"{text} was removed or changed"
    return "the requirements are in another order"


def _unsatisfied(manifest: Manifest, lock: Lock) -> str | None:
    """Return what of a manifest the modules of a lock do not satisfy, as a clause.

    That the lock repeats the requirements proves nothing: it may have been edited, or merged.
    """
    overrides = bounds_of(manifest.overrides)
    for dependency in manifest.dependencies:
        module = lock.find(dependency.name)
        if module is None:
            return f"{dependency.name} is not locked"
        bound = overrides.get(dependency.name)
        specifier = dependency.requirement.specifier if bound is None else bound.specifier
        if not specifier.contains(module.version, prereleases=True):
            return f"{module.name} {module.version} is locked, which is not {specifier}"
        extras = set(map(module_name, dependency.requirement.extras))
        if missing := sorted(extras - set(module.extras)):
            return f"{module.name} is locked without its extra {missing[0]!r}"
    for constraint in manifest.constraints:
        module = lock.find(constraint.name)
        specifier = constraint.requirement.specifier
        if module is not None and not specifier.contains(module.version, prereleases=True):
            return (
                f"{module.name} {module.version} is locked, which the constraint {specifier} "
                "excludes"
            )
    return None


def check_closed(
    lock: Lock, records: Mapping[str, ReleaseRecord], manifest: Manifest, path: Path
) -> None:
    """Check that a lock agrees with its releases' records: it has what is required, and no more.

    Raises:
        LockError: They disagree: the lock was edited, or the index did not match the records.
    """
    overrides = bounds_of(manifest.overrides)
    requested: dict[str, set[str]] = {}
    requires: dict[str, list[str]] = {}
    for dependency in manifest.dependencies:
        requested.setdefault(dependency.name, set()).update(dependency.requirement.extras)
    for module in lock.module:
        record = records[module.name]
        if module.requires != record.requires:
            reason = f"{module.name} {module.version} is locked with other requirements than it has"
            raise LockError("M410", path=path, reason=reason)
        groups = _groups(record)
        for text in [*record.requires, *(t for e in module.extras for t in groups.get(e, []))]:
            wanted = read_requirement(text)
            requires.setdefault(module.name, []).append(wanted.name)
            locked = lock.find(wanted.name)
            bound = overrides.get(wanted.name)
            specifier = wanted.specifier if bound is None else bound.specifier
            extras = set(map(module_name, wanted.extras))
            requested.setdefault(wanted.name, set()).update(extras)
            if (
                locked is None
                or not specifier.contains(locked.version, prereleases=True)
                or not extras <= set(locked.extras)
            ):
                reason = f"{module.name} {module.version} requires {text}, which is not locked"
                raise LockError("M410", path=path, reason=reason)
    required = dict.fromkeys(str(dependency.name) for dependency in manifest.dependencies)
    todo = [*required]
    for name in todo:
        new = [one for one in requires.get(name, ()) if one not in required]
        required |= dict.fromkeys(new)
        todo += dict.fromkeys(new)
    for module in lock.module:
        if module.name not in required:
            reason = f"{module.name} {module.version} is locked, and nothing requires it"
            raise LockError("M410", path=path, reason=reason)
        # An extra that the release lacks requires nothing; resolving has warned of it.
        known = _groups(records[module.name]).keys() | requested.get(module.name, set())
        if unknown := sorted(set(module.extras) - known):
            reason = f"{module.name} {module.version} has no extra {unknown[0]!r}"
            raise LockError("M410", path=path, reason=reason)


def _groups(record: ReleaseRecord) -> dict[str, list[str]]:
    """Return a release's extras by their normal names."""
    return {str(module_name(extra)): texts for extra, texts in record.extras.items()}
