"""Tables that installed packages can extend through entry points."""

from __future__ import annotations

from typing import TypeVar

Item = TypeVar("Item")


def find(table: dict[str, Item], group: str, name: str) -> Item | None:
    """Return an item of a table, or the one that an entry point of ``group`` names, or None.

    Entry points come from packages installed in this Python, never from a registry. modpkg's own
    names take precedence.
    """
    if name in table:
        return table[name]
    from importlib.metadata import entry_points  # takes a hundredth of a second

    for point in entry_points(group=group, name=name):
        loaded: Item = point.load()
        return loaded
    return None


def known(table: dict[str, Item], group: str) -> str:
    """Return the names that `find` accepts, for error messages."""
    from importlib.metadata import entry_points

    return ", ".join(sorted({*table, *entry_points(group=group).names}))
