"""Who may sign for a name: by the project's ``[trust]``, else whoever signed what is locked.

Trust on first use: the lock records who signed a module, and a version that takes its place has to
be signed by the same key, or by one that it has named as its successor. After signed releases there
is none without a signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

from modpkg.core.errors import MissingExtra, TrustError
from modpkg.core.names import listed
from modpkg.core.oidc_identity import PARTS, OidcIdentity
from modpkg.manifest.schema import TrustRule
from modpkg.trust.public_key import PublicKey
from modpkg.trust.signatures import Signers, is_signer, lasting_text

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
    follows: Callable[[str, PublicKey | OidcIdentity], str | None],
    *,
    is_required: bool = False,
) -> str:
    """Return who a lock records as the signer of a release; `NOBODY` for none.

    Args:
        release: The release, and what was locked before.
        rule: The project's rule for its name.
        follows: Returns the named successor of a signer that somebody is, or None.
        is_required: Whether only signed releases are taken.

    Raises:
        TrustError: Somebody else has signed it, or nobody.
        MissingExtra: Who has signed it cannot be verified here.
    """
    found = release.signers.found
    if rule is not None:
        for wanted in rule.signers:
            if any(is_signer(wanted, one) for one in found):
                return wanted
        _check_verifiable(release.signers)
        raise TrustError(
            "M543",
            name=release.name,
            version=release.version,
            wanted=listed(rule.signers),
            where=rule.where,
            found=who_signed(release.signers, rule.signers),
        )
    if release.was:
        for signer in found:
            if is_signer(release.was, signer):
                return release.was
            if (successor := follows(release.was, signer)) is not None:
                return successor
        _check_verifiable(release.signers)
        who = who_signed(release.signers, [release.was])
        how = "is locked" if release.was_locked else "was installed"
        change = (
            f"{release.name} {release.was_version} {how} with the signer {release.was}, and "
            f"{release.name} {release.version} is signed by {who}"
        )
        raise TrustError("M544", name=release.name, change=change)
    if found:
        return lasting_text(found[0])
    if is_required:
        _check_verifiable(release.signers)
        raise TrustError(
            "M545", name=release.name, version=release.version, found=who_signed(release.signers)
        )
    return NOBODY


def missing_extra(signers: Signers) -> MissingExtra | None:
    """Return why nobody is found to have signed, if that is a package that is not installed."""
    missing = (one for one in signers.refused if isinstance(one, MissingExtra))
    return None if signers.found else next(missing, None)


def _check_verifiable(signers: Signers) -> None:
    if (missing := missing_extra(signers)) is not None:
        raise missing


def who_signed(signers: Signers, wanted: Sequence[str] = ()) -> str:
    """Return who has signed a release, for a sentence that goes on after 'signed by'.

    Of an identity it has the parts that are recorded, and those that ``wanted`` signers name.
    """
    if signers.found:
        also = {part for part in PARTS for text in wanted if f" {part}=" in text}
        return listed(
            [
                str(one.lasting(also) if isinstance(one, OidcIdentity) else one)
                for one in signers.found
            ]
        )
    if not signers.refused:
        return "nobody"
    reason = str(signers.refused[0].values.get("reason", signers.refused[0].code))
    count = len(signers.refused)
    return f"nobody: of {count} signatures beside it none counts, the first since {reason}"
