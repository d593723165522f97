"""Settings of a composition: a value, a gradient over the layers, or values by filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modpkg.core.bounds import SETTING_VALUES
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.manifest.keys import FILTERED_KEYS
from modpkg.manifest.schema import Filtered, Gradient, Scalar, Setting
from modpkg.toml.node import Node

PARAMETER = lazy_pattern(r"[a-z][a-z0-9_]{0,99}")


def scalar(node: Node) -> Scalar:
    """Return one value of a setting; numbers become floats. A text may be a prompt of lines."""
    if isinstance(node.value, bool):
        return node.value
    if isinstance(node.value, str):
        return node.lines()
    return node.number()


def read_setting(node: Node, read: Callable[[Node], Scalar]) -> Setting:
    """Return a setting; ``read`` reads each of its values.

    Raises:
        ManifestError: The value is not a setting.
    """
    if not isinstance(node.value, list):
        return read(node)
    items = _items(node)
    if not any(isinstance(item.value, dict) for item in items):
        return tuple(read(item) for item in items)
    return tuple(_filtered(item, read) for item in items)


def _filtered(node: Node, read: Callable[[Node], Scalar]) -> Filtered:
    table = node.table(FILTERED_KEYS)
    value, chosen = table.need("value", "value = 0.5"), table.get("filter")
    return Filtered(
        value=_gradient(value, read) if isinstance(value.value, list) else read(value),
        filter=chosen.text() if chosen else None,
    )


def _gradient(node: Node, read: Callable[[Node], Scalar]) -> Gradient:
    return tuple(read(item) for item in _items(node))


def _items(node: Node) -> list[Node]:
    items = node.items()
    if not items:
        raise node.fail("is empty; give it a value or leave it out")
    if len(items) > SETTING_VALUES:
        raise node.fail(f"has {len(items)} values, and {SETTING_VALUES} is the most")
    return items


def plain_setting(setting: Setting) -> Any:
    """Return a setting as JSON data."""
    if not isinstance(setting, tuple):
        return setting
    return [_plain(item) for item in setting]


def _plain(item: Scalar | Filtered) -> Any:
    if not isinstance(item, Filtered):
        return item
    value = list(item.value) if isinstance(item.value, tuple) else item.value
    return {"value": value} if item.filter is None else {"filter": item.filter, "value": value}
