"""The release that is made of a commit of a hub: its version, and the base of an adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec import Struct

from modpkg.core.hub_address import HubAddress
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry

NAME_CHARACTERS = 100
"""Of the name of a registry, which is that of the repository as far as it fits."""


class HubBase(Struct, frozen=True):
    """The release of a base that an adapter of a hub is made against."""

    registry: Registry
    line: IndexLine

    def __str__(self) -> str:
        return f"{self.line.name}=={self.line.version}"


class Description(Struct, frozen=True):
    """What a commit is, as far as it decides which base it needs."""

    is_adapter: bool
    base_model: str = ""
    """The repository that an adapter's config names; "" for none."""


FindBase = Callable[[Description], HubBase | None]
"""Returns the base of what a commit is; None for a whole model."""


def version_of(address: HubAddress, base: str = "") -> str:
    """Return the version of a commit: what a hub has has none, and two commits are two releases.

    It is named by the first eight digits of the commit, or, of an adapter, of the sha256 of the
    commit and ``base``, which is ``NAME==VERSION``: on another base it is another release.

    >>> version_of(HubAddress("org/name", "0000002a" + "0" * 32))
    '1.0.0.post42'
    """
    digits = address.revision or ""
    if base:
        digits = hashlib.sha256(f"{digits} {base}".encode()).hexdigest()
    return f"1.0.0.post{int(digits[:8], 16)}"
