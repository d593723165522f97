"""Names that trainers put around a model's modules, and which say nothing about the layer."""

from __future__ import annotations

from collections.abc import Iterable

_WRAPPERS = frozenset(
    {
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_orig_mod",
    }
)
"""Of torch.compile, activation checkpointing, FSDP, fairscale and Lightning."""
_PARALLEL = "module"
"""Of DataParallel and DeepSpeed; a model may have a module of that name too."""


def unwrapped(name: str, own: bool) -> str:
    """Return a name without the parts that trainers' wrappers add.

    Args:
        name: A tensor's name or a module's path.
        own: Whether ``module`` is a name of the model's own.

    >>> unwrapped("module.model.layers.0._fsdp_wrapped_module.mlp", own=False)
    'model.layers.0.mlp'
    """
    parts = name.split(".")
    kept = [part for part in parts if part not in _WRAPPERS and (own or part != _PARALLEL)]
    return ".".join(kept) if len(kept) < len(parts) else name


def has_module_named_module(names: Iterable[str]) -> bool:
    """Return whether a model itself has a module called ``module``."""
    return any(_PARALLEL in name.split(".") for name in names)
