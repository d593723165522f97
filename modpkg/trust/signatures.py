"""Who has signed a release, as far as the registry's files show: no signature counts unverified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.core.errors import MissingExtra, ModpkgError, TrustError
from modpkg.core.oidc_identity import SCHEME as OIDC_SCHEME
from modpkg.core.oidc_identity import OidcIdentity, parse_identity
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import bundles_in, signatures_path, successors_path
from modpkg.registry.source import FileMissing
from modpkg.trust.bundle import Signed, verify_bundle
from modpkg.trust.public_key import PublicKey, parse_key
from modpkg.trust.statement import is_about, keys_of_module, successor_in

_STEPS = 32
"""How many keys may follow one another."""


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
    for found in _bundles(registry, signatures_path(release)):
        if not isinstance(found, Signed):
            refused.append(found)
        elif is_about(found.statement, line.name, line.version, release):
            signers.setdefault(str(found.signer), found.signer)
        else:
            names = " and ".join(subject.name for subject in found.statement.subject[:2])
            reason = f"it is of {names}, and not of {line.name} {line.version}"
            refused.append(TrustError("M541", reason=reason))
    return Signers(tuple(signers.values()), tuple(refused))


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


def follows(registry: Registry, name: str, old: str, new: PublicKey | OidcIdentity) -> str | None:
    """Return the signer that a key, or one that follows it, has named as its successor.

    It is None if it is another one than ``new``.
    """
    bundles = _bundles(registry, successors_path(name))
    reached = successors_of(bundles, keys_of_module(name), old)
    return next((one for one in sorted(reached) if _is_named(one, new)), None)


def successors_of(
    bundles: Iterable[Signed | ModpkgError], subject: str, old: str
) -> AbstractSet[str]:
    """Return the signers that a key, or one that follows it, has named as its successor; it too.

    Args:
        bundles: What was signed.
        subject: What is to be signed by them, as `modpkg.trust.statement` writes it.
        old: The key.
    """
    known = [found for found in bundles if isinstance(found, Signed)]
    reached = {old}
    for _ in range(_STEPS):
        more = {
            successor
            for found in known
            if str(found.signer) in reached
            and (successor := successor_in(found.statement, subject, found.signer)) is not None
        }
        if more <= reached:
            break
        reached |= more
    return reached


def _is_named(text: str, signer: PublicKey | OidcIdentity) -> bool:
    try:
        return is_signer(text, signer)
    except TrustError:  # a key can sign that anything is its successor
        return False


def _bundles(registry: Registry, path: str) -> Iterator[Signed | ModpkgError]:
    try:
        data = registry.source.read(path, bounds.SIGNATURES_BYTES)
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
