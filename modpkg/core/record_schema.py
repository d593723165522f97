"""JSON Schemas of records, with the docstrings of classes and fields as descriptions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def record_schema(kind: type[Struct], title: str, **about: Any) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a record; ``about`` comes before all else."""
    generated = msgspec.json.schema(kind, schema_hook=_schema_of)
    definitions: dict[str, Any] = generated["$defs"]
    for struct in _structs(kind, set()):
        definition = definitions[struct.__name__]
        docs = field_docs(struct)
        for field in msgspec.structs.fields(struct):
            if field.name in docs:
                definition["properties"][field.encode_name]["description"] = docs[field.name]
    root = definitions[kind.__name__]
    if not _refers_to(definitions, kind.__name__):
        del definitions[kind.__name__]
    schema: dict[str, Any] = {"$schema": DIALECT, **about, **root, "title": title}
    if definitions:
        schema["$defs"] = dict(sorted(definitions.items()))
    return schema


def _schema_of(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string"}
    raise NotImplementedError(kind)


def _refers_to(schema: Any, name: str) -> bool:
    """Return whether a schema refers to a definition."""
    if isinstance(schema, dict):
        return schema.get("$ref") == f"#/$defs/{name}" or _refers_to([*schema.values()], name)
    return isinstance(schema, list) and any(_refers_to(part, name) for part in schema)


def field_docs(struct: type[Struct]) -> dict[str, str]:
    """Return the docstring below each field of a class, and of those that it extends.

    >>> from modpkg.core.records import TensorEntry
    >>> field_docs(TensorEntry)["length"]
    "Bytes in the pack; the tensor's own when it has no encoding."
    """
    docs: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if issubclass(kind, Struct) and kind is not Struct:
            docs |= _own_docs(kind)
    return docs


def _own_docs(struct: type[Struct]) -> dict[str, str]:
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
