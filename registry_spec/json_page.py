"""``docs/json.md``: what ``--json`` prints, generated from the records that are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modpkg.cli.documents import FAILURE, SHAPES, shape_schema

PAGE = Path(__file__).parent.parent / "docs" / "json.md"
_HEAD = """\
# What --json prints

`--json` makes a command print one JSON object on standard output, also where it fails. Progress,
notes and warnings stay on standard error. `modpkg schema COMMAND` prints the JSON Schema (2020-12)
of a command's object, such as `modpkg schema store info`. This page is generated from the same
records by `python -m registry_spec`.

Every object has `schema`, the version of all shapes on this page: 1.

- New fields may be added without a new version, and new values where a field is one of several
  words: ignore what you do not know.
- A field that is removed, renamed, or changes its type or meaning makes a new version, which the
  changelog names.
- A field that is marked *optional* is left out where its text says so, or where it has its default.
- The order of fields, and sentences for people (`message`, `reason`, `explanation`), are no part of
  the shape.

The exit status is that of the command without `--json`. `schema`, `help` and `completion` have no
`--json`: what they print is for an editor, a person and a shell.

## When a command fails

"""


def json_page() -> str:
    """Return the page."""
    records: dict[str, dict[str, Any]] = {}
    text = _HEAD + _shape(FAILURE, "", records) + "\n## Commands\n"
    groups: dict[tuple[str, ...], list[str]] = {}
    for command, places in SHAPES.items():
        groups.setdefault(places, []).append(command)
    for places, commands in groups.items():
        text += f"\n### {', '.join(commands)}\n\n"
        text += "\nor\n\n".join(_shape(place, commands[0], records) for place in places)
    text += "\n## Records\n\nWhat the objects above have in them.\n"
    for name, schema in sorted(records.items()):
        text += f"\n### {name}\n\n{_described(schema)}"
    return text


def _shape(place: str, command: str, records: dict[str, dict[str, Any]]) -> str:
    schema = shape_schema(place, command)
    records |= schema.get("$defs", {})
    del schema["properties"]["schema"]
    return _described(schema)


def _described(schema: dict[str, Any]) -> str:
    """Return a record's description, and a table of its fields."""
    text = f"{_prose(schema['description'])}\n\n" if "description" in schema else ""
    text += "| field | type | meaning |\n|---|---|---|\n"
    for name, field in schema["properties"].items():
        kind = _kind(field)
        if name not in schema.get("required", ()):
            kind += ", optional"
        text += f"| `{name}` | {kind} | {_prose(field.get('description', ''))} |\n"
    return text


def _prose(text: str) -> str:
    """Return a docstring as a line of Markdown."""
    line = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    line = re.sub(r"`modpkg\.[\w.]*?(\w+)`", r"`\1`", line)
    return re.sub(r"`None`|\bNone\b", "null", line)


def _kind(schema: dict[str, Any]) -> str:
    """Return the type of a field in words.

    >>> _kind({"anyOf": [{"type": "string"}, {"type": "null"}]})
    'string or null'
    """
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    kind = schema.get("type", "any value")
    if kind == "array":
        parts = schema.get("prefixItems")
        if parts:
            return f"[{', '.join(_kind(part) for part in parts)}]"
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object: name to {_kind(schema['additionalProperties'])}"
    return str(kind)


def write_json_page(path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(json_page(), "utf-8")
