"""The root of a registry's metadata: whose keys count. People sign it, with keys of their own."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import TrustError
from modpkg.core.names import listed
from modpkg.registry.identity import set_info
from modpkg.registry.place import Place, RegistryChange, registry_at
from modpkg.registry.source import FileMissing
from modpkg.trust.bundle import Signer
from modpkg.trust.metadata import (
    RoleKeys,
    RootMetadata,
    key_of,
    metadata_key,
    moment_text,
    signed_metadata,
)
from modpkg.trust.public_key import PublicKey
from modpkg.trust.signed_paths import FOLDER
from modpkg.trust.trusted_metadata import TrustedMetadata

ONLINE = ("targets", "snapshot", "timestamp")
"""Roles that the online key signs."""
ROOT_WARNING = datetime.timedelta(days=30)
"""How long before a root expires, and nobody reads the registry any more, that is said."""


def new_root(
    version: int,
    people: Sequence[PublicKey],
    threshold: int,
    online: PublicKey,
    expires: datetime.datetime,
) -> RootMetadata:
    """Return a root: so many of these people sign the next one, and the online key all the rest."""
    keys = dict(metadata_key(key) for key in [*people, online])
    signers = list(dict.fromkeys(metadata_key(key)[0] for key in people))
    others = RoleKeys([metadata_key(online)[0]], 1)
    return RootMetadata(
        version=version,
        expires=moment_text(expires),
        keys=keys,
        roles={"root": RoleKeys(signers, threshold)} | dict.fromkeys(ONLINE, others),
    )


def check_enough_sign(
    url: str, root: RootMetadata, signers: Collection[str], before: RootMetadata | None
) -> None:
    """Check that as many sign a root as have to, of it and of the one before.

    Args:
        signers: Ids of the keys that sign it.

    Raises:
        TrustError: Too few do.
    """
    for one in (root,) if before is None else (before, root):
        role = one.roles["root"]
        missing = [key_of(one.keys[each]) for each in role.keyids if each not in signers]
        here = len(role.keyids) - len(missing)
        if here < role.threshold:
            whose = "that may sign so far" if one is before else "that are to sign roots"
            more = " (or in --sign-with, if it is to be none any more)" if one is before else ""
            reason = (
                f"{role.threshold} of the root keys {whose} have to sign this root, and {here} "
                f"can; name {role.threshold - here} more in --root-key{more}, not as its public "
                f"part: of {listed(missing)}; or let people sign by turns, with --root-file"
            )
            raise TrustError("M568", url=url, reason=reason)


def signed_root(root: RootMetadata, keys: Sequence[Signer], before: RootMetadata | None) -> bytes:
    """Return the file of a root, signed by those of the keys that may, of it or the one before."""
    wanted = {*root.roles["root"].keyids, *(before.roles["root"].keyids if before else ())}
    signers = {metadata_key(key.public)[0]: key for key in keys}
    return signed_metadata(root, [(k, key) for k, key in signers.items() if k in wanted])


def write_root(place: Place, data: bytes, trusted: TrustedMetadata | None) -> int:
    """Write the first root of a registry, or the one after those that are trusted.

    Raises:
        TrustError: It is not signed by as many as have to; nothing is written.
    """
    if trusted is None:
        trusted = TrustedMetadata(place.url, data, None)
    else:
        trusted.update_root(data)
    version = trusted.root.version
    path = f"{FOLDER}/{version}.root.json"

    def edit(change: RegistryChange) -> None:
        if change.read(path, bounds.TUF_ROOT_BYTES) is not None:
            reason = f"{path} is there already"
            raise TrustError("M568", url=place.url, reason=reason)
        change.replace(path, data)

    place.change(edit)
    return version


def name_root(place: Place, first: bytes) -> None:
    """Write into ``registry.json`` that it is signed, with the digest of its first root."""
    set_info(place, "tuf", digest_bytes(first))


def no_root(place: Place) -> TrustError:
    """Return the error for a registry that has no root: it was never signed, or has lost it."""
    first = f"{FOLDER}/1.root.json"
    named = registry_at(place).info.tuf
    if named is None:
        reason = "it has no root yet; run 'modpkg registry trust init'"
    else:
        reason = (
            f"it lacks {first}, the root that it began with, whose digest is {named}. Put it back, "
            "from a back-up or from who has read the registry: it is 1.root.json in a folder of "
            "'registries' in modpkg's home. Another root is another registry to its readers"
        )
    return TrustError("M568", url=place.url, reason=reason)


def roots_at(place: Place) -> tuple[list[bytes], TrustedMetadata] | None:
    """Return the roots of a registry, and what is trusted by them; None if it has none."""
    found: list[bytes] = []
    trusted: TrustedMetadata | None = None
    while len(found) < bounds.TUF_ROOTS:
        path = f"{FOLDER}/{len(found) + 1}.root.json"
        try:
            data = place.source.read(path, bounds.TUF_ROOT_BYTES)
        except FileMissing:
            break
        if trusted is None:
            trusted = TrustedMetadata(place.url, data, None)
        else:
            trusted.update_root(data)
        found.append(data)
    return None if trusted is None else (found, trusted)
