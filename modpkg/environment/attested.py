"""What registries have now that vouches for locked modules: signatures, and entries of a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.errors import NotFound, RegistryUnreachable, TrustError
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import asked_at_once
from modpkg.resolve.lock import LockedModule
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.policy import NOBODY, missing_extra, who_signed
from modpkg.trust.signatures import is_signer, signers_of


class Attested(Struct, frozen=True):
    """What a registry has for a locked module."""

    signatures: list[str] | None = None
    """Whose signatures count; None if it was not asked."""
    logged: bool | None = None
    """Whether the release is in its log; None if it has none, or was not asked."""
    flaws: tuple[str, ...] = ()
    """How that differs from the lock."""


def attested(
    modules: Sequence[LockedModule],
    by_name: Mapping[str, Registry],
    warn: Callable[[str], None],
) -> dict[str, Attested]:
    """Return what the registries of locked modules have for them, by name.

    A model of a hub has nothing. Registries that are not to be asked are not, and for one that
    cannot be reached ``warn`` is called. What indexes say does not count.

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
        _add(registry, several, found, warn)
    return found


def _add(
    registry: Registry,
    modules: Sequence[LockedModule],
    found: dict[str, Attested],
    warn: Callable[[str], None],
) -> None:
    try:
        _ = registry.info  # else a registry that is gone has signed nothing
        found |= _signatures(registry, modules)
        _add_log(registry, modules, found)
    except (RegistryUnreachable, NotFound) as error:
        warn(f"what vouches for modules was not read again: {error}")
    except TrustError as error:
        for module in modules:
            flaws = (*found[module.name].flaws, str(error))
            found[module.name] = replace(found[module.name], flaws=flaws)


def _signatures(registry: Registry, modules: Sequence[LockedModule]) -> dict[str, Attested]:
    signers = asked_at_once(
        [partial(signers_of, registry, _line(module)) for module in modules],
        is_remote=registry.folder is None,
    )
    found = {}
    for module, who in zip(modules, signers, strict=True):
        flaws = []
        is_signed = any(is_signer(module.signer, one) for one in who.found)
        if module.signer != NOBODY and not is_signed:
            if (missing := missing_extra(who)) is not None:
                raise missing
            flaws.append(
                f"it is locked as signed by {module.signer}, and {registry.shown} has it as signed "
                f"by {who_signed(who, [module.signer])}"
            )
        found[module.name] = Attested([*map(str, who.found)], flaws=tuple(flaws))
    return found


def _add_log(
    registry: Registry, modules: Sequence[LockedModule], found: dict[str, Attested]
) -> None:
    """Add whether modules are in their registry's log; candidates are in none.

    Raises:
        TrustError: The log itself is not what it has to be.
    """
    memory = LogMemory(registry.url)
    left = {module.name: _line(module) for module in modules if not module.candidate}
    while left:
        try:
            check_logged(registry, [*left.values()], memory)
        except TrustError as error:
            name = str(error.values.get("name"))
            if error.code != "M554" or name not in left:
                raise
            flaws = (*found[name].flaws, str(error))
            found[name] = replace(found[name], logged=False, flaws=flaws)
            del left[name]
            continue
        for name in left if memory.read() is not None else ():
            found[name] = replace(found[name], logged=True)
        return


def _line(module: LockedModule) -> IndexLine:
    """Return what a registry's index has to have of a module, by the lock."""
    return IndexLine(
        name=module.name, version=module.version, kind=module.kind, release=module.release
    )
