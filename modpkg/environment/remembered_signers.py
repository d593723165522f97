"""Signers in a lock against those that this machine remembers of the same releases.

What is locked is the same bytes either way. A lock that names nobody is from before the release was
signed, as far as anybody can tell: it holds, with a warning, and what is remembered is written into
it. One that names somebody else holds where the registry shows that both are the module's signers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct, structs

from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError
from modpkg.core.names import module_name
from modpkg.environment.generations import ModuleState
from modpkg.environment.logged import locked_line
from modpkg.manifest.schema import TrustRule
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.trust.rules import NOBODY, rule_of

RegistryOf = Callable[[str], Registry]


def signed_otherwise(
    lock: Lock,
    installed: Sequence[ModuleState],
    rules: Sequence[TrustRule] = (),
    accepted: Collection[str] = (),
) -> dict[str, str]:
    """Return who has signed locked releases, by module, where the lock names another or nobody.

    Each was installed here as signed by them. So the lock is from before it was signed, or from
    somebody who has met another of its signers; or it was edited since. A rule of the manifest
    decides by itself.

    Args:
        lock: A lock.
        installed: What the generations of the environment have, the newest first.
        rules: The project's.
        accepted: Modules whose signer is the lock's.
    """
    passed = {module_name(name) for name in accepted}
    known: dict[tuple[str, str], list[str]] = {}
    for state in installed:
        if state.signer != NOBODY:
            known.setdefault((state.name, state.release), []).append(state.signer)
    found = {}
    for module in lock.module:
        signers = known.get((module.name, module.release), [])
        if not signers or module.signer in signers or module.name in passed:
            continue
        rule = rule_of(rules, module.name)
        if rule is None or module.signer not in rule.signers:
            found[module.name] = signers[0]
    return found


def as_installed(lock: Lock, signers: Mapping[str, str]) -> tuple[Lock, list[str]]:
    """Return a lock with the signers that `signed_otherwise` returns, and a sentence for each."""
    modules, notes = [], []
    for module in lock.module:
        signer = signers.get(module.name)
        if signer is not None:
            notes.append(f"{other_signer(module, signer)}; the lock has that again")
            module = structs.replace(module, signer=signer)
        modules.append(module)
    return (structs.replace(lock, module=modules), notes) if notes else (lock, notes)


def other_signer(module: LockedModule, signer: str) -> str:
    """Return as a clause that a module was installed with another signer than it is locked with."""
    how = "without a signer" if module.signer == NOBODY else f"as signed by {module.signer}"
    return (
        f"{module.name} {module.version} is locked {how}, and was installed here as signed by "
        f"{signer}"
    )


class HeldSigners(Struct, frozen=True):
    """What becomes of the signers that `signed_otherwise` returns."""

    forgotten: Mapping[str, str]
    """Remembered signers of releases that the lock has without one, by module."""
    refused: Mapping[str, str]
    """Remembered signers of releases that the lock has with one who is not shown to be right."""
    notes: tuple[str, ...]
    """A sentence for each other one that could not be checked, or is not who signs now."""


def held_signers(
    lock: Lock,
    otherwise: Mapping[str, str],
    registry_of: RegistryOf,
    rules: Sequence[TrustRule] = (),
) -> HeldSigners:
    """Return which of a lock's signers hold where others are remembered.

    Only where the lock names another one, its registry is asked: who has signed this very release,
    and which signers follow each other. With ``--offline`` it holds, with a sentence.

    Args:
        lock: The lock.
        otherwise: What `signed_otherwise` returns of it.
        registry_of: Returns the registry of a module.
        rules: The project's. Where one is of a module, it decides alone who may sign that.
    """
    forgotten, refused, notes = {}, {}, list[str]()
    for module in lock.module:
        if (known := otherwise.get(module.name)) is None:
            continue
        if module.signer == NOBODY:
            forgotten[module.name] = known
            continue
        is_ruled = rule_of(rules, module.name) is not None
        note = None if is_ruled else _why_it_holds(module, known, registry_of)
        if note is None:
            refused[module.name] = known
        elif note:
            notes.append(note)
    return HeldSigners(forgotten, refused, tuple(notes))


def _why_it_holds(module: LockedModule, known: str, registry_of: RegistryOf) -> str | None:
    """Return what to say of a lock's signer who holds beside a remembered one; None if not.

    It is empty for one that follows the remembered one.
    """
    # Slow to import, and hardly ever needed.
    from modpkg.trust.signatures import is_signer, parse_signer, signers_of
    from modpkg.trust.statement import release_subject
    from modpkg.trust.successors import successions_of

    try:
        registry = registry_of(module.name)
        if registry.offline:
            return f"{other_signer(module, known)}; offline, nobody is asked which follows which"
        who = signers_of(registry, locked_line(module))
        successions = successions_of(registry, module.name)
        subject = release_subject(module.name, module.version, parse_digest(module.release))
        for signer in who.found:
            if is_signer(module.signer, signer) and not successions.disowned(signer, subject):
                if successions.follows(known, signer) is not None:
                    return ""
                if successions.follows(module.signer, parse_signer(known)) is not None:
                    return f"{other_signer(module, known)}, who follows that one"
    except ModpkgError:  # what cannot be read shows nothing
        return None
    return None
