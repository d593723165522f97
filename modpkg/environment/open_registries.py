"""The registries that a command has open."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from modpkg.core.hub_address import is_hub_address
from modpkg.core.tree import BlobTree
from modpkg.environment.signed_registries import verify_index, vouching_files
from modpkg.manifest.config import Settings, read_settings
from modpkg.manifest.normal_address import normal_address
from modpkg.registry.reader import Registry

if TYPE_CHECKING:
    from modpkg.environment.hub_modules import HubModules


class OpenRegistries:
    """The registries that one command has opened, by address: each is opened and read once."""

    def __init__(
        self,
        cache: BlobTree,
        *,
        offline: bool = False,
        warn: Callable[[str], None] | None = None,
        hub: Callable[[], HubModules] | None = None,
    ) -> None:
        """``hub`` returns what makes modules of models of a hub."""
        self._cache = cache
        self._hub = hub
        self._asked: HubModules | None = None
        self._offline = offline
        self.warn = warn
        self._open: dict[tuple[str, bool], Registry] = {}
        self.expected: dict[str, str] = {}
        """By name, a version of which whoever resolves tells by himself that it was lost."""
        self.needed: set[str] = set()
        """Modules that will be asked for, as far as they are known."""

    @cached_property
    def settings(self) -> Settings:
        return read_settings(self.warn)

    def at(self, address: str, base: Path, *, origin: str = "", quiet: bool = False) -> Registry:
        """Return the registry at an address; a relative path is relative to ``base``.

        ``origin`` is what named the address, for messages.

        With ``quiet`` it does not warn: for a registry that is only read to give a hint.
        """
        place = address if "://" in address else str((base / Path(address).expanduser()).absolute())
        key = (normal_address(place), quiet)
        if key not in self._open:
            self._open[key] = Registry(
                address,
                base=base,
                cache=self._cache,
                offline=self._offline,
                warn=None if quiet else self.warn,
                settings=self.settings,
                origin=origin,
            )
            self._open[key].expected = self.expected
            files = self._open[key].files
            files.needed = self.needed
            if not is_hub_address(address):  # its commit names every byte
                verify_index(files)
                files.vouching = partial(vouching_files, self._open[key])
        return self._open[key]

    def hub(self) -> HubModules:
        """Return what makes modules of models of a hub."""
        if self._hub is None:
            raise AssertionError("models of a hub are not made here")
        self._asked = self._hub()
        return self._asked

    @property
    def fetched_of_hub(self) -> int:
        """Bytes that came of hubs, since only they tell the digests of new commits."""
        return 0 if self._asked is None else self._asked.fetched
