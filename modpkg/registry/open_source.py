"""The source of a registry's address."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from modpkg.core import system
from modpkg.core.hub_address import is_hub_address, parse_hub_address
from modpkg.manifest.config import Settings, StoreAccess
from modpkg.manifest.logins import Login
from modpkg.registry.address import check_address
from modpkg.registry.allowance import Allowance
from modpkg.registry.source import FolderSource, Source


def open_source(
    url: str,
    base: Path | None = None,
    login: Login | None = None,
    allowance: Allowance | None = None,
    access: StoreAccess | None = None,
) -> Source:
    """Return the source of a registry's address: a URL, or a path relative to ``base``.

    ``access`` is what the settings say of an object store.

    Raises:
        RegistryError: It cannot be one.
    """
    check_address(url)
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderSource(system.path_of_url(parts.path))
    if is_hub_address(url):
        from modpkg.registry.hub_source import HubSource  # slow to import, like the next

        return HubSource(parse_hub_address(url), allowance=allowance)
    if len(parts.scheme) > 1:
        from modpkg.registry.object_source import ObjectSource

        return ObjectSource(url, login, allowance=allowance, access=access)
    return FolderSource((base or Path.cwd()) / Path(url).expanduser())


def open_configured(
    url: str,
    base: Path | None,
    settings: Settings,
    allowance: Allowance | None = None,
    *,
    of: str | None = None,
) -> Source:
    """Return the source of an address, with what the user's settings say of it.

    ``of`` is the registry of which it is a mirror.

    Raises:
        RegistryError: It cannot be the address of a registry.
    """
    login = settings.of(url).login if of is None else settings.mirror_login(url, of)
    return open_source(url, base, login, allowance, settings.access(url))
