"""The address of the default registry, and the folder that a publishing command writes to."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modpkg.core.errors import PublishError, RegistryError
from modpkg.core.home import config_path, default_registry
from modpkg.manifest.schema import Manifest
from modpkg.manifest.values import has_secret


def default_address(manifest: Manifest | None, override: str | None = None) -> str:
    """Return the default registry's address: from flag, environment, manifest or home.

    A relative path is relative to the working folder, or in a manifest to the manifest's folder.

    Raises:
        RegistryError: The URL of the flag or the environment contains a password.
    """
    chosen = override or os.environ.get("MODPKG_REGISTRY")
    if chosen:
        _refuse_secret(chosen)
        return chosen if "://" in chosen else str(Path(chosen).expanduser().absolute())
    if manifest is not None and (written := manifest.registries.get("default")):
        if "://" in written:
            return written
        return str((manifest.folder / Path(written).expanduser()).absolute())
    return default_registry()


def _refuse_secret(address: str) -> None:
    parts = urlsplit(address)
    if "://" in address and has_secret(address):
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise RegistryError("M316", url=place, config=config_path())


def writable_folder(manifest: Manifest | None, override: str | None) -> Path:
    """Return the folder of the default registry.

    Raises:
        PublishError: Its address is not a folder.
    """
    address = default_address(manifest, override)
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in address:
        raise PublishError("M309", url=address, reason="publishing is supported to folders only")
    return Path(address)
