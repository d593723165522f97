"""Who has signed a release, as far as the registry's files show: no signature counts unverified."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.core.errors import ModpkgError, TrustError
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import bundles_in, signatures_path, successors_path
from modpkg.registry.source import FileMissing
from modpkg.trust.bundle import Signed, verify_bundle
from modpkg.trust.public_key import PublicKey
from modpkg.trust.statement import is_about, successor_in

_STEPS = 32
"""How many keys may follow one another."""


class Signers(Struct, frozen=True):
    """Who has signed a release."""

    keys: tuple[PublicKey, ...] = ()
    refused: tuple[ModpkgError, ...] = ()
    """Why other bundles beside the release count for nothing."""


def signers_of(registry: Registry, line: IndexLine) -> Signers:
    """Return whose valid signatures a release has.

    A signature of another release, of another name's equal bytes, or that is malformed is none.

    Raises:
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    release = parse_digest(line.release)
    keys: dict[str, PublicKey] = {}
    refused = []
    for found in _bundles(registry, signatures_path(release)):
        if not isinstance(found, Signed):
            refused.append(found)
        elif is_about(found.statement, line.name, line.version, release):
            keys.setdefault(str(found.key), found.key)
        else:
            names = " and ".join(subject.name for subject in found.statement.subject[:2])
            reason = f"it is of {names}, and not of {line.name} {line.version}"
            refused.append(TrustError("M541", reason=reason))
    return Signers(tuple(keys.values()), tuple(refused))


def follows(registry: Registry, name: str, old: str, new: str) -> bool:
    """Return whether a key was named by another, or by one that follows it, as its successor."""
    known = [
        found for found in _bundles(registry, successors_path(name)) if isinstance(found, Signed)
    ]
    reached = {old}
    for _ in range(_STEPS):
        more = {
            successor
            for found in known
            if str(found.key) in reached
            and (successor := successor_in(found.statement, name, found.key)) is not None
        }
        if more <= reached:
            break
        reached |= more
    return new in reached


def _bundles(registry: Registry, path: str) -> Iterator[Signed | ModpkgError]:
    try:
        data = registry.source.read(path, bounds.SIGNATURES_BYTES)
    except FileMissing:
        return
    for bundle in bundles_in(data):
        try:
            yield verify_bundle(bundle)
        except TrustError as error:  # noqa: PERF203
            yield error
