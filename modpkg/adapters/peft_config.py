"""PEFT's ``adapter_config.json``: every key is applied exactly, or refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from modpkg.adapters.changes import Adapter
from modpkg.core.filenames import ADAPTER_CONFIG

_IGNORED = {
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
"""Keys of every method about training or purpose, which do not change what the adapter computes."""


def check_keys(
    adapter: Adapter,
    *,
    reads: Iterable[str] = (),
    ignores: Iterable[str] = (),
    neutral: Mapping[str, Any] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> None:
    """Refuse every key that requests something that would not be applied.

    Args:
        adapter: The adapter whose configuration is checked.
        reads: Keys that the method itself looks at.
        ignores: Keys that concern training only.
        neutral: Values that change nothing, by key.
        meanings: What a key that is refused means, for the error.

    Raises:
        ComposeError: A key is unknown, or known and not supported.
    """
    known = {*_IGNORED, *reads, *ignores}
    for key, value in sorted(adapter.config.items()):
        if key in known or value == (neutral or {}).get(key) or value in (None, False, [], {}):
            continue
        meaning = (meanings or {}).get(key, "modpkg does not know this key")
        raise adapter.refuse(f"its {ADAPTER_CONFIG} sets {key} = {value!r}: {meaning}")


def number(adapter: Adapter, key: str, default: float) -> float:
    """Return a finite number of the configuration.

    Raises:
        ComposeError: The value is not a finite number.
    """
    value: float = _number(adapter, adapter.config, key, default)
    return value


def positive(adapter: Adapter, key: str, default: int) -> int:
    """Return a positive integer of the configuration.

    Raises:
        ComposeError: The value is not a positive integer.
    """
    return _positive(adapter, key, _number(adapter, adapter.config, key, default))


def _positive(adapter: Adapter, key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} has {key} = {value!r}, which is not a positive integer"
        )
    return value


def _number(adapter: Adapter, table: Mapping[str, Any], key: str, default: float) -> Any:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise adapter.refuse(f"its {ADAPTER_CONFIG} has {key} = {value!r}, which is not a number")
    return value


def strings(adapter: Adapter, key: str) -> list[str]:
    """Return a list of strings; empty if the key is missing.

    Raises:
        ComposeError: The value is not a list of strings.
    """
    value = adapter.config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} has {key} = {value!r}, which is not a list of strings"
        )
    return value


# Patterns are regular expressions from an untrusted file: those that could take exponential time
# (a repeated group, many repetitions) are refused.
_MAX_PATTERN = 1000
_MAX_REPETITIONS = 2
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")


def pattern(adapter: Adapter, key: str) -> dict[str, Any]:
    """Return a table of numbers by pattern of a module's path, every pattern safe to match.

    Raises:
        ComposeError: The value is not such a table.
    """
    table = adapter.config.get(key) or {}
    if not isinstance(table, dict):
        raise adapter.refuse(f"its {ADAPTER_CONFIG} has {key} = {table!r}, which is not a table")
    for text in table:
        _number(adapter, table, text, 0)
        check_pattern(adapter, key, text)
    return table


def check_pattern(adapter: Adapter, key: str, text: str) -> None:
    """Check a pattern before it is matched.

    Raises:
        ComposeError: `text` is not a regular expression, or could take exponential time.
    """
    try:
        if len(text) > _MAX_PATTERN or _REPEATED_GROUP.search(text):
            raise re.error("it is too long or repeats a group")
        if len(re.findall(r"[*+{]", text)) > _MAX_REPETITIONS:
            raise re.error("it has too many repetitions")
        re.compile(rf"(.*\.)?({text})$")
    except re.error as error:
        raise adapter.refuse(f"{key} has {text!r}, which is not a safe pattern ({error})") from None


def is_safe_pattern(text: str) -> bool:
    """Return whether a pattern is a regular expression that takes no exponential time."""
    if len(text) > _MAX_PATTERN or _REPEATED_GROUP.search(text):
        return False
    try:
        re.compile(text)
    except re.error:
        return False
    return len(re.findall(r"[*+{]", text)) <= _MAX_REPETITIONS


def _of_pattern(table: Mapping[str, Any], path: str, default: Any) -> Any:
    """Return the value of the first pattern that matches ``path``, as `peft.utils.other` does.

    Patterns match the path from its beginning or from after a dot, to its end.
    """
    for key, value in table.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


class Scaling(Struct, frozen=True, kw_only=True):
    """Rank and alpha of a low-rank method, and their exceptions by pattern of a module's path."""

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool = False

    def at(self, path: str) -> tuple[int, float]:
        """Return the rank at a module path, and the scale alpha / rank (rsLoRA: alpha / √rank)."""
        rank: int = _of_pattern(self.rank_pattern, path, self.rank)
        alpha: float = _of_pattern(self.alpha_pattern, path, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def scaling_of(adapter: Adapter, *, alpha: str, rslora: bool = False) -> Scaling:
    """Return the scaling of an adapter; ``alpha`` is the method's key for alpha.

    Raises:
        ComposeError: A rank is not a positive integer, or alpha is not a number.
    """
    ranks = pattern(adapter, "rank_pattern")
    for rank in ranks.values():
        _positive(adapter, "rank_pattern", rank)
    return Scaling(
        rank=positive(adapter, "r", 8),
        alpha=number(adapter, alpha, 8),
        rank_pattern=ranks,
        alpha_pattern=pattern(adapter, "alpha_pattern"),
        rslora=rslora,
    )
