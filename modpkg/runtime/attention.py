"""The attention that a model is run with, where the one who loads it chooses."""

from __future__ import annotations

from typing import Any

import torch

from modpkg.compose.confinement import confined
from modpkg.core.errors import RunError


def choose_attention(name: str, cls: Any, config: Any, attention: Any) -> None:
    """Set the attention in a model's config: one of transformers' names, or a registered one.

    transformers is the judge: what it would replace by another, fetch, or cannot run here is
    refused.

    Args:
        name: The model's name, for errors.
        cls: Its class.
        config: Its config object.
        attention: A name, as ``from_pretrained(attn_implementation=…)`` takes it.

    Raises:
        RunError: It cannot be used.
    """
    if not isinstance(attention, str):
        raise _refused(name, attention, "it is not a name")
    if "/" in attention:
        raise _refused(name, attention, "it names code that would have to be fetched")
    judge = cls.__new__(cls)
    torch.nn.Module.__init__(judge)
    judge.config = config
    try:
        with confined():
            used = judge._check_and_adjust_attn_implementation(attention, is_init_check=True)
    except Exception as error:  # transformers raises errors of many types
        raise _refused(name, attention, str(error)) from None
    if used != attention:
        raise _refused(name, attention, f"transformers would use {used!r} in its place")
    config._attn_implementation = attention


def not_with_attention(name: str, config: Any, reason: str) -> RunError | None:
    """Return the error for a model that the chosen attention breaks; None if none is chosen."""
    chosen = getattr(config, "_attn_implementation", None)
    return None if chosen is None else _refused(name, chosen, reason)


def _refused(name: str, attention: Any, reason: str) -> RunError:
    text = " ".join(reason.split())[:200].rstrip(".")
    return RunError("M865", name=name, attention=repr(attention)[:80], reason=text)
