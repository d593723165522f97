"""JSON Schemas of all formats, generated from the classes that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.candidates import CandidateLine, ThreadEntry
from modpkg.core.record_schema import record_schema
from modpkg.core.records import FORMATS, SPEC
from modpkg.core.report import Report
from modpkg.registry.advisory import Advisory
from modpkg.resolve.lock import Lock
from modpkg.trust.log.entries import LogEntry, LoggedRelease
from registry_spec import SCHEMAS

IDENTITY = "urn:modpkg:registry-spec:{spec}:{name}"
"""The ``$id`` of a schema: a name, not an address to fetch."""

_TITLES = {
    "registry": "registry.json",
    "index-line": "A line of index/<name>.jsonl",
    "module-line": "A line of modules.jsonl",
    "release": "Release record",
    "provides": "Interface that a release provides",
    "expects": "Interface that a release expects",
    "patch": "patch.json of a release of kind patch",
    "memory": "memory.json of a release of kind adapter",
    "lock": "modpkg.lock",
    "report": "report.json",
    "advisory": "A line of advisories.jsonl",
    "elsewhere": "elsewhere/<aa>/<hex>.json",
    "candidate": "A line of candidates/<name>.jsonl",
    "thread-entry": "A line of candidates/<name>/<number>.jsonl",
    "log-entry": "An entry of a registry's log",
    "logged-release": "log/releases/<aa>/<hex>.json",
}


def formats() -> dict[str, type[Struct]]:
    """Return the class of every format that has a schema, by the schema's name."""
    return {
        **FORMATS,
        "lock": Lock,
        "report": Report,
        "candidate": CandidateLine,
        "advisory": Advisory,
        "thread-entry": ThreadEntry,
        "log-entry": LogEntry,
        "logged-release": LoggedRelease,
    }


def schema(name: str) -> dict[str, Any]:
    """Return one JSON Schema, with the docstrings of classes and fields as descriptions."""
    identity = IDENTITY.format(spec=SPEC, name=name)
    return record_schema(formats()[name], _TITLES[name], **{"$id": identity})


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
