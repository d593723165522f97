"""PEFT's ``adapter_config.json``: every key is applied exactly, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from modpkg.adapters.changes import Adapter
from modpkg.adapters.pattern_list import PatternList
from modpkg.adapters.patterns import UnsafePattern, Work, matches_whole
from modpkg.core.bounds import PATTERN_COUNT, SAVED_MODULES
from modpkg.core.errors import ComposeError
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

_LARGEST = 2**63
"""JSON has numbers that no float is as large as."""


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


def choice(adapter: Adapter, key: str, default: str, options: Iterable[str]) -> str:
    """Return a word of the configuration.

    Raises:
        ComposeError: The value is not one of ``options``.
    """
    value = adapter.config.get(key, default)
    if not isinstance(value, str) or value not in options:
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} has {key} = {value!r}; supported are {', '.join(options)}"
        )
    return value


def positive(adapter: Adapter, key: str, default: int) -> int:
    """Return a positive integer of the configuration.

    Raises:
        ComposeError: The value is not a positive integer.
    """
    return _positive(adapter, key, _number(adapter, adapter.config, key, default))


def check_counts(adapter: Adapter) -> None:
    """Check that the lists of an adapter that are compared with every name are of usual lengths.

    Raises:
        ComposeError: One is longer.
    """
    for key in ("modules_to_save", "layers_pattern"):
        value = adapter.config.get(key)
        if isinstance(value, list) and len(value) > SAVED_MODULES:
            raise adapter.refuse(
                f"its {ADAPTER_CONFIG} has {len(value)} names in {key}, more than {SAVED_MODULES}"
            )


def _positive(adapter: Adapter, key: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise adapter.refuse(
            f"its {ADAPTER_CONFIG} has {key} = {value!r}, which is not a positive integer"
        )
    return value


def _number(adapter: Adapter, table: Mapping[str, Any], key: str, default: float) -> Any:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
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


class PatternTable(Struct, frozen=True, kw_only=True):
    """A table of numbers by pattern of a module's path."""

    adapter: Adapter
    key: str
    numbers: Mapping[str, Any]
    patterns: PatternList

    def at(self, path: str, default: Any) -> Any:
        """Return the number of the first pattern that matches a path; ``default`` if none does.

        Raises:
            ComposeError: The patterns cannot be matched in bounded work.
        """
        try:
            found = self.patterns.first(path)
        except UnsafePattern as error:
            raise _unsafe(self.adapter, self.key, error.pattern, error) from None
        return default if found is None else self.numbers[found]


def pattern_table(adapter: Adapter, key: str) -> PatternTable:
    """Return a table of numbers by pattern, of which every pattern can be matched.

    Raises:
        ComposeError: The value is not such a table.
    """
    table = adapter.config.get(key) or {}
    if not isinstance(table, dict):
        raise adapter.refuse(f"its {ADAPTER_CONFIG} has {key} = {table!r}, which is not a table")
    if len(table) > PATTERN_COUNT:
        raise adapter.refuse(f"its {ADAPTER_CONFIG} has {len(table)} patterns in {key}")
    for text in table:
        _number(adapter, table, text, 0)
    try:
        patterns = PatternList(table, Work())
    except UnsafePattern as error:
        raise _unsafe(adapter, key, error.pattern, error) from None
    return PatternTable(adapter=adapter, key=key, numbers=table, patterns=patterns)


def matches_module(adapter: Adapter, key: str, text: str, path: str, work: Work) -> bool:
    """Return whether a pattern of ``key`` matches the whole path of a module.

    Raises:
        ComposeError: It is no pattern, or cannot be matched in bounded work.
    """
    try:
        return matches_whole(text, path, work)
    except UnsafePattern as error:
        raise _unsafe(adapter, key, text, error) from None


def _unsafe(adapter: Adapter, key: str, text: str, error: UnsafePattern) -> ComposeError:
    if not text:
        return adapter.refuse(f"its {ADAPTER_CONFIG} has too many patterns in {key}: {error}")
    shown = text if len(text) <= 200 else text[:200] + "…"
    return adapter.refuse(f"{key} has {shown!r}, which is not a pattern to match here: {error}")


class Scaling(Struct, frozen=True, kw_only=True):
    """Rank and alpha of a low-rank method, and their exceptions by pattern of a module's path."""

    rank: int
    alpha: float
    rank_pattern: PatternTable
    alpha_pattern: PatternTable
    rslora: bool = False

    def at(self, path: str) -> tuple[int, float]:
        """Return the rank at a module path, and the scale alpha / rank (rsLoRA: alpha / √rank)."""
        rank: int = self.rank_pattern.at(path, self.rank)
        alpha: float = self.alpha_pattern.at(path, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)


def scaling_of(adapter: Adapter, *, alpha: str, rslora: bool = False) -> Scaling:
    """Return the scaling of an adapter; ``alpha`` is the method's key for alpha.

    Raises:
        ComposeError: A rank is not a positive integer, or alpha is not a number.
    """
    ranks = pattern_table(adapter, "rank_pattern")
    for rank in ranks.numbers.values():
        _positive(adapter, "rank_pattern", rank)
    return Scaling(
        rank=positive(adapter, "r", 8),
        alpha=number(adapter, alpha, 8),
        rank_pattern=ranks,
        alpha_pattern=pattern_table(adapter, "alpha_pattern"),
        rslora=rslora,
    )
