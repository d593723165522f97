"""Who signed what a lock takes in: checked when a release is new in it, and recorded.

A release that stays was checked when it was locked, and its digest is in the lock: nothing is
asked for it, but where its index says that a signer has named another one. For others the registry
is asked where somebody has to have signed them (by ``[trust]``, ``require-signed`` or the lock so
far), or where their index line says that somebody has. A registry that hides this hides a signature
that nobody knows of yet, as it could anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError, TrustError
from modpkg.core.names import ModuleName, module_name
from modpkg.core.records import IndexLine
from modpkg.environment.generations import ModuleState
from modpkg.manifest.schema import Manifest
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import asked_at_once, signatures_path
from modpkg.registry.standing import is_succeeded
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.resolve import Resolution
from modpkg.trust.rules import NOBODY, rule_of

if TYPE_CHECKING:
    from modpkg.trust.signatures import Signers
    from modpkg.trust.successors import Successions


class SignedLock(Struct, frozen=True):
    """A lock with the signer of each release, and what of that is not as it was."""

    lock: Lock
    refused: Mapping[str, TrustError]
    """By module, why its release cannot take the place of the one so far (M544), or be locked at
    all, since its signer signs no more (M571)."""
    notes: tuple[str, ...]
    """A sentence for each that may, since it was accepted, for each release whose signatures count
    for nothing, or cannot be verified on this machine, and for each that its signer left out."""


def with_signers(
    lock: Lock,
    previous: Lock | None,
    resolution: Resolution,
    manifest: Manifest,
    *,
    accepted: Collection[str] = (),
    installed: Sequence[ModuleState] = (),
) -> SignedLock:
    """Return a lock with the signer of each release.

    Args:
        lock: The new lock.
        previous: The one so far.
        resolution: What the new one is made of.
        manifest: The project's, with its rules.
        accepted: Modules whose signer may be another one than so far.
        installed: What the generations of the environment have, the newest first. They remember
            the signer of what ``previous`` does not have: whoever owns a module that requires
            another could drop that one, and bring it back as something else.

    Raises:
        TrustError: A release is not signed by who has to have signed it.
        MissingExtra: That cannot be verified without a package that is not installed.
        RegistryUnreachable, RegistryError: A registry cannot be read.
        InstallError: A registry has to be asked, and ``--offline`` forbids it.
    """
    passed = {module_name(name) for name in accepted}
    signers: dict[str, str] = {}
    asked: list[tuple[LockedModule, Release, LockedModule | ModuleState | None]] = []
    stay: list[tuple[LockedModule, Registry]] = []
    for module in lock.module:
        was = so_far(module.name, previous, installed)
        rule = rule_of(manifest.trust, module.name)
        needed = manifest.resolution.require_signed or rule is not None
        release = resolution.modules[ModuleName(module.name)].release
        stays = was is not None and was.release == module.release
        if was is not None and stays:
            allowed = rule is None or was.signer in rule.signers
            is_new = was.signer == NOBODY and release.line.signed is True
            can_ask = is_new and not release.registry.offline
            if allowed and (was.signer or not needed) and not can_ask:
                signers[module.name] = was.signer
                if was.signer != NOBODY:
                    now = structs.replace(module, signer=was.signer)
                    stay.append((now, release.registry))
                continue
        trusted = was is not None and was.signer != NOBODY
        if needed or trusted or release.line.signed is True:
            asked.append((module, release, was))
    notes = _disowned(stay)
    if not asked:
        return SignedLock(_signed_by(signers, lock), {}, tuple(notes))
    # Slow to import, and most locks do without.
    from modpkg.trust.policy import NewRelease, signer_of
    from modpkg.trust.signatures import Signers, signers_of
    from modpkg.trust.statement import release_subject
    from modpkg.trust.successors import Successions, successions_by_index

    questions: list[Callable[[], Signers | Successions]] = []
    waits: list[bool] = []
    for module, release, _ in asked:
        registry, line = release.registry, release.line
        path, is_remote = signatures_path(parse_digest(line.release)), registry.folder is None
        questions.append(partial(signers_of, registry, line))
        waits.append(is_remote and registry.files.arrived(path) is None)
        questions.append(partial(successions_by_index, registry, module.name))
        waits.append(is_remote and is_succeeded(registry.index(module.name)))
    answers = asked_at_once(questions, is_remote=waits)
    found = [one for one in answers if isinstance(one, Signers)]
    successions = [one for one in answers if isinstance(one, Successions)]
    refused: dict[str, TrustError] = {}
    for (module, release, was), who, named in zip(asked, found, successions, strict=True):
        line = release.line
        new = NewRelease(
            name=module.name,
            version=module.version,
            subject=release_subject(line.name, line.version, parse_digest(line.release)),
            signers=who,
            was=None if was is None else was.signer,
            was_version="" if was is None else was.version,
            was_locked=isinstance(was, LockedModule),
        )
        decide = partial(
            signer_of,
            rule=rule_of(manifest.trust, module.name),
            is_required=manifest.resolution.require_signed,
        )
        try:
            signers[module.name] = decide(new, successions=named)
        except TrustError as error:
            if error.code not in ("M544", "M571"):
                raise
            if was is not None and was.release == module.release and was.signer == NOBODY:
                notes.append(f"{error.values['change']}; it stays as it is locked")
                continue
            if module.name not in passed:
                refused[module.name] = error
                continue
            signers[module.name] = decide(structs.replace(new, was=None))
            notes.append(f"{error.values['change']}, which was accepted")
        if not line.signed and was is not None and was.release == module.release:
            continue  # it was said when it was locked
        if signers[module.name] == NOBODY and (why := _unsigned(who, line)) is not None:
            notes.append(f"{module.name} {module.version} is locked without a signer: {why}")
    return SignedLock(_signed_by(signers, lock), refused, tuple(notes))


def _signed_by(signers: Mapping[str, str], lock: Lock) -> Lock:
    """Return a lock with the signers of its modules, by name."""
    modules = [
        module
        if module.signer == (signer := signers.get(module.name, NOBODY))
        else structs.replace(module, signer=signer)
        for module in lock.module
    ]
    return structs.replace(lock, module=modules)


def _disowned(modules: Iterable[tuple[LockedModule, Registry]]) -> list[str]:
    """Return a sentence for each module that stays, and whose signer does not stand by it.

    A registry that cannot answer says nothing of it; `modpkg verify` asks all of them.
    """
    left = [
        (registry, module)
        for module, registry in modules
        if not registry.offline and is_succeeded(registry.index(module.name))
    ]
    if not left:
        return []
    from modpkg.environment.attested import disowned_now

    def sentence(registry: Registry, module: LockedModule) -> str | None:
        try:
            error = disowned_now(registry, module)
        except TrustError as missing:  # a successor that the index promises
            return str(missing)
        except ModpkgError:
            return None
        return None if error is None else f"{error.values['change']}; it stays as it is locked"

    said = asked_at_once(
        [partial(sentence, *one) for one in left],
        is_remote=any(registry.folder is None for registry, _ in left),
    )
    return [one for one in said if one is not None]


def _unsigned(who: Signers, line: IndexLine) -> str | None:
    """Return why nobody counts as the signer of a release that somebody seems to have signed."""
    from modpkg.trust.policy import missing_extra, who_signed

    if (missing := missing_extra(who)) is not None:
        return str(missing)
    if who.refused:
        return who_signed(who).removeprefix("nobody: ")
    return "its index line says that it is signed, and nothing is" if line.signed is True else None


def unsigned_releases(
    lock: Lock,
    by_name: Mapping[str, Registry],
    wanted: Callable[[str], bool],
    known: Collection[str] = (),
) -> list[str]:
    """Return a warning for each release, of a wanted name, that is signed, and not in the lock.

    Index files say so that are read anyway, and those in folders; `lock` asks by whom. Of names
    that are known, something else is said.
    """
    warnings = []
    for module in lock.module:
        registry = by_name.get(module.name)
        if module.signer != NOBODY or registry is None or registry.stands_for:
            continue
        if (
            module.name in known
            or module.candidate
            or (registry.folder is None and not wanted(module.name))
        ):
            continue
        with suppress(ModpkgError):  # `yanked_releases` tells what is wrong
            line = registry.line(module.name, module.version)
            if line.signed is True and line.release == module.release:
                warnings.append(
                    f"{module.name} {module.version} is locked without a signer, and its registry "
                    "says that it is signed; 'modpkg lock' writes down by whom, or says why that "
                    "does not count"
                )
    return warnings


def with_remembered(lock: Lock | None, installed: Sequence[ModuleState]) -> Lock:
    """Return a lock with what it has no more of the signed modules that were installed.

    Whoever owns a module that requires another could drop that one, and bring back an older one.
    """
    lock = Lock(requirements=[]) if lock is None else lock
    newest: dict[str, ModuleState] = {}
    for state in installed:
        newest.setdefault(state.name, state)
    more = [
        LockedModule(
            name=state.name,
            version=state.version,
            kind=state.kind,
            registry=state.registry,
            release=state.release,
            signer=state.signer,
        )
        for state in newest.values()
        if state.signer != NOBODY and not state.candidate and lock.find(state.name) is None
    ]
    return structs.replace(lock, module=[*lock.module, *more]) if more else lock


def so_far(
    name: str, previous: Lock | None, installed: Sequence[ModuleState]
) -> LockedModule | ModuleState | None:
    """Return what is known of a module: what is locked, else what was installed and is signed."""
    locked = previous.find(name) if previous is not None else None
    if locked is not None and locked.signer != NOBODY:
        return locked
    if locked is not None:  # the lock may have been edited
        same = (one for one in installed if (one.name, one.release) == (name, locked.release))
        return next((one for one in same if one.signer != NOBODY), locked)
    state = next((state for state in installed if state.name == name), None)
    return state if state is not None and state.signer != NOBODY else None
