"""Signatures that are sent to a server: each is verified, and is of what it is sent for."""

from __future__ import annotations

from contextlib import suppress

from modpkg.core import bounds
from modpkg.core.digests import parse_digest
from modpkg.core.errors import MissingExtra, TrustError
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import bundles_in, successors_path
from modpkg.registry.source import FileMissing
from modpkg.trust.bundle import Signed, verify_bundle
from modpkg.trust.signatures import parse_signer
from modpkg.trust.statement import is_about, keys_of_module, successor_in, yank_in
from modpkg.trust.successors import check_may_name, successions_of


def check_bundle(bundle: str, line: IndexLine) -> None:
    """Check that a signature is one of this release, or of a yank of it, whoever has signed it.

    Raises:
        TrustError: It is not.
    """
    signed = _verified(bundle)
    of_it = (line.name, line.version, parse_digest(line.release))
    if not is_about(signed.statement, *of_it) and yank_in(signed.statement, *of_it) is None:
        raise TrustError("M541", reason=f"it is not one of {line.name} {line.version}")


def check_succession(registry: Registry, name: str, bundle: str) -> None:
    """Check that a signer of a module may name the one after it as a bundle does.

    Raises:
        TrustError: The bundle does not, or it may not.
        RegistryUnreachable, RegistryError: The registry cannot be read.
    """
    with suppress(FileMissing):
        data = registry.source.read(successors_path(name), bounds.SUCCESSORS_BYTES)
        if bundle.encode() in bundles_in(data):
            return  # a copy is made again
    signed = _verified(bundle)
    after = successor_in(signed.statement, keys_of_module(name))
    if after is None:
        raise TrustError("M541", reason=f"it names nobody who signs {name} next")
    check_may_name(successions_of(registry, name), name, signed.signer, parse_signer(after))


def _verified(bundle: str) -> Signed:
    if "\n" in bundle:
        raise TrustError("M541", reason="it has more than one line")
    try:
        return verify_bundle(bundle.encode())
    except MissingExtra:
        reason = "this server lacks modpkg[sigstore], which verifies those of identities"
        raise TrustError("M541", reason=reason) from None
