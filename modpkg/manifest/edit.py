"""Editing a manifest's dependencies: the edited key changes, every other byte stays.

The edits are cuts in the text, not a parse and a dump: what is never taken apart need not be put
together again. (tomlkit 0.15 loses comments after a table that it replaces, writes LF into a CRLF
file, and refuses a byte order mark and the inline tables of TOML 1.1.)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from modpkg.core.errors import InstallError
from modpkg.core.names import module_name
from modpkg.manifest.layout import Layout
from modpkg.toml.node import hint

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def set_dependency(text: str, name: str, value: str | dict[str, Any]) -> str:
    """Return the manifest ``text`` with ``name`` under ``[dependencies]`` set to ``value``.

    A key that is there, under any spelling of the name, keeps its place, spelling and comment; a
    new one comes last. In a pyproject.toml the table is ``[tool.modpkg.dependencies]``.

    Raises:
        InvalidValue: ``name`` is no module name.
        ManifestError: ``text`` is not TOML, or no manifest that can be edited.
    """
    layout = Layout.of(text)
    key = module_name(name)
    held = layout.keys_of(key)
    wanted = {old: spec for old, spec in layout.dependencies.items() if old not in held[1:]}
    wanted[held[0] if held else key] = value
    shown = toml_value(value)
    for extra in held[1:]:
        layout = layout.without(extra)
    pair = layout.pair((*layout.path, held[0])) if held else None
    if pair is not None:
        return layout.cut(pair.value, pair.end, shown).checked(wanted)
    if held:
        layout = layout.without(held[0])
    return layout.added(held[0] if held else key, shown).checked(wanted)


def remove_dependency(text: str, name: str) -> str:
    """Return the manifest ``text`` without ``name``, under any spelling, in ``[dependencies]``.

    Raises:
        InvalidValue: ``name`` is no module name.
        InstallError: it is not there.
        ManifestError: ``text`` is not TOML, or no manifest that can be edited.
    """
    layout = Layout.of(text)
    key = module_name(name)
    held = layout.keys_of(key)
    if not held:
        near = hint(key, layout.dependencies).removesuffix("?")
        raise InstallError("M507", name=key, manifest=layout.file, hint=near)
    wanted = {old: spec for old, spec in layout.dependencies.items() if old not in held}
    for old in held:
        layout = layout.without(old)
    return layout.checked(wanted)


def with_absolute_registries(text: str, folder: Path) -> str:
    """Return the manifest ``text`` as it says the same in another folder than its own, ``folder``.

    Raises:
        ManifestError: ``text`` is not TOML, or no manifest that can be edited.
    """
    layout = Layout.of(text)
    table: Any = layout.data
    for key in (*layout.root, "registries"):
        table = table.get(key, {}) if isinstance(table, dict) else {}
    for alias, address in table.items() if isinstance(table, dict) else ():
        pair = layout.pair((*layout.root, "registries", alias))
        if isinstance(address, str) and "://" not in address and pair is not None:
            place = str((folder / Path(address).expanduser()).absolute())
            layout = layout.cut(pair.value, pair.end, toml_value(place))
    return layout.mark + layout.text


def toml_value(value: Any) -> str:
    """Return ``value`` as TOML on one line.

    >>> toml_value({"version": ">=1", "extras": ["fast"]})
    '{ version = ">=1", extras = ["fast"] }'
    """
    if isinstance(value, str):
        # A JSON string is a TOML string, but for the one control character that JSON lets pass.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = [f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)


def toml_key(key: str) -> str:
    """Return ``key`` as TOML: bare where that will do."""
    return key if _BARE.fullmatch(key) else toml_value(key)
