"""Who has signed a release, as far as the registry's files show: no signature counts unverified."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from modpkg.core.digests import parse_digest
from modpkg.core.errors import MissingExtra, ModpkgError, TrustError
from modpkg.core.oidc_identity import SCHEME as OIDC_SCHEME
from modpkg.core.oidc_identity import OidcIdentity, parse_identity
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import bundles_in, most_of, signatures_path
from modpkg.registry.source import FileMissing
from modpkg.trust.bundle import Signed, verify_bundle
from modpkg.trust.public_key import PublicKey, parse_key
from modpkg.trust.statement import YANK, SaidYank, is_about, yank_in


class Signers(Struct, frozen=True):
    """Who has signed a release."""

    found: tuple[PublicKey | OidcIdentity, ...] = ()
    refused: tuple[ModpkgError, ...] = ()
    """Why other bundles beside the release count for nothing."""


def signers_of(registry: Registry, line: IndexLine) -> Signers:
    """Return whose valid signatures a release has.

    A signature of another release, of another name's equal bytes, or that is malformed is none.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    release = parse_digest(line.release)
    signers: dict[str, PublicKey | OidcIdentity] = {}
    refused = []
    for found in bundles_at(registry, signatures_path(release)):
        if not isinstance(found, Signed):
            refused.append(found)
        elif is_about(found.statement, line.name, line.version, release):
            signers.setdefault(str(found.signer), found.signer)
        elif found.statement.predicate_type == YANK:
            continue
        else:
            names = " and ".join(subject.name for subject in found.statement.subject[:2])
            reason = f"it is of {names}, and not of {line.name} {line.version}"
            refused.append(TrustError("M541", reason=reason))
    return Signers(tuple(signers.values()), tuple(refused))


class SignedYank(Struct, frozen=True):
    """What somebody has signed of whether a release is yanked."""

    signer: PublicKey | OidcIdentity
    said: SaidYank


def signed_yanks(registry: Registry, line: IndexLine) -> list[SignedYank]:
    """Return what has been signed of whether a release is yanked, the first first.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    release = parse_digest(line.release)
    found = [
        SignedYank(one.signer, said)
        for one in bundles_at(registry, signatures_path(release))
        if not isinstance(one, ModpkgError)
        and (said := yank_in(one.statement, line.name, line.version, release)) is not None
    ]
    return sorted(found, key=lambda one: one.said.number)


def parse_signer(text: str) -> PublicKey | OidcIdentity:
    """Return the signer that a text writes: a key, or an identity.

    Raises:
        TrustError: It writes none.
    """
    return parse_identity(text) if text.startswith(OIDC_SCHEME) else parse_key(text)


def is_signer(wanted: str, found: PublicKey | OidcIdentity) -> bool:
    """Return whether somebody is the signer that a lock or ``[trust]`` writes.

    Raises:
        TrustError: What is written is no signer.
    """
    if isinstance(found, PublicKey):
        return wanted == str(found)
    return wanted.startswith(OIDC_SCHEME) and parse_identity(wanted).includes(found)


def lasting_text(found: PublicKey | OidcIdentity) -> str:
    """Return how a signer is recorded: without what is of one release alone."""
    return str(found if isinstance(found, PublicKey) else found.lasting())


def bundles_at(registry: Registry, path: str) -> Iterator[Signed | ModpkgError]:
    """Yield the bundles of a file of them, or why they count for nothing; none if it is missing."""
    try:
        data = registry.files.vouching_file(path, most_of(path))
    except FileMissing:
        return
    yield from verified_bundles(data)


def verified_bundles(data: bytes) -> Iterator[Signed | ModpkgError]:
    """Yield what each bundle of a file of signatures says, or why it counts for nothing."""
    for bundle in bundles_in(data):
        try:
            yield verify_bundle(bundle)
        except (TrustError, MissingExtra) as error:  # noqa: PERF203
            yield error
