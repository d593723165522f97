"""Which folder a publishing command writes to."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modpkg.errors import NotWritable
from modpkg.home import default_registry
from modpkg.manifest import Manifest


def default_address(manifest: Manifest | None, override: str | None = None) -> str:
    """Return the default registry's address: flag, then environment, then manifest, then home.

    A relative path is relative to the working folder, or, in a manifest, to the manifest.
    """
    chosen = override or os.environ.get("MODPKG_REGISTRY")
    if chosen:
        return chosen if "://" in chosen else str(Path(chosen).expanduser().absolute())
    if manifest is not None and (written := manifest.registries.get("default")):
        if "://" in written:
            return written
        return str((manifest.folder / Path(written).expanduser()).absolute())
    return default_registry()


def writable_folder(manifest: Manifest | None, override: str | None) -> Path:
    """Return the folder of the default registry.

    Raises:
        NotWritable: its address is not a folder.
    """
    address = default_address(manifest, override)
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in address:
        raise NotWritable(url=address, reason="this modpkg publishes to folders only")
    return Path(address)
