"""The part of a ``config.json`` that is about text: transformers' ``get_text_config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NESTED = ("text_encoder", "decoder", "generator", "text_config")
VOCABULARY = ("vocab_size", "n_words")
"""Keys for the number of tokens, by architecture."""
SPECIAL_IDS = ("eos_token_id", "bos_token_id", "pad_token_id")


def text_part(config: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """Return the key of the nested config that is about text, and that config.

    The key is None, and the config the whole one, where nothing is nested or several are.
    """
    keys = [key for key in _NESTED if isinstance(config.get(key), dict)]
    return (keys[0], config[keys[0]]) if len(keys) == 1 else (None, config)


def edit_text(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of ``config.json`` to set, so that its text part has ``values``."""
    key, part = text_part(config)
    return dict(values) if key is None else {key: {**part, **values}}


def vocabulary(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the key and the number of tokens that a config names; None if it names none."""
    _, part = text_part(config)
    for key in VOCABULARY:
        value = part.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return key, value
    return None
