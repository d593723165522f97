"""What is known of a signed registry before it is read."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from modpkg.core.home import home
from modpkg.manifest.normal_address import site_name


class SeenRegistry(Struct, frozen=True):
    """What was seen of a signed registry: what it may not go back behind."""

    root: str
    """Digest of its first root, which says which registry it is."""
    root_version: int
    snapshot: int


class NamedRoot(Struct, frozen=True):
    """The first root that somebody has written down for a registry, which then is signed."""

    root: str
    """Its digest."""
    where: str
    """The file that says so."""


class Unsigned(Exception):
    """A registry has no signed metadata."""


def remembered_folder(url: str) -> Path:
    """Return the folder of modpkg's home where what was seen of a signed registry is kept."""
    return home() / "registries" / site_name(url)
