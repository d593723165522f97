"""Whether a project may have a release that is named, and not locked: forked, merged, built upon.

It is held to what a lock is held to: who has to sign it, and that a version is what is locked or
was installed under it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from modpkg.core.digests import parse_digest
from modpkg.core.errors import LockError, TrustError
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.records import IndexLine
from modpkg.environment.generations import ModuleState
from modpkg.environment.signers import so_far, with_signers
from modpkg.environment.workspace import Workspace
from modpkg.registry.reader import Registry
from modpkg.registry.standing import is_succeeded
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import Lock, LockedModule, lock_of
from modpkg.resolve.resolve import Chosen, Resolution
from modpkg.trust.rules import NOBODY, rule_of


def check_named(workspace: Workspace, line: IndexLine, *, is_explicit: bool = False) -> str | None:
    """Check that a project may have a release that was named beside its lock.

    The project's manifest holds. Whoever signs the locked release, follows who does, or came before
    and stands by this one, may have signed it; so may nobody, if the version was named. What is
    locked or was installed passes wherever it is found. Nobody is asked for one that nobody has to
    have signed. A candidate is no release: who names one knows what it is. Outside any project, the
    user's own environment holds to nothing unless it was asked for.

    Args:
        workspace: The project's.
        line: The release.
        is_explicit: Whether its version was named, and not only its name.

    Returns:
        As a clause, who signs what is locked, if nobody has signed this one; else None.

    Raises:
        TrustError: Somebody else has signed it than has to have, or nobody; or it is another
            release than the one that is locked or was installed under its version.
        MissingExtra: Who has signed it cannot be verified here.
        LockError: The lock cannot be read.
        RegistryUnreachable, RegistryError: The registry cannot be read.
        InstallError: It has to be asked, and ``--offline`` forbids it.
    """
    registry = workspace.registries.of(line.name)
    if registry.stands_for or (workspace.project.is_user and not workspace.wants_user):
        return None
    accepted = {module_name(name) for name in workspace.options.accepted}
    refused = _refused(workspace, line, registry, workspace.lock, accepted)
    if _is_known(workspace, line):
        _check_required(workspace, line, registry)
        return None
    other = _other_release(workspace, line)
    if other is not None and line.name not in accepted:
        raise TrustError("M595", change=other, name=line.name)
    was = so_far(line.name, workspace.lock, workspace.environment.ever_installed())
    error = refused.get(line.name)
    if error is None:
        if was is None or was.signer == NOBODY:  # else a signature says more than a place
            _keep(workspace, line, registry, {}, accepted)
        return None
    change = str(error.values["change"])
    if error.code == "M544" and was is not None:
        from modpkg.trust.signatures import lasting_text, parse_signer, signers_of  # slow to import
        from modpkg.trust.statement import release_subject
        from modpkg.trust.successors import successions_by_index

        who, successions = signers_of(registry, line), successions_by_index(registry, line.name)
        subject = release_subject(line.name, line.version, parse_digest(line.release))
        is_before = any(
            successions.follows(lasting_text(one), parse_signer(was.signer)) is not None
            and successions.disowned(one, subject) is None
            for one in who.found
        )
        is_unsigned = not who.found and not who.refused and line.signed is not True
        if is_before or (is_unsigned and is_explicit):
            _check_required(workspace, line, registry)
            return None if is_before else change
    raise TrustError("M595", change=change, name=line.name)


def take_named(workspace: Workspace, line: IndexLine, *, is_explicit: bool) -> None:
    """Check as `check_named` does, and warn of a release that nobody has signed.

    Raises:
        What `check_named` raises.
    """
    if (change := check_named(workspace, line, is_explicit=is_explicit)) is not None:
        workspace.progress.warn(f"{change}; it is taken, since its version was named.")


def check_lockable(workspace: Workspace, line: IndexLine) -> None:
    """Check that a lock of the project would take a release, as far as trust goes.

    Raises:
        What `check_named` raises.
    """
    registry = workspace.registries.of(line.name)
    if not registry.stands_for:
        has_successor = line.signed is True and is_succeeded(registry.index(line.name))
        refused = _refused(workspace, line, registry, workspace.lock, (), asks=has_successor)
        _keep(workspace, line, registry, refused, ())


def _refused(
    workspace: Workspace,
    line: IndexLine,
    registry: Registry,
    lock: Lock | None,
    accepted: Collection[str],
    *,
    remembers: bool = True,
    asks: bool = False,
) -> dict[str, TrustError]:
    """Return why a release is not signed by who has signed the locked one; the manifest holds.

    Where nobody has to have signed it, its registry is asked who has only if ``asks`` says so.
    """
    manifest = workspace.manifest
    installed = workspace.environment.ever_installed() if remembers else []
    was = so_far(line.name, lock, installed)
    is_needed = asks or _is_needed(workspace, line)
    if not is_needed and (was is None or was.signer == NOBODY):
        return {}
    signed = with_signers(
        _alone(workspace, line, registry),
        lock,
        _resolution(line, registry),
        manifest,
        accepted=accepted,
        installed=installed,
    )
    return {**signed.refused}


def _is_needed(workspace: Workspace, line: IndexLine) -> bool:
    """Return whether the manifest says that somebody has to have signed a release."""
    manifest = workspace.manifest
    return manifest.resolution.require_signed or rule_of(manifest.trust, line.name) is not None


def _check_required(workspace: Workspace, line: IndexLine, registry: Registry) -> None:
    """Check that the manifest lets a release pass that the lock does not keep out."""
    was = so_far(line.name, workspace.lock, workspace.environment.ever_installed())
    if was is not None and was.release == line.release and was.signer != NOBODY:
        return  # it was checked with the lock
    if _is_needed(workspace, line):
        _refused(workspace, line, registry, None, (), remembers=False)


def _is_known(workspace: Workspace, line: IndexLine) -> bool:
    """Return whether a release is locked, or was installed here."""
    return any(one.release == line.release for one in _of_version(workspace, line))


def _other_release(workspace: Workspace, line: IndexLine) -> str | None:
    """Return that another release is locked, or was installed, under a release's version."""
    for one in _of_version(workspace, line):
        if isinstance(one, LockedModule) or not one.candidate:
            how = "is locked" if isinstance(one, LockedModule) else "was installed"
            return (
                f"{line.name} {line.version} is another release ({line.release[7:19]}…) than the "
                f"one that {how} ({one.release[7:19]}…)"
            )
    return None


