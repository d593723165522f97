"""A manifest's text, written from its normal form: the way back from a release to a project."""

from __future__ import annotations

from typing import Any

from modpkg.core.names import parse_requirement, specifier_text
from modpkg.manifest.edit import toml_key, toml_value

_ORDER = ("module", "app", "provenance", "dependencies", "suites", "extras", "compose", "task")


def manifest_text(form: dict[str, Any]) -> str:
    """Return a ``modpkg.toml`` whose normal form is ``form``."""
    lines: list[str] = []
    for key in sorted(form, key=lambda key: (_ORDER.index(key) if key in _ORDER else 99, key)):
        value = form[key]
        if key in ("dependencies", "suites"):
            value = dict(map(_dependency, value))
        if isinstance(value, list):
            for item in value:
                lines += [f"[[{key}]]", *_pairs(item), ""]
        else:
            lines += [f"[{key}]", *_pairs(value), ""]
    return "\n".join(lines)


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{toml_key(key)} = {toml_value(value)}" for key, value in table.items()]


def _dependency(item: str | dict[str, Any]) -> tuple[str, str | dict[str, Any]]:
    """Return a dependency as a manifest has it: its name, and a specifier or a table."""
    text, registry = (
        (item, None)
        if isinstance(item, str)
        else (
            item["requirement"],
            item["registry"],
        )
    )
    requirement = parse_requirement(text)
    specifier = specifier_text(requirement.specifier) or "*"
    if registry is None and not requirement.extras:
        return requirement.name, specifier
    table: dict[str, Any] = {"version": specifier}
    if requirement.extras:
        table["extras"] = sorted(requirement.extras)
    if registry is not None:
        table["registry"] = registry
    return requirement.name, table
