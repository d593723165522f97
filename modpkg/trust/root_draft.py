"""A root that people sign by turns, each where his key is, until as many have signed as have to.

Its file has the form of a root, and lies anywhere but in a registry until then.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from modpkg.core.errors import TrustError
from modpkg.trust.bundle import Signer
from modpkg.trust.metadata import (
    MetadataSignature,
    ReadMetadata,
    RootMetadata,
    canonical,
    holding_keys,
    key_of,
    metadata_key,
    read_metadata,
)
from modpkg.trust.public_key import PublicKey, parse_key
from modpkg.trust.root_metadata import check_enough_sign, new_root


class RootDraft(Struct, frozen=True):
    """A root, and what people have signed of it."""

    root: RootMetadata
    signatures: list[MetadataSignature] = []

    @property
    def people(self) -> list[PublicKey]:
        """Who signs the next root."""
        return [self._key(one) for one in self.root.roles["root"].keyids]

    @property
    def online(self) -> PublicKey:
        """The key that signs all the rest."""
        return self._key(self.root.roles["timestamp"].keyids[0])

    @property
    def until(self) -> datetime.datetime:
        """When the root expires."""
        return self.root.until

    def _key(self, keyid: str) -> PublicKey:
        return parse_key(key_of(self.root.keys[keyid]))

    def signers(self, before: RootMetadata | None = None) -> set[str]:
        """Return the ids of the keys, of the root and the one before, whose signatures hold."""
        keys = {**({} if before is None else before.keys), **self.root.keys}
        read = ReadMetadata(self.root, self._message(), self.signatures)
        return {*holding_keys(read, keys, keys)}

    def signed_with(self, signers: Sequence[Signer]) -> RootDraft:
        """Return it with the signatures of more keys."""
        made = {one.keyid: one for one in self.signatures}
        for signer in signers:
            keyid = metadata_key(signer.public)[0]
            made[keyid] = MetadataSignature(keyid, signer.sign(self._message()).hex())
        return RootDraft(self.root, [*made.values()])

    def check_enough(self, url: str, before: RootMetadata | None) -> None:
        """Check that as many have signed it as have to, of it and of the one before.

        Raises:
            TrustError: They have not.
        """
        check_enough_sign(url, self.root, self.signers(before), before)

    def data(self, before: RootMetadata | None = None, *, is_whole: bool = False) -> bytes:
        """Return its file: of one that is whole, with the signatures that count."""
        signatures = self.signatures
        if is_whole:
            holding = self.signers(before)
            signatures = [one for one in signatures if one.keyid in holding]
        whole = {"signatures": signatures, "signed": self.root}
        return msgspec.json.encode(msgspec.to_builtins(whole), order="sorted") + b"\n"

    def _message(self) -> bytes:
        return canonical(msgspec.to_builtins(self.root))


def read_draft(data: bytes, what: str) -> RootDraft:
    """Return the root that people are signing; ``what`` names its file.

    Raises:
        TrustError: It is malformed, no root that modpkg would have made, or it was changed after
            somebody whose key it names had signed it.
    """
    read = read_metadata(data, RootMetadata, what)
    draft = RootDraft(read.signed, read.signatures)
    try:
        root = draft.root
        made = new_root(
            root.version, draft.people, root.roles["root"].threshold, draft.online, draft.until
        )
    except (KeyError, IndexError, TrustError):
        made = None
    written = canonical(msgspec.json.decode(read.data))
    if made is None or canonical(msgspec.to_builtins(made)) != written:
        raise TrustError(
            "M565", what=what, reason="it says other things than a root of modpkg does"
        )
    if not len(draft.people) >= root.roles["root"].threshold:
        raise TrustError("M565", what=what, reason="fewer keys are named than have to sign")
    holding = draft.signers()
    for one in draft.signatures:
        if one.keyid in root.keys and one.keyid not in holding:
            raise TrustError("M598", what=what, key=key_of(root.keys[one.keyid]))
    return draft
