"""Models of a hub as dependencies of an app: each is a module, made of one commit on this machine.

What is made is a registry of one release in a folder below modpkg's home, as `import`, `build` and
`publish --by-reference` would make it: the record and the small files, and where on the hub the
weights are. The weights, which come once to be hashed, go into the store. The same commit gives
the same release everywhere, so that a lock can name its digest.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.elsewhere import elsewhere_path
from modpkg.core.errors import InstallError, ManifestError, ModpkgError
from modpkg.core.file_lock import file_lock
from modpkg.core.files import make_folder, remove_tree, rename, write_atomically
from modpkg.core.home import hub_folder
from modpkg.core.hub_address import HubAddress, hub_endpoint
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.core.progress import Progress
from modpkg.core.regular_file import read_file, read_text
from modpkg.core.tree import BlobTree
from modpkg.core.version import __version__
from modpkg.environment.hub_release import (
    NAME_CHARACTERS,
    Description,
    FindBase,
    HubBase,
    version_of,
)
from modpkg.manifest.config import Settings, read_settings
from modpkg.registry.hub_client import open_hub
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import LockedModule
from modpkg.store.store import Store
from modpkg.transfer.fetch import check_space, fetch_all
from modpkg.transfer.plan import plan_transfer

_WAITING = "Waiting for another modpkg command that fetches {address} …"
_DESCRIPTION, _MADE_WITH, _LISTING = "source.json", "made-with", "listing"
_REMEDY = (
    "ask its owner why, or install from what 'modpkg vendor' copies where the locked one is "
    "installed"
)
_CIRCULAR = {
    "reason": "and the base that it is made against is made against it in turn",
    "remedy": "name another base, as 'against' beside 'hub'",
}


class Checkout(Protocol):
    """The files of a commit, fetched and verified."""

    description: Description
    listing: Digest
    """Of all files of the commit, as the hub lists them."""
    fetched: int
    """Bytes that came for it."""

    def build(self, name: str, version: str, out: Path, base: HubBase | None) -> None:
        """Write the registry of the one release that is made of them into a new folder."""


Fetch = Callable[[HubAddress, Progress], AbstractContextManager[Checkout]]
"""Fetches a commit; `modpkg.community.modules.hub_checkout.checked_out` is one."""


class HubModules:
    """The modules that are made of commits of a hub, each once.

    Args:
        fetch: Fetches a commit; None where nothing may be made.
        store: Gets the weights.
        settings: Returns the user's ``config.toml``.
        offline: Whether a hub may not be asked.
        progress: Shows what is done.
    """

    def __init__(
        self,
        fetch: Fetch | None,
        store: Store,
        settings: Callable[[], Settings] = read_settings,
        *,
        offline: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self._fetch = fetch
        self._store = store
        self._settings = settings
        self._offline = offline
        self._progress = progress or Progress()
        self.fetched = 0
        """Bytes that came."""
        self._commits: dict[HubAddress, HubAddress] = {}
        self._open: dict[Path, Registry] = {}
        self._making: list[Path] = []
        """What is looked for, each for the one before: an adapter, and its base."""

    def commit(self, address: HubAddress) -> HubAddress:
        """Return an address at the commit that its revision is now; a hub is asked once.

        Raises:
            InstallError: ``--offline`` forbids to ask.
            NotFound, RegistryUnreachable: The hub has it not, or does not tell.
        """
        if address.pinned:
            return address
        if address not in self._commits:
            self._check_online(f"the commit of {address}")
            with open_hub(f"Asking for {address}", self._progress) as client:
                self._commits[address] = address.at(client.head(address))
        return self._commits[address]

    def registry(
        self, name: str, address: HubAddress, find_base: FindBase, locked: str | None = None
    ) -> Registry:
        """Return the registry of the module that is made of a commit.

        ``locked`` is the release that it has to be, if that is known: it can come from a mirror of
        the repository, such as a vendored copy.

        Raises:
            InstallError, ModpkgError: As for `folder`.
        """
        for mirror in self._settings().of(str(address.at(None))).mirrors if locked else ():
            if (found := self._mirrored(mirror, name, address, locked)) is not None:
                return found
        folder = self.folder(name, address, find_base, locked)
        if folder not in self._open:
            self._open[folder] = self._opened(folder, address)
            self._open[folder].listing = _read(folder / _LISTING)
        return self._open[folder]

    def _mirrored(
        self, mirror: str, name: str, address: HubAddress, locked: str | None
    ) -> Registry | None:
        """Return a mirror if it has a release; None if not."""
        registry = self._opened(mirror, address)
        try:
            releases = [line.release for line in registry.index(name)]
            named = registry.name == address.repository[:NAME_CHARACTERS]
            return registry if named and locked in releases else None
        except ModpkgError as error:
            self._progress.warn(f"skipping the mirror {mirror} of {address.repository}: {error}")
            return None

    def _opened(self, place: Path | str, address: HubAddress) -> Registry:
        registry = Registry(
            str(place),
            cache=self._store.blobs,
            offline=self._offline,
            warn=self._progress.warn,
            settings=self._settings(),
        )
        registry.stands_for, registry.elsewhere.remedy = str(address), _REMEDY
        return registry

    def folder(
        self, name: str, address: HubAddress, find_base: FindBase, locked: str | None = None
    ) -> Path:
        """Return the folder of the module that is made of a commit; it is made if it is not there.

        If it is another release than is ``locked``, and other versions of modpkg or transformers
        have made it, it is made again.

        Raises:
            InstallError: It is not there, and may not be made.
            ModpkgError: It cannot be fetched, imported or built.
        """
        place = _folder() / f"{address.repository.replace('/', '--')}@{address.revision}"
        if place in self._making:
            raise ManifestError("M851", name=name, address=address, **_CIRCULAR)
        self._making.append(place)
        try:
            if (found := self._there(place, name, find_base, locked)) is not None:
                return found
            self._check_online(str(address))
            with file_lock(
                place.with_name(f"{place.name}.lock"),
                exclusive=True,
                waiting=lambda: self._progress.stage(_WAITING.format(address=address)),
            ):
                found = self._there(place, name, find_base, locked, mend=True)
                return found or self._make(place, name, address, find_base)
        finally:
            self._making.pop()

    def _check_online(self, what: str) -> None:
        if self._offline:
            raise InstallError("M501", what=what)

    def _there(
        self,
        place: Path,
        name: str,
        find_base: FindBase,
        locked: str | None,
        *,
        mend: bool = False,
    ) -> Path | None:
        """Return the folder of a module that was made; None if there is none that is of use.

        With ``mend``, for which the lock is held, a damaged or outdated one is removed.
        """
        if (description := _read_description(place)) is None:
            return None
        folder = place / _folder_name(name, find_base(description))
        with contextlib.suppress(OSError):
            os.utime(place)  # it is used
        if folder in self._open or not folder.is_dir():
            return folder if folder in self._open else None
        try:
            registry = Registry(str(folder))
            line = registry.index(name)[0]
            registry.record(line)
            useful = locked in (None, line.release) or _read(folder / _MADE_WITH) == _versions()
        except (ModpkgError, IndexError):
            useful = False
        if not useful and mend:
            remove_tree(folder)
        return folder if useful else None

    def _make(self, place: Path, name: str, address: HubAddress, find_base: FindBase) -> Path:
        if self._fetch is None:
            raise InstallError("M503", path=place, command="modpkg install")
        make_folder(place)
        with self._fetch(address, self._progress) as checkout:
            self.fetched += checkout.fetched
            base = find_base(checkout.description)
            write_atomically(place / _DESCRIPTION, msgspec.json.encode(checkout.description))
            folder = place / _folder_name(name, base)
            staged = temporary_sibling(folder)
            try:
                version = version_of(address, str(base) if base is not None else "")
                checkout.build(name, version, staged, base)
                self._keep_weights(staged, name, address)
                write_atomically(staged / _MADE_WITH, _versions().encode())
                write_atomically(staged / _LISTING, checkout.listing.encode())
                rename(staged, folder)
            finally:
                discard(staged)
        return folder

    def _keep_weights(self, folder: Path, name: str, address: HubAddress) -> None:
        """Move the weights of a new module into the store, from where they are installed.

        What the store loses again is read from the hub.
        """
        registry = self._opened(folder, address)
        line = registry.index(name)[0]
        module = LockedModule(
            name=name,
            version=line.version,
            kind=line.kind,
            registry=registry.name,
            release=line.release,
        )
        with self._store.lock():
            plan = plan_transfer([module], {name: registry}, self._store)
            check_space(self._store.root, plan.disk)
            fetch_all(plan, [module], self._store)
        tree = BlobTree(folder)
        for pack in map(parse_digest, plan.records[name].packs):
            if (folder / elsewhere_path(pack)).exists():
                tree.path(pack).unlink()


def _folder() -> Path:
    """Return the folder of what is made of the hub that is asked: another one may differ."""
    return hub_folder() / re.sub(r"[^\w.-]", "_", urlsplit(hub_endpoint()).netloc)


def remove_unused(age: float, *, now: float) -> None:
    """Remove what was made of commits, of any hub, and not used for ``age`` seconds."""
    for place in (hub_folder()).glob("*/*@*"):
        with contextlib.suppress(OSError):
            if place.is_dir() and now - place.stat().st_mtime > age:
                remove_tree(place)


def _folder_name(name: str, base: HubBase | None) -> str:
    return name if base is None else f"{name}~{base.line.name}~{base.line.release[7:23]}"


def _versions() -> str:
    """Return the versions of the packages on which it depends how a commit is imported."""
    try:
        found = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    return f"modpkg {__version__}, transformers {found}"


def _read(path: Path) -> str:
    """Return the text of a small file; "" if there is none."""
    try:
        return read_text(path, follow=False)
    except (OSError, UnicodeDecodeError):
        return ""


def _read_description(place: Path) -> Description | None:
    try:
        data = read_file(place / _DESCRIPTION, follow=False)
        return msgspec.json.decode(data, type=Description)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
