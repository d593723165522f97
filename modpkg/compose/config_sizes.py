"""What a config counts that transformers makes lists and tables of, before it gets the config."""

from __future__ import annotations

import re
from typing import Any

from modpkg.core.bounds import CONFIG_BLOCKS, CONFIG_CHUNK, CONFIG_LABELS, CONFIG_LAYERS

_OTHER = "(?!.*(?:vocab|theta|size|dim|length|position|token))"
"""What a key has that counts something else, as ``vocab_size_per_layer_input`` does."""
_COUNTS = (
    (
        re.compile(rf"^{_OTHER}(?:.*(?:layers?$|experts$|depth|blocks$|heads$)|n_layer)"),
        CONFIG_LAYERS,
    ),
    (re.compile(rf"^{_OTHER}.*(?:layer|block|stage)", re.IGNORECASE), CONFIG_BLOCKS),
    (re.compile(r"label|class", re.IGNORECASE), CONFIG_LABELS),
    (re.compile(r"^(?:mamba_)?chunk_size$"), CONFIG_CHUNK),
)
"""What transformers makes a list or table of, or fills texts up to, and the most of it."""
_LISTED = 1000


def size_problem(config: Any, key: str = "") -> str | None:
    """Return which number of layers, heads or labels is beyond any model's, at any depth.

    >>> size_problem({"text_config": {"num_labels": 10**8}})
    'num_labels is 100000000, more than 500000'
    """
    if isinstance(config, dict):
        found = (size_problem(value, str(inner)) for inner, value in config.items())
        return next((problem for problem in found if problem), None)
    if isinstance(config, list):
        found = (size_problem(value, key) for value in config[:_LISTED])
        return next((problem for problem in found if problem), None)
    if isinstance(config, int | float):
        for counts, most in _COUNTS:
            if config > most and counts.search(key):
                return f"{key} is {config}, more than {most}"
    return None


def check_config_sizes(config: Any) -> None:
    """Check a ``config.json``.

    Raises:
        ValueError: One of its counts is beyond any model's.
    """
    if (problem := size_problem(config)) is not None:
        raise ValueError(f"config.json is invalid: {problem}")
