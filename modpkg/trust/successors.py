"""Which signers of a module have named another one, and which releases they stand by since.

Who has named a successor signs no more: whoever has taken its key could go on. What it had signed
until then is named in the statement itself, so that nobody's clock decides it; a release that it
does not name counts as signed by whoever else has signed it. A key that is stolen can sign as many
statements as its thief likes, so what all of them name is what counts, and of two successors none.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from msgspec import Struct
from packaging.specifiers import SpecifierSet

from modpkg.core import bounds
from modpkg.core.decoding import check_reason
from modpkg.core.digests import parse_digest
from modpkg.core.errors import MissingExtra, ModpkgError, PublishError, TrustError
from modpkg.core.names import listed, parse_version
from modpkg.core.oidc_identity import OidcIdentity
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.select import usable_releases
from modpkg.registry.signature_files import asked_at_once, successors_path
from modpkg.registry.standing import is_succeeded, without_removed
from modpkg.trust.bundle import Signed, Signer, StatementSigner, sign_statement
from modpkg.trust.public_key import PublicKey
from modpkg.trust.signatures import (
    Signers,
    bundles_at,
    is_signer,
    lasting_text,
    signed_yanks,
    signers_of,
)
from modpkg.trust.statement import (
    InTotoSubject,
    keys_of_module,
    release_subject,
    releases_in,
    successor_in,
    yank_statement,
)

_STEPS = 32
"""How many signers may follow one another."""


class NamedSuccessor(Struct, frozen=True):
    """What a signer has said of the one after it, for one module."""

    signer: PublicKey | OidcIdentity
    after: str
    releases: tuple[InTotoSubject, ...] = ()
    """What it had signed until then, and stands by."""


class Successions(Struct, frozen=True):
    """What signers have said of the ones after them."""

    named: tuple[NamedSuccessor, ...] = ()

    def disowned(
        self, signer: PublicKey | OidcIdentity, release: InTotoSubject
    ) -> NamedSuccessor | None:
        """Return a statement by which a signer stands by other releases only than by this one."""
        return next((one for one in self.of(signer) if release not in one.releases), None)

    def of(self, signer: PublicKey | OidcIdentity) -> list[NamedSuccessor]:
        """Return what a signer has said of the one after it."""
        return [one for one in self.named if lasting_text(one.signer) == lasting_text(signer)]

    def follows(self, old: str, new: PublicKey | OidcIdentity) -> str | None:
        """Return the signer that one, or one that follows it, has named as its successor.

        It is None if it is another one than ``new``. Each follows itself.
        """
        reached = self._reached(old)
        return next((one for one in sorted(reached) if _is_named(one, new)), None)

    def continue_one_of(self, signers: Signers, new: PublicKey | OidcIdentity) -> bool:
        """Return whether somebody is one of some signers, or follows one of them."""
        return any(self.follows(lasting_text(one), new) is not None for one in signers.found)

    def rivals(self, old: str) -> tuple[str, list[str]] | None:
        """Return who of a signer and those that follow it has named several, and these."""
        after, reached = self._after(), self._reached(old)
        for one in self.named:
            rivals = after[lasting_text(one.signer)]
            if len(rivals) > 1 and any(_is_named(text, one.signer) for text in reached):
                return lasting_text(one.signer), sorted(rivals)
        return None

    def _after(self) -> dict[str, set[str]]:
        """Return whom each signer has named."""
        after: dict[str, set[str]] = {}
        for one in self.named:
            after.setdefault(lasting_text(one.signer), set()).add(one.after)
        return after

    def _reached(self, old: str) -> set[str]:
        after = self._after()
        known = [one for one in self.named if len(after[lasting_text(one.signer)]) == 1]
        reached, new = {old}, {old}
        for _ in range(_STEPS):
            new = {
                one.after for one in known if any(_is_named(text, one.signer) for text in new)
            } - reached
            reached |= new
        return reached


def successions_of(registry: Registry, name: str) -> Successions:
    """Return what the signers of a module have said of the ones after them.

    What is malformed, or of another module, is passed over.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    return successions_in(bundles_at(registry, successors_path(name)), keys_of_module(name))


