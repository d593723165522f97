"""What one command works with, opened and read once: project, manifest, store, registries.

A command makes one `Workspace` and passes it on, in place of a store, a progress, ``--registry``
and ``--offline`` each by themselves::

    workspace = Workspace(options=RegistryOptions(registry, offline), progress=progress)
    registries = workspace.registries           # of the project's manifest
    with workspace.store.lock():
        ...

In the command line, ``@with_workspace`` (`modpkg.cli.options`) does that. A manifest that is only
tried gets its registries from `Workspace.registries_for`, and another project its workspace from
`Workspace.for_project`: both share what is open, so that each index file, record and setting is
read at most once per command. After publishing to a registry, open it again.

Everything is opened when it is first used. What an installation that is up to date does without
is imported there too.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from modpkg.core.bounds import LOCK_BYTES
from modpkg.core.errors import LockError
from modpkg.core.home import store_folder
from modpkg.core.ownership import dangers
from modpkg.core.progress import Progress
from modpkg.core.regular_file import read_text
from modpkg.core.tree import BlobTree
from modpkg.environment.generations import Environment
from modpkg.environment.project import Project, find_project

if TYPE_CHECKING:
    from modpkg.environment.hub_modules import Fetch, HubModules
    from modpkg.environment.open_registries import OpenRegistries
    from modpkg.environment.registries import Registries
    from modpkg.manifest.config import Settings
    from modpkg.manifest.schema import Manifest
    from modpkg.resolve.lock import Lock
    from modpkg.store.store import Store


class RegistryOptions(Struct, frozen=True):
    """The options of the command line for registries."""

    registry: str | None = None
    """Address of the default registry, in place of the manifest's."""
    offline: bool = False
    accepted: tuple[str, ...] = ()
    """Locked modules that may be another release, or of another registry, than is locked."""


NO_OPTIONS = RegistryOptions()


