"""The JSON Schema of how a module was merged, under ``[provenance]``."""

from __future__ import annotations

from modpkg.core.bounds import MERGE_CHOICES, MERGE_PARENTS
from modpkg.manifest import keys
from modpkg.manifest.json_schema_parts import (
    NUMBER,
    JsonSchema,
    array,
    parameters_of,
    string,
    table,
)
from modpkg.manifest.merge import MOST_VALUES


def merge_schema() -> JsonSchema:
    """Return the schema of ``merge``."""
    release = string("A release, as clamp==1.0.0.")
    digest = string("sha256: and 64 hex digits.", pattern="^sha256:[0-9a-f]{64}$")
    count = {"type": "integer", "minimum": 0, "maximum": MOST_VALUES}
    parent = table(
        keys.MERGE_PARENT_KEYS,
        {
            "release": release,
            "folder": string("The name of a folder, for what is no release."),
            "weights": digest,
            "weight": {**NUMBER, "description": "Its weight, 1 if left out."},
            "importance": digest,
        },
        "One of the copies.",
        ("weights",),
    )
    choice = table(
        keys.CHOICE_KEYS,
        {"tensors": string("A pattern."), "files": string("A pattern."), "choice": string()},
        "An entry of the resolution file.",
        ("choice",),
    )
    return table(
        keys.MERGE_KEYS,
        {
            "base": release,
            "parents": array(parent, minItems=2, maxItems=MERGE_PARENTS),
            "method": string("How conflicts were decided."),
            "parameters": parameters_of(),
            "resolution": array(choice, "In the file's order.", maxItems=MERGE_CHOICES),
            "conflicts": table(
                keys.CONFLICT_KEYS, dict.fromkeys(keys.CONFLICT_KEYS, count), "What they were."
            ),
            "result": digest,
        },
        "How it was merged.",
        ("base", "parents", "result"),
    )
