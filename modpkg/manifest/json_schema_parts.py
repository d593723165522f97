"""What the JSON Schemas of manifests are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modpkg.core.bounds import SETTING_VALUES
from modpkg.manifest import keys
from modpkg.manifest.settings import PARAMETER

DIALECT = "http://json-schema.org/draft-07/schema#"
JsonSchema = dict[str, Any]

NUMBER: JsonSchema = {"type": "number", "minimum": -1e30, "maximum": 1e30}
BOOLEAN: JsonSchema = {"type": "boolean"}


def string(about: str = "", most: int = 500, **more: Any) -> JsonSchema:
    """Return the schema of a string that is not empty, of ``most`` characters."""
    found: JsonSchema = {"type": "string", "minLength": 1, "maxLength": most, **more}
    return {**found, "description": about} if about else found


def one_of(options: Iterable[str], about: str) -> JsonSchema:
    """Return the schema of one of some strings."""
    return {"enum": [*options], "description": about}


def array(items: JsonSchema, about: str = "", **more: Any) -> JsonSchema:
    """Return the schema of an array."""
    return {"type": "array", "items": items, **({"description": about} if about else {}), **more}


def named(values: JsonSchema, about: str) -> JsonSchema:
    """Return the schema of a table whose keys are names."""
    return {"type": "object", "additionalProperties": values, "description": about}


def table(
    names: tuple[str, ...], values: JsonSchema, about: str, need: tuple[str, ...] = ()
) -> JsonSchema:
    """Return the schema of a table with these keys.

    Raises:
        ValueError: ``values`` describes other keys.
    """
    if set(names) != set(values):
        raise ValueError(f"keys without a description, or unknown: {set(names) ^ set(values)}")
    return {
        "type": "object",
        "properties": {name: values[name] for name in names},
        "required": [*need],
        "additionalProperties": False,
        "description": about,
    }


def setting(value: JsonSchema, about: str) -> JsonSchema:
    """Return the schema of a setting: a value, a gradient, or values by filter."""
    gradient = array(value, minItems=1, maxItems=SETTING_VALUES)
    filtered = table(
        keys.FILTERED_KEYS,
        {
            "filter": string("Part of the names of the tensors."),
            "value": {"anyOf": [value, gradient]},
        },
        "A value for the tensors whose name has the filter in it.",
        ("value",),
    )
    either = array(filtered, minItems=1, maxItems=SETTING_VALUES)
    return {"anyOf": [value, gradient, either], "description": about}


def name_of(what: str) -> JsonSchema:
    """Return the schema of a name."""
    return string(f"The name of {what}.")


def parameters_of() -> JsonSchema:
    """Return the schema of the parameters of an operator or a method."""
    scalar = {"anyOf": [BOOLEAN, NUMBER, string(most=100_000)]}
    return {
        "type": "object",
        "patternProperties": {f"^{PARAMETER.pattern}$": setting(scalar, "A parameter.")},
        "additionalProperties": False,
        "description": "Parameters of the operator or method.",
    }
