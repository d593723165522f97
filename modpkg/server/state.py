"""What one server works with: its settings, its storage and its database."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from urllib.parse import urlsplit

from anyio import CapacityLimiter

from modpkg.core.errors import PublishError, RegistryError, TrustError, UsageError
from modpkg.core.hub_address import is_hub_address
from modpkg.core.oci_address import is_loopback
from modpkg.core.redacted import redacted
from modpkg.manifest.normal_address import normal_address
from modpkg.registry.identity import set_info
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.unnamed import PRIVATE_TREE
from modpkg.server.changed_modules import ChangedModules
from modpkg.server.database import Database, sqlite_url
from modpkg.server.downloads import DownloadTally
from modpkg.server.issuers import Issuers
from modpkg.server.metrics import Metrics
from modpkg.server.pages.catalogue import Catalogue
from modpkg.server.reading import files_of
from modpkg.server.request_log import log
from modpkg.server.settings import ServerSettings
from modpkg.server.signing import metadata_writer, sign_again
from modpkg.server.traffic import Traffic
from modpkg.trust.log.appending import keep_log, open_log, origin_of
from modpkg.trust.signing_place import SigningPlace

COMMITS_AT_ONCE = 4
"""Commits that one process is at; others wait for their turn."""
PRIVATE = PRIVATE_TREE
"""The folder of the storage with the tree of private modules."""
OWN = ".server"
"""The folder of a server's own files, in the folder of its storage."""


def private_place(storage: str) -> Place | None:
    """Return the place of private modules in a storage; None if it can have none."""
    if is_hub_address(storage):
        return None
    parts = urlsplit(storage)
    if "://" in storage:
        inner = parts._replace(path=f"{parts.path.rstrip('/')}/{PRIVATE}")
        return open_place(inner.geturl())
    return open_place(str(Path(storage) / PRIVATE))


class Server:
    """A server; several may share one storage and one database."""

    def __init__(self, settings: ServerSettings) -> None:
        """Open the storage.

        Raises:
            UsageError: It is a repository of a hub, which has no place for what is uploaded.
            PublishError: Nothing can be published there, or another server does it.
        """
        if urlsplit(settings.storage).scheme in ("http", "https"):
            reason = "a server's files are looked after where they lie, by its operator"
            raise PublishError("M309", url=redacted(settings.storage), reason=reason)
        if is_hub_address(settings.storage):
            message = f"{settings.storage} is a repository of a hub, which serves it already."
            raise UsageError("M901", message=message)
        self.settings = settings
        self.place: Place = open_place(settings.storage)
        """Where the registry's files lie."""
        self.private: Place | None = private_place(settings.storage)
        """Where those of private modules lie; None where there can be none."""
        self.log = keep_log(self.place, self.private, settings.log_key)
        """The registry's log, which is written before its index; None if it has none."""
        before = settings.log_key_before
        self._log_before = None if before is None else open_log(self.place, before)
        if self.log and self._log_before and self.log.key == self._log_before.key:
            self._log_before = None  # nothing is exchanged
        self.metadata = metadata_writer(self.place, self.private, settings.tuf_keys)
        """What signs the index; None if nothing does."""
        if self.metadata is not None:
            self.place = SigningPlace(self.place, self.metadata)
            if self.private is not None:
                self.private = SigningPlace(self.private, self.metadata, private=True)
        self.files = files_of(self.place)
        self.private_files = None if self.private is None else files_of(self.private)
        self.issuers = Issuers()
        self.commits = CapacityLimiter(COMMITS_AT_ONCE)
        """Of commits, which take long: other requests are answered meanwhile."""
        self.database = Database(settings.database or self._own_database())
        self.downloads = DownloadTally(self.place, self.database)
        self.changed = ChangedModules()
        """Public modules whose pages have something new, until somebody prepares them."""
        self.metrics = Metrics()
        self.traffic = Traffic(settings, self.metrics)

    def _own_database(self) -> str:
        folder = self.place.folder or Path.cwd()
        (folder / OWN).mkdir(mode=0o700, parents=True, exist_ok=True)
        return sqlite_url((folder / OWN / "server.sqlite3").absolute())

    def prepare(self) -> None:
        """Make the registry, its log and the tables, where they are not yet.

        Raises:
            RegistryError: Another address is known to people, and nobody said that it has moved.
            TrustError: The registry has a log, and no key is given, or another one.
        """
        self.place.prepare(self.settings.name)
        if self.metadata is not None:
            sign_again(self.metadata, thoroughly=True)
        elif self.registry().info.tuf is not None:
            reason = "its index is signed, and a server needs the key for that: --tuf-keys FOLDER"
            raise TrustError("M568", url=self.place.url, reason=reason)
        self._announce()
        if self.log is not None:
            origin = origin_of(self.settings.url)
            self.log.begin(origin, self.place, self.private, self._log_before)
        elif self.registry().info.log is not None:
            raise TrustError("M557", url=self.place.url)
        self.database.upgrade()

    def _announce(self) -> None:
        """Write the address of the API into ``registry.json``, for readers of files alone too."""
        before = set_info(self.place, "api", self.settings.api, self._check_moved)
        if before is not None and self._is_other(before):
            # Whoever asks at the other address is refused from now on.
            log("moved", level=logging.WARNING, api=self.settings.api, before=before)

    def _is_other(self, before: str) -> bool:
        """Return whether an address is more than another spelling of the API's."""
        return normal_address(before) != normal_address(self.settings.api)

    def _check_moved(self, before: str | None) -> None:
        """Check that the server has moved from an address, if people may know that one."""
        if before is None or not self._is_other(before) or self.settings.moved:
            return
        if is_loopback(urlsplit(before).netloc):
            return
        was = redacted(before.removesuffix("/api/1/"))
        raise RegistryError("M473", before=was, url=self.settings.url)

    def registry(self) -> Registry:
        """Return the registry as it is now."""
        return registry_at(self.place)

    def place_of(self, *, private: bool) -> Place:
        """Return where the files of public modules lie, or those of private ones.

        Raises:
            PublishError: The storage can have no private ones.
        """
        if not private:
            return self.place
        if self.private is None:
            raise PublishError("M449", reason="this registry's storage keeps no private modules")
        return self.private

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """The registry as its pages show it."""
        return Catalogue(self.place.source)

    @functools.cached_property
    def private_catalogue(self) -> Catalogue:
        """The private modules as pages show them to those who may see them."""
        public = self.catalogue
        return public if self.private is None else Catalogue(self.private.source, public)

    @functools.cached_property
    def registry_name(self) -> str:
        """What the registry calls itself, for ever."""
        return self.registry().name

    @property
    def cookie(self) -> str:
        """The name of the cookie of browsers' logins."""
        return "__Host-modpkg" if self.settings.is_secure else "modpkg"

    def close(self) -> None:
        """Close the database."""
        self.database.close()
