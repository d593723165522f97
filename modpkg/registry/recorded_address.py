"""Where a registry is, as a lock records it, to tell it from another one of the same name.

A registry gives itself its name, so that a name alone proves nothing. The address is what the
project, or who runs modpkg, has chosen. It is the registry's own, never a mirror's, so that a lock
does not depend on mirrors.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modpkg.core.home import default_registry
from modpkg.core.hub_address import is_hub_address
from modpkg.core.redacted import is_token
from modpkg.manifest.normal_address import normal_address
from modpkg.manifest.schema import Manifest

BUILT_IN = "built-in"
"""Stands for the registry in modpkg's own folder, which is elsewhere for each user."""


def recorded_address(address: str, manifest: Manifest) -> str:
    """Return what the lock of a manifest records of a registry's address.

    A folder that the manifest names by a relative path is recorded by one, and others absolutely. A
    part of a URL that may be a token is replaced by its digest, unless the manifest has that URL.

    Args:
        address: A URL, or the path of a folder.
        manifest: The manifest that the lock belongs to.
    """
    folder = _folder(address, manifest.folder)
    if folder is None:
        url = normal_address(address)
        written = {normal_address(text) for text in manifest.registries.values() if "://" in text}
        return url if url in written else _without_tokens(url)
    if folder == _folder(default_registry(), manifest.folder):
        return BUILT_IN
    for text in manifest.registries.values():
        plain = "://" not in text and not Path(text).expanduser().is_absolute()
        if plain and _folder(text, manifest.folder) == folder:
            return Path(os.path.relpath(folder, manifest.folder)).as_posix()
    return Path(folder).as_posix()


def same_place(one: str, other: str, base: Path) -> bool:
    """Return whether two recorded addresses lead to the same place.

    ``base`` is the folder that relative paths are relative to. Addresses that are the same but for
    a symbolic link are too.
    """
    if one == other:
        return True
    first, second = (_folder(_expanded(address), base) for address in (one, other))
    if first is None or second is None:
        return first is second and normal_address(one) == normal_address(other)
    return first == second or os.path.realpath(first) == os.path.realpath(second)


def shown_address(recorded: str) -> str:
    """Return a recorded address for messages."""
    return "modpkg's own folder" if recorded == BUILT_IN else recorded


def _expanded(recorded: str) -> str:
    return default_registry() if recorded == BUILT_IN else recorded


def _folder(address: str, base: Path) -> str | None:
    """Return the absolute path of a folder's address; None for a URL."""
    if address.startswith("file://"):
        address = unquote(urlsplit(address).path)
    if "://" in address:
        return None
    return os.path.normpath(base.absolute() / Path(address).expanduser())


def _without_tokens(url: str) -> str:
    """Return a URL without what in its path may be a token; a lock is there to be published."""
    scheme, _, rest = url.partition("://")
    if is_hub_address(url):  # names of a hub and commits, which can look like tokens
        return url
    host, *parts = rest.split("/")
    host = host.rpartition("@")[2] if scheme in ("http", "https") else host
    return f"{scheme}://{'/'.join([host, *map(_digested, parts)])}"


def _digested(part: str) -> str:
    if not part or not is_token(part):
        return part
    return f"sha256-{hashlib.sha256(part.encode()).hexdigest()[:16]}"
