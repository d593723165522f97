"""The folders of commands that are run over and over, at the same path in every run."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from modpkg.store.contents import scan_store
from modpkg.store.corruption import find_corruption
from modpkg.store.store import Store
from registry_spec.check import check


class Place(Struct, frozen=True):
    """A home, an app and module projects under one root."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def app(self) -> Path:
        return self.root / "app"

    def check(self) -> None:
        """Check every byte of the store and the registry."""
        store = Store(self.home / "store")
        assert find_corruption(store, scan_store(store)) == []
        assert check(str(self.home / "registry")).problems == []
