"""A manifest written anew from its normal form: for modules that a command makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from modpkg.manifest.edit import toml_value
from modpkg.manifest.find import MANIFEST
from modpkg.names import specifier_text


def manifest_text(normal: Mapping[str, Any]) -> str:
    """Return the ``modpkg.toml`` whose normal form is ``normal``; it is read back to be sure.

    Raises:
        ManifestError: there is no such manifest.
    """
    blocks = []
    for key in (*_ORDER, *(key for key in normal if key not in _ORDER)):
        value = normal.get(key)
        if not value:
            continue
        if key == "dependencies":
            blocks.append("\n".join(["[dependencies]", *map(_dependency, value)]))
        elif isinstance(value, list):
            blocks += ["\n".join([f"[[{key}]]", *_lines(item)]) for item in value]
        else:
            blocks.append("\n".join([f"[{key}]", *_lines(value)]))
    text = "\n\n".join(blocks) + "\n"
    from modpkg.manifest import parse_manifest

    parse_manifest(text, Path(MANIFEST))
    return text


_ORDER = ("module", "dependencies")
_FIRST = ("name", "version", "kind")


def _lines(table: Mapping[str, Any]) -> list[str]:
    keys = [key for key in _FIRST if key in table]
    keys += [key for key in table if key not in keys]
    return [toml_value({key: table[key]})[2:-2] for key in keys]


def _dependency(item: str | Mapping[str, str]) -> str:
    told = item if isinstance(item, str) else item["requirement"]
    requirement = Requirement(told)
    version = specifier_text(requirement.specifier) or "*"
    value: dict[str, Any] = {"version": version}
    if requirement.extras:
        value["extras"] = sorted(requirement.extras)
    if not isinstance(item, str):
        value["registry"] = item["registry"]
    return _lines({requirement.name: value if len(value) > 1 else version})[0]