def _of_version(workspace: Workspace, line: IndexLine) -> Iterator[LockedModule | ModuleState]:
    """Yield what is locked, and what was installed, under the name and version of a release."""
    found: list[LockedModule | ModuleState] = []
    found += workspace.lock.module if workspace.lock is not None else []
    found += workspace.environment.ever_installed()
    for one in found:
        if one.name == line.name and parse_version(one.version) == parse_version(line.version):
            yield one


def _keep(
    workspace: Workspace,
    line: IndexLine,
    registry: Registry,
    refused: Mapping[str, TrustError],
    accepted: Collection[str],
) -> None:
    registries, installed = workspace.registries, workspace.environment.ever_installed()
    promise = registries.promise(workspace.lock, installed, accepted)
    if not refused and promise.is_overridden(line.name):
        return  # its registry is the one that was asked for
    try:
        promise.keep(_alone(workspace, line, registry), {}, refused)
    except LockError as error:
        raise TrustError("M595", change=error.values["changes"], name=line.name) from None
    except TrustError as error:
        raise TrustError("M595", change=error.values["change"], name=line.name) from None


def _alone(workspace: Workspace, line: IndexLine, registry: Registry) -> Lock:
    """Return a lock of a release by itself."""
    lock, address = workspace.lock, workspace.registries.recorded
    requirements = [] if lock is None else lock.requirements
    return lock_of(requirements, _resolution(line, registry), address=address)


def _resolution(line: IndexLine, registry: Registry) -> Resolution:
    name, version = ModuleName(line.name), parse_version(line.version)
    release = Release(line=line, registry=registry, overrides={}, name=name, version=version)
    return Resolution({name: Chosen(release, ())}, ())
