"""What a registry takes back of a signed module: a yank that its signer has not signed, for one.

A registry decides what its index says, but not what those have locked who hold to a signer: that an
update goes back to an older release is for the signer to say, or for the user. Nor does a module
that the registry can make itself, by what it requires.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from modpkg.core.errors import IntegrityError, ModpkgError, NotFound, RecordError
from modpkg.core.names import listed
from modpkg.core.records import IndexLine
from modpkg.manifest.schema import TrustRule
from modpkg.registry.reader import Registry
from modpkg.registry.standing import NO_REASON, removal
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.trust.rules import NOBODY, rule_of


def taken_back(
    was: LockedModule,
    release: Release,
    rule: TrustRule | None,
    refusal: Callable[[Release], str | None],
) -> str | None:
    """Return why a locked release is not chosen any more, where its registry alone says so.

    It is None where its signer says so too.

    Args:
        was: The locked module, which `is_held`.
        release: The same release, as its registry has it now.
        rule: The project's rule for its name.
        refusal: Returns why a release may not be chosen, although the manifest asks for it.

    Raises:
        RegistryUnreachable, RegistryError: What is signed cannot be read.
    """
    registry, line = release.registry, release.line
    if (gone := removal(line)) is not None:
        return f"it {gone}"
    if line.yanked is not None:
        if is_yank_signed(registry, line, was.signer, rule):
            return None
        who = was.signer or listed(() if rule is None else rule.signers)
        return f"it was yanked: {line.yanked or NO_REASON}, which {who} has not signed"
    try:
        registry.record(line)
    except (IntegrityError, NotFound, RecordError) as error:
        return f"its registry has another index line than record of it ({error.code})"
    reason = refusal(release)
    return None if reason is None else f"it {reason}"


def is_held(was: LockedModule | None, rule: TrustRule | None) -> bool:
    """Return whether somebody has to sign what takes the place of a module.

    Args:
        was: The locked module; None if none is.
        rule: The project's rule for its name.
    """
    return rule is not None or (was is not None and was.signer != NOBODY)


def heeded(before: Lock, after: Lock, rules: Sequence[TrustRule]) -> Callable[[Release], bool]:
    """Return what tells whether a release's requirements may take a signed module back.

    A registry could make up those of a module of its own. Those count of releases that were locked
    already, of names whose signer is held to, and of what is signed by somebody who has signed
    something that was locked.

    Args:
        before: The project's lock so far.
        after: The new one, with signers.
        rules: The project's.
    """
    were = {module.name: module for module in before.module}
    trusted = {module.signer for module in before.module} - {NOBODY}
    signers = {module.name: module.signer for module in after.module}

    def heeds(release: Release) -> bool:
        was = were.get(release.name)
        if was is not None and was.release == release.line.release:
            return True
        return is_held(was, rule_of(rules, release.name)) or signers.get(release.name) in trusted

    return heeds


def yank_signed(
    was: LockedModule, registry: Registry, line: IndexLine, rule: TrustRule | None
) -> bool | None:
    """Return whether who signs for a locked module has signed its yank.

    It is None where it is not yanked, where nobody has to sign for it, and where what is signed
    cannot be read.

    Args:
        was: The locked module.
        registry: The registry that has it.
        line: Its index line.
        rule: The project's rule for its name.
    """
    if line.yanked is None or not is_held(was, rule):
        return None
    with suppress(ModpkgError):
        return is_yank_signed(registry, line, was.signer, rule)
    return None


def is_yank_signed(
    registry: Registry, line: IndexLine, signer: str, rule: TrustRule | None
) -> bool:
    """Return whether who signs for a module has said that a release is yanked, and nothing since.

    Args:
        registry: The registry that has it.
        line: Its index line.
        signer: Who has signed what is locked.
        rule: The project's rule for its name.

    Raises:
        RegistryUnreachable, RegistryError: What is signed cannot be read.
    """
    # Slow to import, and most locks do without.
    from modpkg.trust.policy import may_sign
    from modpkg.trust.signatures import signed_yanks
    from modpkg.trust.successors import successions_of

    successions = successions_of(registry, line.name)
    said = [
        one.said
        for one in signed_yanks(registry, line)
        if may_sign(one.signer, signer, rule, successions)
    ]
    return bool(said) and said[-1].yanked is not None
