"""Who may sign for a name: by the project's ``[trust]``, else whoever signed what is locked.

Trust on first use: the lock records who signed a module, and a version that takes its place has to
be signed by the same key, or by one that it has named as its successor. After signed releases there
is none without a signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from modpkg.core.errors import TrustError
from modpkg.core.names import listed
from modpkg.manifest.schema import TrustRule
from modpkg.trust.signatures import Signers

NOBODY = ""


class NewRelease(Struct, frozen=True, kw_only=True):
    """A release that is to be locked, and whose signatures count."""

    name: str
    version: str
    signers: Signers
    was: str | None = None
    """Who signed the release that is locked now: `NOBODY`, or None if none is."""
    was_version: str = ""
    was_locked: bool = True
    """Whether that is in the lock, and not only in what was installed before."""


def rule_of(rules: Sequence[TrustRule], name: str) -> TrustRule | None:
    """Return the first rule whose pattern a name fits."""
    return next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None)


def signer_of(
    release: NewRelease,
    rule: TrustRule | None,
    follows: Callable[[str, str], bool],
    *,
    is_required: bool = False,
) -> str:
    """Return who a lock records as the signer of a release; `NOBODY` for none.

    Args:
        release: The release, and what was locked before.
        rule: The project's rule for its name.
        follows: Returns whether a key was named the successor of another, both as texts.
        is_required: Whether only signed releases are taken.

    Raises:
        TrustError: Somebody else has signed it, or nobody.
    """
    found = [str(key) for key in release.signers.keys]
    if rule is not None:
        for signer in found:
            if signer in rule.signers:
                return signer
        raise TrustError(
            "M543",
            name=release.name,
            version=release.version,
            wanted=listed(rule.signers),
            where=rule.where,
            found=who_signed(release.signers),
        )
    if release.was:
        for signer in found:
            if signer == release.was or follows(release.was, signer):
                return signer
        how = "is locked" if release.was_locked else "was installed"
        change = (
            f"{release.name} {release.was_version} {how} with the signer {release.was}, and "
            f"{release.name} {release.version} is signed by {who_signed(release.signers)}"
        )
        raise TrustError("M544", name=release.name, change=change)
    if found:
        return found[0]
    if is_required:
        raise TrustError(
            "M545", name=release.name, version=release.version, found=who_signed(release.signers)
        )
    return NOBODY


def who_signed(signers: Signers) -> str:
    """Return who has signed a release, for a sentence that goes on after 'signed by'."""
    if signers.keys:
        return listed([str(key) for key in signers.keys])
    if not signers.refused:
        return "nobody"
    reason = str(signers.refused[0].values.get("reason", signers.refused[0].code))
    count = len(signers.refused)
    return f"nobody: of {count} signatures beside it none counts, the first since {reason}"