def successions_by_index(registry: Registry, name: str) -> Successions:
    """Return what `successions_of` does, if the module's index says that there is anything.

    Raises:
        TrustError: It says so, and there is nothing.
        MissingExtra: What there is cannot be verified here.
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    if not is_succeeded(registry.index(name)):
        return Successions()
    bundles = [*bundles_at(registry, successors_path(name))]
    found = successions_in(bundles, keys_of_module(name))
    if found.named:
        return found
    for one in bundles:
        if isinstance(one, MissingExtra):
            raise one
    raise TrustError("M574", name=name, registry=registry.url)


def check_may_publish(
    registry: Registry, line: IndexLine, signer: PublicKey | OidcIdentity | None
) -> str | None:
    """Check that somebody who signs a release of a module still does; None is nobody.

    Returns:
        Who refuses the release, as a sentence: whoever has another one locked, if its signer is
        neither that one nor has named that one. None if nobody does.

    Raises:
        TrustError: That signer has named a successor.
        What `successions_by_index` raises.
    """
    successions, text = Successions(), ""
    if signer is not None:
        successions, text = successions_by_index(registry, line.name), lasting_text(signer)
        for one in successions.of(signer):
            raise TrustError("M575", name=line.name, signer=text, after=one.after)
    lines = [one for one in without_removed(registry.index(line.name)) if one.signed is True]
    if not lines or any(one.release == line.release for one in lines):
        return None  # one more signature takes none away
    newest = max(lines, key=lambda one: parse_version(one.version))
    who = signers_of(registry, newest)
    found = listed([*map(lasting_text, who.found)])
    if signer is None:
        if not found and not any(isinstance(one, MissingExtra) for one in who.refused):
            return None
        by = f" by {found}" if found else ""
        return (
            f"{newest.name} {newest.version} is signed{by}, and {line.version} by nobody: who has "
            "a signed one locked is refused it; sign it too ('modpkg publish --sign KEY', which "
            "also signs what is published)"
        )
    if not found or successions.continue_one_of(who, signer):
        return None
    return (
        f"{newest.name} {newest.version} is signed by {found}, and nobody has named {text} as the "
        f"next one ('modpkg key succeed {line.name}'): who has it locked has to accept that "
        "signer, unless '[trust]' names it"
    )


def successions_in(bundles: Iterable[Signed | ModpkgError], subject: str) -> Successions:
    """Return what bundles say of the ones who sign a subject after others."""
    return Successions(
        tuple(
            NamedSuccessor(found.signer, after, tuple(releases_in(found.statement)))
            for found in bundles
            if isinstance(found, Signed)
            and (after := successor_in(found.statement, subject)) is not None
        )
    )


def signed_releases(registry: Registry, name: str) -> list[tuple[IndexLine, Signers]]:
    """Return the signed releases of a module, the newest first, and who has signed each.

    What was removed is not among them.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    lines = [one for one in without_removed(registry.index(name)) if one.signed is True]
    lines.sort(key=lambda one: parse_version(one.version), reverse=True)
    signers = asked_at_once(
        [partial(signers_of, registry, line) for line in lines],
        is_remote=registry.folder is None,
    )
    return [*zip(lines, signers, strict=True)]


