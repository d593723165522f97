"""PEFT's ``adapter_config.json``, read without PEFT: exact, or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from modpkg.adapters.changes import Adapter

# Keys of every method that say how the adapter was trained or where it belongs, not what it does.
_HARMLESS = {
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "init_weights",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
}


def check_keys(
    adapter: Adapter,
    *,
    reads: Iterable[str] = (),
    harmless: Iterable[str] = (),
    plain: Mapping[str, Any] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> None:
    """Refuse every key that asks for what would not be applied.

    ``reads`` are keys that the method's reader looks at itself, ``harmless`` those that concern
    training only, and ``plain`` gives values that change nothing.

    Raises:
        ComposeError: names the key.
    """
    known = {*_HARMLESS, *reads, *harmless}
    for key, value in sorted(adapter.config.items()):
        if key in known or value == (plain or {}).get(key) or value in (None, False, [], {}):
            continue
        meaning = (meanings or {}).get(key, "what that means is not known here")
        raise adapter.refuse(f"its adapter_config.json sets {key} = {value!r}: {meaning}")


def number(adapter: Adapter, key: str, default: float) -> float:
    """Return a finite number of the configuration.

    Raises:
        ComposeError: it is something else.
    """
    value: float = _number(adapter, adapter.config, key, default)
    return value


def positive(adapter: Adapter, key: str, default: int) -> int:
    """Return a whole number above zero.

    Raises:
        ComposeError: it is something else.
    """
    value = _number(adapter, adapter.config, key, default)
    if not isinstance(value, int) or value < 1:
        raise adapter.refuse(f"its adapter_config.json has {key} = {value!r}, which is not above 0")
    return value


def _number(adapter: Adapter, table: Mapping[str, Any], key: str, default: float) -> Any:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise adapter.refuse(f"its adapter_config.json has {key} = {value!r}, which is no number")
    return value


def strings(adapter: Adapter, key: str) -> list[str]:
    """Return a list of strings; empty where the key is left out.

    Raises:
        ComposeError: it is something else.
    """
    value = adapter.config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise adapter.refuse(f"its adapter_config.json has {key} = {value!r}, which is no list")
    return value


# The patterns are regular expressions by somebody unknown: those that could take forever to match
# (a repeated group, many repetitions) are refused.
_LONGEST_PATTERN = 1000
_MOST_REPETITIONS = 2
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")


def pattern(adapter: Adapter, key: str) -> dict[str, Any]:
    """Return a table of numbers by pattern of a module's path, every pattern safe to match.

    Raises:
        ComposeError: it is something else.
    """
    table = adapter.config.get(key) or {}
    if not isinstance(table, dict):
        raise adapter.refuse(f"its adapter_config.json has {key} = {table!r}, which is no table")
    for text in table:
        _number(adapter, table, text, 0)
        check_pattern(adapter, key, text)
    return table


def check_pattern(adapter: Adapter, key: str, text: str) -> None:
    """Refuse a pattern that is none, or that could take forever.

    Raises:
        ComposeError
    """
    try:
        if len(text) > _LONGEST_PATTERN or _REPEATED_GROUP.search(text):
            raise re.error("it is too long or repeats a group")
        if len(re.findall(r"[*+{]", text)) > _MOST_REPETITIONS:
            raise re.error("it has too many repetitions")
        re.compile(rf"(.*\.)?({text})$")
    except re.error as error:
        raise adapter.refuse(f"{key} has {text!r}, which is no pattern ({error})") from None


def of_pattern(table: Mapping[str, Any], path: str, default: Any) -> Any:
    """Return the value of the first pattern that matches ``path``, as `peft.utils.other` does.

    Patterns match the path from its beginning or from after a dot, to its end.
    """
    for key, value in table.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default
