"""The front page."""

from __future__ import annotations

from msgspec import Struct

from modpkg.core.records import ModuleLine


class FrontPage(Struct, frozen=True, kw_only=True):
    """What a registry has, at a glance."""

    total: int
    kinds: tuple[tuple[str, int], ...]
    """With how many modules are of it."""
    newest: tuple[ModuleLine, ...]
    most: tuple[ModuleLine, ...]
    """Those that were downloaded most."""
