"""Opening the place of a registry, to write there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from modpkg.core.errors import NotFound, PublishError
from modpkg.core.hub_address import is_hub_address, parse_hub_address
from modpkg.core.redacted import redacted
from modpkg.manifest.config import STORE_SCHEMES, Settings, read_settings
from modpkg.manifest.schema import Manifest
from modpkg.registry.bucket_place import BucketPlace
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.hub_place import HubPlace
from modpkg.registry.location import default_location
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.open_source import open_configured
from modpkg.registry.place import Place, is_registry
from modpkg.registry.server_api import open_api
from modpkg.registry.server_place import ServerPlace
from modpkg.registry.server_writer import writer_at
from modpkg.registry.writer import RegistryWriter

_NEITHER = (
    "releases are published to folders, object stores (s3://, gs://, az://), hubs (hf://) and what "
    "'modpkg registry serve' serves"
)


def open_place(address: str, settings: Settings | None = None) -> Place:
    """Return the place at an address: a URL, or the path of a folder.

    Raises:
        PublishError: Nothing can be published there.
        RegistryError: A server cannot be asked where it is published to, or says another server.
    """
    parts = urlsplit(address)
    if parts.scheme == "file":
        return FolderPlace(Path(unquote(parts.path)))
    if parts.scheme in STORE_SCHEMES:
        source = open_configured(address, None, settings or read_settings())
        if isinstance(source, ObjectSource):
            return BucketPlace(source)
    if parts.scheme in ("http", "https"):
        settings = settings or read_settings()
        api = open_api(address, settings)
        source = open_configured(address, None, settings)
        if api is not None and isinstance(source, ObjectSource):
            return ServerPlace(source, api)
    if is_hub_address(address):
        return HubPlace(parse_hub_address(address))
    if "://" in address:
        raise PublishError("M309", url=redacted(address), reason=_NEITHER)
    return FolderPlace(Path(address))


def open_storage(address: str, settings: Settings | None = None) -> Place:
    """Return the place at an address of a registry's files themselves, to change what only who
    looks after them changes.

    Raises:
        PublishError: It is where a registry is read, or served.
    """
    if urlsplit(address).scheme in ("http", "https"):
        raise PublishError("M576", url=redacted(address))
    return open_place(address, settings)


def place_to_compare(manifest: Manifest | None, override: str | None, *, offline: bool) -> Place:
    """Return the place of the default registry, to see what it has before anything is published.

    Raises:
        RegistryError: Nothing can be published there, or it is elsewhere and nobody may be asked.
    """
    address = default_location(manifest, override, read_settings).address
    if offline and "://" in address and not address.startswith("file:"):
        raise PublishError("M309", url=redacted(address), reason="it is not asked with --offline")
    return open_place(address)


def writable_place(
    manifest: Manifest | None,
    override: str | None,
    settings: Callable[[], Settings] = read_settings,
) -> Place:
    """Return the place of the default registry; see `default_location`.

    Raises:
        PublishError: Nothing can be published there.
    """
    return open_place(default_location(manifest, override, settings).address)


def existing_registry(override: str | None) -> RegistryWriter:
    """Return the default registry, to change what it says of releases that it has.

    Raises:
        NotFound: There is no registry.
        PublishError: Nothing can be written there.
    """
    place = writable_place(None, override)
    if not is_registry(place):
        raise NotFound("M301", url=place.url, remedy="check the address")
    return writer_at(place)
