"""The keys that a server signs its index with, and signing it again before it expires."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

from modpkg.registry.place import Place
from modpkg.server.request_log import log
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.private_key import PrivateKey, no_key, read_key
from modpkg.trust.root_metadata import ROOT_WARNING, roots_at


def metadata_writer(
    place: Place, private: Place | None, folder: str | None
) -> MetadataWriter | None:
    """Return what signs the index of a registry, with the keys in a folder; None without one.

    Raises:
        TrustError: There is no key there, or one cannot be used.
        InstallError: One belongs to somebody else.
    """
    if folder is None:
        return None
    return MetadataWriter(place, signing_keys(Path(folder)), private=private)


def signing_keys(folder: Path) -> list[PrivateKey]:
    """Return the private keys in a folder, which have no passphrase: nobody is there to ask.

    Raises:
        TrustError: There is none, or one cannot be used.
        InstallError: One belongs to somebody else.
    """
    paths = sorted(folder.glob("*.pem"))
    if not paths:
        raise no_key(folder / "online.pem")
    return [read_key(path, str) for path in paths]


def sign_again(metadata: MetadataWriter, *, thoroughly: bool) -> None:
    """Sign what expires soon, and log what is in the storage that nobody has signed.

    If it is done thoroughly, that the root expires soon is logged before, which people sign.
    """
    if thoroughly:
        _warn_of_root(metadata)
    for path in metadata.renew(thoroughly=thoroughly):
        log("unsigned", level=logging.WARNING, path=path)


def _warn_of_root(metadata: MetadataWriter) -> None:
    if (found := roots_at(metadata.place)) is None:
        return
    root = found[1].root
    if root.until - datetime.datetime.now(datetime.timezone.utc) < ROOT_WARNING:
        remedy = "modpkg registry trust rotate"
        log("root-expires", level=logging.WARNING, until=root.expires, remedy=remedy)
