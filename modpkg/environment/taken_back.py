"""What a registry takes back of a signed module: a yank that its signer has not signed, for one.

A registry decides what its index says, but not what those have locked who hold to a signer: that an
update goes back to an older release is for the signer to say, or for the user.
"""

from __future__ import annotations

from collections.abc import Callable

from modpkg.core.errors import IntegrityError, NotFound, RecordError
from modpkg.core.names import listed
from modpkg.core.records import IndexLine
from modpkg.manifest.schema import TrustRule
from modpkg.registry.reader import Registry
from modpkg.registry.standing import NO_REASON, removal
from modpkg.resolve.catalog import Release
from modpkg.resolve.lock import LockedModule
from modpkg.trust.rules import NOBODY


def taken_back(
    was: LockedModule,
    release: Release,
    rule: TrustRule | None,
    refusal: Callable[[Release], str | None],
) -> str | None:
    """Return why a locked release is not chosen any more, where its registry alone says so.

    It is None where nobody has to have signed the module, or its signer says so too.

    Args:
        was: The locked module.
        release: The same release, as its registry has it now.
        rule: The project's rule for its name.
        refusal: Returns why a release may not be chosen, although the manifest asks for it.

    Raises:
        RegistryUnreachable, RegistryError: What is signed cannot be read.
    """
    if was.signer == NOBODY and rule is None:
        return None
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
