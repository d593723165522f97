"""What registries have now that vouches for locked modules: signatures, and entries of a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError, NotFound, RegistryUnreachable, TrustError
from modpkg.environment.logged import LockedLog, locked_line
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import asked_at_once
from modpkg.resolve.lock import LockedModule
from modpkg.trust.log.checking import check_logged, earlier_states
from modpkg.trust.log.memory import LogMemory, LogState
from modpkg.trust.policy import NewRelease, disowned, missing_extra, who_signed
from modpkg.trust.rules import NOBODY
from modpkg.trust.signatures import Signers, is_signer, signers_of
from modpkg.trust.statement import release_subject
from modpkg.trust.successors import Successions, successions_by_index, successions_of


class Attested(Struct, frozen=True):
    """What a registry has for a locked module."""

    signatures: list[str] | None = None
    """Whose signatures count; None if it was not asked."""
    logged: bool | None = None
    """Whether the release is in its log; None if it has none, or was not asked."""
    flaws: tuple[str | TrustError, ...] = ()
    """How that differs from the lock."""


def attested(
    modules: Sequence[LockedModule],
    by_name: Mapping[str, Registry],
    locked: LockedLog,
    warn: Callable[[str], None],
    *,
    offline: bool = False,
) -> dict[str, Attested]:
    """Return what the registries of locked modules have for them, by name.

    A model of a hub has nothing. Registries that are not to be asked are not. For one that cannot
    be reached ``warn`` is called, unless it is known to have a log: who hides that has a reason.
    What indexes say does not count, but for that there are successors, which nobody may hide then.

    Args:
        modules: The modules.
        by_name: The registry of each.
        locked: What the lock has seen of logs.
        warn: Is called with a sentence.
        offline: Whether none has to be reached, a folder included.

    Raises:
        RegistryError: What a registry has is too large.
        MissingExtra: What signatures need to be verified is not installed.
    """
    own: dict[Registry, list[LockedModule]] = {}
    for module in modules:
        if not module.listing and not by_name[module.name].offline:
            own.setdefault(by_name[module.name], []).append(module)
    found = {module.name: Attested() for module in modules}
    for registry, several in own.items():
        flaw = _add(registry, several, found, locked(registry))
        if isinstance(flaw, TrustError) and (flaw.code != "M542" or not offline):
            for module in several:
                flaws = (*found[module.name].flaws, flaw)
                found[module.name] = replace(found[module.name], flaws=flaws)
        elif flaw is not None:
            reason = flaw.values["reason"] if flaw.code == "M542" else flaw
            warn(f"what vouches for modules was not read again: {reason}")
    return found


def disowned_now(registry: Registry, module: LockedModule) -> TrustError | None:
    """Return why the signature that a module was locked with counts no more (M571), if so.

    Raises:
        TrustError: The index says that a signer has named another one, and there is nothing.
        MissingExtra: What there is cannot be verified here.
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    signers = signers_of(registry, locked_line(module))
    return _disowned(module, signers, successions_by_index(registry, module.name))


def _add(
    registry: Registry,
    modules: Sequence[LockedModule],
    found: dict[str, Attested],
    locked: LogState | None,
) -> ModpkgError | None:
    """Add what a registry has; return why that is not all."""
    try:
        _ = registry.info  # else a registry that is gone has signed nothing
        found |= _signatures(registry, modules)
        _add_log(registry, modules, found, locked)
    except TrustError as error:
        return error
    except (RegistryUnreachable, NotFound) as error:
        memory = LogMemory(registry.source.url)
        for where in earlier_states(memory.read(), memory, locked):
            reason = str(error.values.get("reason", error)).rstrip(".")
            return TrustError("M542", registry=registry.url, where=where, reason=reason)
        return error
    return None


def _signatures(registry: Registry, modules: Sequence[LockedModule]) -> dict[str, Attested]:
    answers = asked_at_once(
        [partial(_signed, registry, module) for module in modules],
        is_remote=registry.folder is None,
    )
    found = {}
    for module, (who, successions) in zip(modules, answers, strict=True):
        flaws: list[str | TrustError] = []
        is_signed = any(is_signer(module.signer, one) for one in who.found)
        if module.signer != NOBODY and not is_signed:
            if (missing := missing_extra(who)) is not None:
                raise missing
            flaws.append(
                f"it is locked as signed by {module.signer}, and {registry.shown} has it as signed "
                f"by {who_signed(who, [module.signer])}"
            )
        elif isinstance(successions, TrustError):
            flaws.append(successions)
        elif (error := _disowned(module, who, successions)) is not None:
            flaws.append(error)
        found[module.name] = Attested([*map(str, who.found)], flaws=tuple(flaws))
    return found


def _signed(registry: Registry, module: LockedModule) -> tuple[Signers, Successions | TrustError]:
    """Return who has signed a module, and which signers have named others if it is signed.

    In the place of these it is what is wrong, where the index says that there are some, and there
    are none.
    """
    signers = signers_of(registry, locked_line(module))
    if module.signer == NOBODY:
        return signers, Successions()
    found = successions_of(registry, module.name)
    if found.named:
        return signers, found
    try:
        return signers, successions_by_index(registry, module.name)
    except TrustError as error:
        return signers, error


def _disowned(
    module: LockedModule, signers: Signers, successions: Successions
) -> TrustError | None:
    release = NewRelease(
        name=module.name,
        version=module.version,
        subject=release_subject(module.name, module.version, parse_digest(module.release)),
        signers=signers,
        was=module.signer,
    )
    return disowned(release, successions)


def _add_log(
    registry: Registry,
    modules: Sequence[LockedModule],
    found: dict[str, Attested],
    locked: LogState | None,
) -> None:
    """Add whether modules are in their registry's log; candidates are in none.

    Raises:
        TrustError: The log itself is not what it has to be.
    """
    memory = LogMemory(registry.source.url)
    left = {module.name: locked_line(module) for module in modules if not module.candidate}
    while left:
        try:
            state = check_logged(registry, [*left.values()], memory, locked)
        except TrustError as error:
            name = str(error.values.get("name"))
            if error.code != "M554" or name not in left:
                raise
            flaws = (*found[name].flaws, error)
            found[name] = replace(found[name], logged=False, flaws=flaws)
            del left[name]
            continue
        for name in left if state is not None else ():
            found[name] = replace(found[name], logged=True)
        return
