"""Which registry is asked where a manifest's dependency names none, and what named it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from modpkg.core import system
from modpkg.core.errors import RegistryError
from modpkg.core.files import shown
from modpkg.core.home import REGISTRY_VARIABLE, config_path, default_registry
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.manifest.config import Settings, read_settings
from modpkg.manifest.dependencies import DEFAULT
from modpkg.manifest.normal_address import normal_address
from modpkg.manifest.schema import Manifest
from modpkg.manifest.values import has_login, is_alias
from modpkg.registry.address import check_address

OPTION, VARIABLE = "--registry", REGISTRY_VARIABLE
Source = Literal["option", "variable", "manifest", "settings", "built-in"]


class Location(Struct, frozen=True):
    """A registry's address, and what named it, for messages."""

    address: str
    """A URL, or an absolute path."""
    origin: str
    """For messages: "from --registry"."""
    source: Source
    alias: str | None = None
    """The alias that stands for it, where one was given."""

    def same(self, other: str) -> bool:
        """Return whether an address leads to the same place, as far as its text tells."""
        return normal_address(self.address) == normal_address(other)


def default_location(
    manifest: Manifest | None,
    override: str | None = None,
    settings: Callable[[], Settings] = read_settings,
) -> Location:
    """Return the default registry: of flag, environment, manifest, ``config.toml`` or home.

    A relative path is relative to the working folder, or in a manifest to the manifest's folder.

    Raises:
        RegistryError: The URL of the flag or the environment contains a password, or what they name
            is both an alias and a folder.
        ManifestError: ``config.toml`` is invalid.
    """
    chosen = os.environ.get(VARIABLE)
    written = manifest is not None and DEFAULT in manifest.registries
    if override and not (override == DEFAULT and chosen and not written):
        return _named(override, "option", manifest, settings)
    if chosen:
        return _named(chosen, "variable", manifest, settings)
    return usual_location(manifest, settings)


def usual_location(manifest: Manifest | None, settings: Callable[[], Settings]) -> Location:
    """Return the default registry where neither flag nor environment name one."""
    if manifest is not None and DEFAULT in manifest.registries:
        return alias_location(manifest, DEFAULT)
    if written := settings().aliases.get(DEFAULT):
        return Location(written, _in_settings(DEFAULT), "settings")
    origin = "modpkg's own folder, since nothing names a registry"
    return Location(default_registry(), origin, "built-in")


def alias_location(manifest: Manifest, alias: str) -> Location:
    """Return the registry of an alias under a manifest's ``[registries]``."""
    written = manifest.registries[alias]
    origin = f"from {alias!r} under [registries] of {manifest.path.name}"
    if "://" not in written:
        folder = (manifest.folder / Path(written).expanduser()).absolute()
        check_is_folder(written, folder, f"{alias!r} under [registries] of {manifest.path.name}:")
        written = str(folder)
    return Location(written, origin, "manifest", alias)


_HOST = lazy_pattern(r"(localhost|([A-Za-z0-9-]+\.)+[A-Za-z]{2,})(:\d+)?")
_DRIVE = lazy_pattern(r"[A-Za-z]:[\\/]")


def check_is_folder(text: str, folder: Path, source: str) -> None:
    """Check that a path was not meant as something else, where nothing is there yet.

    Publishing would make a folder of that name.

    Raises:
        RegistryError: It looks like an address without its scheme, or like a path of Windows.
    """
    first = re.split(r"[/\\]", text, maxsplit=1)[0]
    if _HOST.fullmatch(first):
        what, right = "an address without its scheme", f"https://{text}"
    elif _DRIVE.match(text) and not system.WINDOWS:
        what, right = "a path of Windows", "a path of this system"
    else:
        return
    beside = Path(str(folder)[: -len(text)] or ".") / first
    if not folder.exists() and not beside.exists():
        raise RegistryError("M855", source=source, text=text, what=what, right=right)


def settings_locations(settings: Settings) -> list[Location]:
    """Return the registries that ``config.toml`` names under ``[registries]``."""
    return [
        Location(address, _in_settings(alias), "settings", alias)
        for alias, address in settings.aliases.items()
    ]


def _in_settings(alias: str) -> str:
    return f"from {alias!r} under [registries] of {shown(config_path())}"


def _named(
    text: str,
    source: Literal["option", "variable"],
    manifest: Manifest | None,
    settings: Callable[[], Settings],
) -> Location:
    """Return what a flag or variable names: a URL, an alias, or a folder."""
    flag = OPTION if source == "option" else VARIABLE
    check_address(text)
    if "://" in text:
        _refuse_secret(text)
        return Location(text, f"from {flag}", source)
    folder = str(Path(text).expanduser().absolute())
    address: str | None = None
    if manifest is not None and text in manifest.registries:
        found = alias_location(manifest, text)
        address, origin = found.address, found.origin
    elif is_alias(text) and (address := settings().aliases.get(text)):
        origin = _in_settings(text)
    if address is None and text == DEFAULT and not Path(folder).is_dir():
        return usual_location(manifest, settings)
    if address is None:
        check_is_folder(text, Path(folder), flag)
        return Location(folder, f"from {flag}", source)
    location = Location(address, f"{flag} {text}, {origin}", source, text)
    if Path(folder).is_dir() and not location.same(folder):
        raise RegistryError("M318", source=flag, alias=text, address=address)
    return location


def _refuse_secret(address: str) -> None:
    parts = urlsplit(address)
    if "://" in address and has_login(address):
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise RegistryError("M316", url=place, config=config_path())