class Workspace:
    """One command's project, manifest, lock, store, settings, registries and progress.

    Args:
        project: The project; the one around the working folder if None.
        user: Whether to use the user's own environment, if ``project`` is None.
        options: How registries are used.
        device: What composes, see `modpkg.compose.executor.compose`.
        progress: Shows progress and warnings; nothing is shown if None.
        store: The store; the user's if None.
        fetch_hub: Fetches a model of a hub that is a dependency; None where none is made.
    """

    def __init__(
        self,
        project: Project | None = None,
        *,
        user: bool = False,
        options: RegistryOptions = NO_OPTIONS,
        device: str | None = None,
        progress: Progress | None = None,
        store: Store | None = None,
        fetch_hub: Fetch | None = None,
    ) -> None:
        self._user = user
        self._fetch_hub = fetch_hub
        self.is_trial = False
        """Whether the manifest is one in memory, made of the project's."""
        self.options = options
        self.device = device
        self.progress = progress or Progress()
        if project is not None:
            self.project = project
        if store is not None:
            self.store = store

    @property
    def wants_user(self) -> bool:
        """Whether the user's own environment was asked for."""
        return self._user

    @cached_property
    def project(self) -> Project:
        found = find_project(user=self._user)
        for path in (found.manifest_path, found.environment):
            self._warn_of_others(path)
        return found

    @property
    def environment(self) -> Environment:
        return Environment(self.project.environment)

    @cached_property
    def text(self) -> str:
        """The text of the project's manifest."""
        return self.project.text()

    @cached_property
    def manifest(self) -> Manifest:
        return self.project.parse(self.text)

    @cached_property
    def lock(self) -> Lock | None:
        """The project's lock; None if it has no lock file."""
        from modpkg.resolve.lock import read_lock

        return read_lock(self.project.lock_path)

    def usable_lock(self) -> Lock | None:
        """Return the project's lock; None, with a warning, if it is not valid."""
        try:
            return self.lock
        except LockError as error:
            self.progress.warn(f"{error} Regenerating it.")
            return None

    def is_up_to_date(self) -> bool:
        """Return whether the environment matches manifest and lock, without parsing them.

        One that was not installed with this store never does: a cloned repository may have brought
        it, with weights and configs of its own under seals that anybody can make.
        """
        known = self.store.projects.knows(self.project.lock_path, self.project.environment)
        return known and self.environment.is_up_to_date(self.text, self.lock_text())

    def waits_for_log(self) -> bool:
        """Return whether the lock has releases that a log has to be asked for yet, and can be."""
        return not self.options.offline and "\nunlogged = true\n" in (self.lock_text() or "")

    def forgets_signers(self) -> bool:
        """Return whether what is installed has no signer of a release that was installed with one.

        So it is after a `rollback`, for one.
        """
        current = self.environment.readable()
        modules = () if current is None else current.modules
        unsigned = {(one.name, one.release) for one in modules if not one.signer}
        return bool(unsigned) and any(
            one.signer and (one.name, one.release) in unsigned
            for one in self.environment.ever_installed()
        )

    def lock_text(self) -> str | None:
        """Return the text of the lock file; None if there is none that is text."""
        try:
            return read_text(self.project.lock_path, LOCK_BYTES, follow=False)
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    @cached_property
    def store(self) -> Store:
        from modpkg.store.store import Store

        self._warn_of_others(store_folder())
        return Store(store_folder())

    @cached_property
    def blobs(self) -> BlobTree:
        """The files of the store, of which resolving needs nothing else."""
        if "store" in self.__dict__:
            return self.store.blobs
        self._warn_of_others(store_folder())
        return BlobTree(store_folder())

    def _warn_of_others(self, path: Path) -> None:
        """Tell of a file or folder that somebody else can change."""
        for danger in dangers(path):
            self.progress.warn(f"{danger}.")

    @cached_property
    def open_registries(self) -> OpenRegistries:
        from modpkg.environment.open_registries import OpenRegistries

        return OpenRegistries(
            self.blobs,
            offline=self.options.offline,
            warn=self.progress.warn,
            hub=lambda: self._hub_modules,
        )

    @cached_property
    def _hub_modules(self) -> HubModules:
        from modpkg.environment.hub_modules import HubModules

        return HubModules(
            self._fetch_hub,
            self.store,
            lambda: self.settings,
            offline=self.options.offline,
            progress=self.progress,
        )

    @property
    def settings(self) -> Settings:
        """The user's ``config.toml``."""
        return self.open_registries.settings

    @cached_property
    def registries(self) -> Registries:
        """The registries of the project's manifest and lock."""
        try:
            lock = self.lock
        except LockError:
            lock = None  # who needs the lock reports it
        return self.registries_for(self.manifest, lock)

    def registries_for(
        self, manifest: Manifest, lock: Lock | None = None, *, owner: Manifest | None = None
    ) -> Registries:
        """Return the registries of another manifest; an address that is open is used again.

        ``owner`` is the manifest that the lock belongs to, if that is another.
        """
        from modpkg.environment.registries import Registries

        return Registries(
            manifest,
            self.open_registries,
            default=self.options.registry,
            lock=lock,
            owner=owner,
            is_trial=self.is_trial,
        )

    def for_project(
        self,
        project: Project,
        progress: Progress | None = None,
        *,
        options: RegistryOptions | None = None,
    ) -> Workspace:
        """Return the workspace of another project, with the same store and open registries.

        Of the same project it reads manifest and lock again. Progress is reported to ``progress``
        (default: as in this one), and so for ``options``.
        """
        other = Workspace(
            project,
            options=options or self.options,
            device=self.device,
            progress=progress or self.progress,
            store=self.store,
            fetch_hub=self._fetch_hub,
        )
        other.open_registries = self.open_registries
        return other

    def for_manifest(self, manifest: Manifest) -> Workspace:
        """Return a workspace for a manifest in memory, without a lock; for planning only."""
        other = self.for_project(self.project)
        other.text, other.manifest, other.lock = "", manifest, None
        other.is_trial = True
        return other
