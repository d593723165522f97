"""Who may sign for a name: by the project's ``[trust]``, else whoever signed what is locked.

Trust on first use: the lock records who signed a module, and a version that takes its place has to
be signed by the same key, or by one that it has named as its successor. After signed releases there
is none without a signature. Whoever has named a successor signs nothing more but what it had signed
until then.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from modpkg.core.errors import MissingExtra, TrustError
from modpkg.core.names import listed
from modpkg.core.oidc_identity import PARTS, OidcIdentity
from modpkg.manifest.schema import TrustRule
from modpkg.trust.public_key import PublicKey
from modpkg.trust.rules import NOBODY
from modpkg.trust.signatures import Signers, is_signer, lasting_text
from modpkg.trust.statement import InTotoSubject
from modpkg.trust.successors import NamedSuccessor, Successions

_NONE = Successions()


class NewRelease(Struct, frozen=True, kw_only=True):
    """A release that is to be locked, and whose signatures count."""

    name: str
    version: str
    subject: InTotoSubject
    """It, as statements name it."""
    signers: Signers
    was: str | None = None
    """Who signed the release that is locked now: `NOBODY`, or None if none is."""
    was_version: str = ""
    was_locked: bool = True
    """Whether that is in the lock, and not only in what was installed before."""


def signer_of(
    release: NewRelease,
    rule: TrustRule | None,
    successions: Successions = _NONE,
    *,
    is_required: bool = False,
) -> str:
    """Return who a lock records as the signer of a release; `NOBODY` for none.

    Args:
        release: The release, and what was locked before.
        rule: The project's rule for its name.
        successions: Which signers of the module have named another one.
        is_required: Whether only signed releases are taken.

    Raises:
        TrustError: Somebody else has signed it, or nobody, or who signs no more.
        MissingExtra: Who has signed it cannot be verified here.
    """
    found, left = [], []
    for signer in release.signers.found:
        one = successions.disowned(signer, release.subject)
        if one is None:
            found.append(signer)
        else:
            left.append(one)
    if rule is not None:
        for wanted in rule.signers:
            if any(is_signer(wanted, one) for one in found):
                return wanted
        for one in left:
            if any(is_signer(wanted, one.signer) for wanted in rule.signers):
                raise _signs_no_more(release, one)
        _check_verifiable(release.signers)
        raise TrustError(
            "M543",
            name=release.name,
            version=release.version,
            wanted=listed(rule.signers),
            where=rule.where,
            found=who_signed(release.signers, rule.signers),
            remedy=_allowing(release),
        )
    if release.was:
        for signer in found:
            if (follower := _is_or_follows(release.was, signer, successions)) is not None:
                return follower
        for one in left:
            if not found or _is_or_follows(release.was, one.signer, successions) is not None:
                raise _signs_no_more(release, one)
        _check_verifiable(release.signers)
        raise TrustError("M544", name=release.name, change=_change(release, successions))
    if left:
        for one in left:
            for signer in found:
                if (successor := successions.follows(one.after, signer)) is not None:
                    return successor
        raise _signs_no_more(release, left[0])
    if found:
        lasting = [one for one in found if not successions.of(one)]
        return lasting_text((lasting or found)[0])
    if is_required:
        _check_verifiable(release.signers)
        raise TrustError(
            "M545", name=release.name, version=release.version, found=who_signed(release.signers)
        )
    return NOBODY


def _allowing(release: NewRelease) -> str:
    """Return what to do about a release that a rule keeps out; no entry is for nobody's."""
    if release.signers.found:
        return "if that is right, correct the entry of [trust]"
    return (
        "ask who publishes it for 'modpkg publish --sign', or take another version: require "
        f"{release.name}!={release.version}"
    )


def disowned(release: NewRelease, successions: Successions) -> TrustError | None:
    """Return why a locked release counts no more as signed by who the lock says (M571).

    It is None where that signer has not named another one, or stands by the release, or where who
    follows that signer has signed it too.

    Args:
        release: The locked release, and as ``was`` the lock's signer of it.
        successions: Which signers of the module have named another one.
    """
    found = None
    for signer in release.signers.found:
        if _is_or_follows(release.was or NOBODY, signer, successions) is None:
            continue
        left = successions.disowned(signer, release.subject)
        if left is None:
            return None
        found = found or left
    return None if found is None else _signs_no_more(release, found)


def may_sign(
    signer: PublicKey | OidcIdentity,
    was: str,
    rule: TrustRule | None,
    successions: Successions,
) -> bool:
    """Return whether somebody signs for a module now: nobody does who has named a successor.

    Args:
        signer: Who it is.
        was: Who has signed the release that is locked.
        rule: The project's rule for its name, which holds if there is one.
        successions: Which signers of the module have named another one.
    """
    if successions.of(signer):
        return False
    if rule is not None:
        return any(is_signer(wanted, signer) for wanted in rule.signers)
    return was != NOBODY and _is_or_follows(was, signer, successions) is not None


def _is_or_follows(
    was: str, signer: PublicKey | OidcIdentity, successions: Successions
) -> str | None:
    return was if is_signer(was, signer) else successions.follows(was, signer)


def _signs_no_more(release: NewRelease, one: NamedSuccessor) -> TrustError:
    signer = lasting_text(one.signer)
    change = (
        f"{release.name} {release.version} is signed by {signer}, which has named {one.after} as "
        "its successor, and this release is not among those that it had signed until then"
    )
    return TrustError("M571", name=release.name, version=release.version, change=change)


def _change(release: NewRelease, successions: Successions) -> str:
    how = "is locked" if release.was_locked else "was installed"
    was = release.was or NOBODY
    change = (
        f"{release.name} {release.was_version} {how} with the signer {was}, and {release.name} "
        f"{release.version} is signed by {who_signed(release.signers, [was])}"
    )
    if (rivals := successions.rivals(was)) is not None:
        named, several = rivals
        change += f"; {named} has named several successors, {listed(several, 3)}, so none counts"
    return change


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
    if count == 1:
        return f"nobody: the signature beside it does not count, since {reason}"
    return f"nobody: of {count} signatures beside it none counts, the first since {reason}"
