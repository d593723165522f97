"""Copies of a signed registry's index, as they are read with ``--offline``.

A copy may have been kept while the registry was not known to be signed, or was shown without its
metadata. So it counts only if a bin that is remembered lists it. That bin need not be the newest
one, which another project may have heard of: what is read offline is as old as it is, and nothing
expires.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modpkg.core.digests import digest_bytes
from modpkg.core.errors import TrustError
from modpkg.trust.metadata import Delegations, TargetsMetadata, check_signed, read_metadata
from modpkg.trust.signed_paths import private_path
from modpkg.trust.trusted_metadata import TrustedMetadata


class SignedCopies:
    """What is remembered of one registry's metadata, for one command that asks nobody."""

    def __init__(self, url: str, first: bytes, remembered: Callable[[str], bytes | None]) -> None:
        """``first`` is the first root; ``remembered`` returns a file of metadata, None for none.

        Raises:
            TrustError: The first root is malformed, or not signed by its own keys.
        """
        self._url = url
        self._remembered = remembered
        trusted = TrustedMetadata(url, first, None)
        try:
            while (data := remembered(f"{trusted.root.version + 1}.root.json")) is not None:
                trusted.update_root(data)
        except TrustError:
            pass  # it is damaged
        root = trusted.root
        targets = self._signed("targets", root.roles["targets"], root.keys)
        given = None if targets is None else targets.delegations
        self._delegations = given if isinstance(given, Delegations) else None
        self._bins: dict[str, TargetsMetadata | None] = {}

    def has(self, path: str, data: bytes) -> bool:
        """Return whether a file is signed as it is here."""
        digest = digest_bytes(data)
        return self._lists(path, digest) or self._lists(private_path(digest), digest)

    def _lists(self, path: str, digest: str) -> bool:
        if (given := self._delegations) is None:
            return False
        role = given.succinct_roles.name(path)
        if role not in self._bins:
            self._bins[role] = self._signed(role, given.succinct_roles, given.keys)
        found = self._bins[role]
        file = None if found is None else found.file(path, self._url)
        return file is not None and digest in file.digests

    def _signed(self, role: str, by: Any, keys: Any) -> TargetsMetadata | None:
        """Return a file of metadata that is remembered; None if there is none that is signed."""
        if (data := self._remembered(f"{role}.json")) is None:
            return None
        what = f"tuf/{role}.json of {self._url}"
        try:
            read = read_metadata(data, TargetsMetadata, what)
            check_signed(read, by, keys, what)
        except TrustError:
            return None
        signed: TargetsMetadata = read.signed
        return signed
