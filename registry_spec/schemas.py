"""JSON Schemas of all formats, generated from the classes that read them."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from modpkg.core.records import FORMATS, SPEC
from modpkg.core.report import Report
from modpkg.resolve.lock import Lock
from registry_spec import SCHEMAS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTITY = "urn:modpkg:registry-spec:{spec}:{name}"
"""The ``$id`` of a schema: a name, not an address to fetch."""

_TITLES = {
    "registry": "registry.json",
    "index-line": "A line of index/<name>.jsonl",
    "release": "Release record",
    "provides": "Interface that a release provides",
    "expects": "Interface that a release expects",
    "patch": "patch.json of a release of kind patch",
    "memory": "memory.json of a release of kind adapter",
    "lock": "modpkg.lock",
    "report": "report.json",
}


def formats() -> dict[str, type[Struct]]:
    """Return the class of every format that has a schema, by the schema's name."""
    return {**FORMATS, "lock": Lock, "report": Report}


def schema(name: str) -> dict[str, Any]:
    """Return one JSON Schema, with the docstrings of classes and fields as descriptions."""
    kind = formats()[name]
    generated = msgspec.json.schema(kind)
    definitions: dict[str, Any] = generated["$defs"]
    for struct in _structs(kind, set()):
        definition = definitions[struct.__name__]
        docs = field_docs(struct)
        for field in msgspec.structs.fields(struct):
            if field.name in docs:
                definition["properties"][field.encode_name]["description"] = docs[field.name]
    root = definitions.pop(kind.__name__)
    schema: dict[str, Any] = {
        "$schema": DIALECT,
        "$id": IDENTITY.format(spec=SPEC, name=name),
        **root,
        "title": _TITLES[name],
    }
    if definitions:
        schema["$defs"] = dict(sorted(definitions.items()))
    return schema


def field_docs(struct: type[Struct]) -> dict[str, str]:
    """Return the docstring below each field of a class.

    >>> from modpkg.core.records import TensorEntry
    >>> field_docs(TensorEntry)["length"]
    'Bytes.'
    """
    body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    if not isinstance(body, ast.ClassDef):
        return {}
    docs: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            docs[field.target.id] = inspect.cleandoc(text.value.value)
    return docs


def _structs(kind: Any, seen: set[type[Struct]]) -> Iterator[type[Struct]]:
    """Yield a class and all classes of its fields, once each."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        if kind in seen:
            return
        seen.add(kind)
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from _structs(field.type, seen)
        return
    for part in getattr(kind, "__args__", ()):
        yield from _structs(part, seen)


def schema_files() -> dict[str, bytes]:
    """Return the committed schema files, by name."""
    return {
        f"{name}.schema.json": (
            json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"
        ).encode()
        for name in formats()
    }


def write_schemas(folder: Path = SCHEMAS) -> list[Path]:
    """Write all schemas and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in schema_files().items():
        (folder / name).write_bytes(data)
        written.append(folder / name)
    return written
