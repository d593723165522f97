"""Tables that packages the user installed can extend, by entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

Item = TypeVar("Item")


def find(table: dict[str, Item], group: str, name: str) -> Item | None:
    """Return an item of a table, or the one that an entry point of ``group`` names.

    Only packages that are installed in this Python can have entry points; nothing that came out
    of a registry is looked at. modpkg's own names win.
    """
    if name in table:
        return table[name]
    for point in entry_points(group=group, name=name):
        loaded: Item = point.load()
        return loaded
    return None


def known(table: dict[str, Item], group: str) -> str:
    """Return the names that `find` would find, for errors."""
    return ", ".join(sorted({*table, *entry_points(group=group).names}))