def signed_so_far(registry: Registry, name: str, signer: str) -> list[InTotoSubject]:
    """Return the releases of a module that somebody has signed, the newest first.

    What was removed is not among them.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    return [
        release_subject(line.name, line.version, parse_digest(line.release))
        for line, who in signed_releases(registry, name)
        if any(is_signer(signer, one) for one in who.found)
    ]


def sign_yank(
    registry: Registry, line: IndexLine, reason: str | None, signer: Signer | StatementSigner
) -> bytes:
    """Return the bundle of a statement that a release is yanked, or with None that it is not.

    Its number is above those of all who sign for the module. What others have said counts for no
    reader, so that nobody else can use up the numbers.

    Raises:
        InvalidValue: Readers would not take the reason as it is.
        TrustError: The signer cannot sign now.
        PublishError: Somebody has used the last number.
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    check_reason(reason or "")
    number = 1
    if said := signed_yanks(registry, line):
        successions = successions_of(registry, line.name)
        releases = signed_releases(registry, line.name)
        for one in said:
            is_of_module = any(successions.continue_one_of(who, one.signer) for _, who in releases)
            if is_of_module and not successions.of(one.signer):
                number = max(number, one.said.number + 1)
                if number > bounds.SIGNATURES:
                    raise PublishError(
                        "M577",
                        release=f"{line.name} {line.version}",
                        signer=lasting_text(one.signer),
                        most=bounds.SIGNATURES,
                    )
    release = parse_digest(line.release)
    return sign_statement(yank_statement(line.name, line.version, release, reason, number), signer)


def check_may_yank(
    registry: Registry, line: IndexLine, signer: PublicKey | OidcIdentity
) -> str | None:
    """Check that it means something to anybody that somebody signs a yank of a release.

    Returns:
        To whom alone, as a sentence; None if it does to all who hold to the release's signer.

    Raises:
        TrustError: To nobody: the signer has named another one, or has signed none of the module's
            releases, and follows nobody who has.
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    successions = successions_of(registry, line.name)
    text = lasting_text(signer)
    for one in successions.of(signer):
        raise TrustError("M575", name=line.name, signer=text, after=one.after)
    own = signers_of(registry, line)
    if successions.continue_one_of(own, signer):
        return None
    release, found = f"{line.name} {line.version}", listed([*map(lasting_text, own.found)])
    others = signed_releases(registry, line.name) if found else []
    if any(successions.continue_one_of(who, signer) for _, who in others):
        return f"{release} is signed by {found}: this counts only where [trust] names {text}"
    remedy = "sign with that key, or" if found else "then"
    raise TrustError("M578", release=release, signer=text, found=found or "nobody", remedy=remedy)


def release_before(
    registry: Registry, line: IndexLine, signer: PublicKey | OidcIdentity
) -> IndexLine | None:
    """Return the release that takes the place of one that somebody yanks, and has to sign for that.

    It is the newest earlier one of a signer before, who stands by it: whoever has the yanked one
    locked holds to who signs now. It is None where the signer of the yank has signed it already.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    successions = successions_of(registry, line.name)
    below = SpecifierSet(f"<{line.version}")
    for earlier in usable_releases(registry.index(line.name), below):
        who = signers_of(registry, earlier)
        if any(is_signer(lasting_text(one), signer) for one in who.found):
            return None
        subject = release_subject(earlier.name, earlier.version, parse_digest(earlier.release))
        stand = [one for one in who.found if successions.disowned(one, subject) is None]
        if successions.continue_one_of(Signers(tuple(stand)), signer):
            return earlier
    return None


def check_may_name(
    successions: Successions,
    name: str,
    old: PublicKey | OidcIdentity,
    new: PublicKey | OidcIdentity,
) -> None:
    """Check that a signer of a module may name another one as its successor.

    Raises:
        TrustError: It has named one already, or the other one signs no more itself.
    """
    reason = None
    if lasting_text(old) == lasting_text(new):
        reason = "they are one"
    elif named := successions.of(old):
        reason = f"it has named {named[0].after} already, which can name the next one"
    elif named := successions.of(new):
        reason = f"that has named {named[0].after} as its own, and signs no more"
    if reason is not None:
        raise TrustError("M572", name=name, old=lasting_text(old), new=new, reason=reason)


def _is_named(text: str, signer: PublicKey | OidcIdentity) -> bool:
    try:
        return is_signer(text, signer)
    except TrustError:  # a key can sign that anything is its successor
        return False
