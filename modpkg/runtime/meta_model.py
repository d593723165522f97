"""Models without values: built on torch's meta device from a config alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modpkg.compose.confinement import confined
from modpkg.core.bounds import BUILT_LAYERS
from modpkg.core.errors import RunError
from modpkg.runtime.architecture import class_of_config

_COUNTS = re.compile(r"layers?$|^n_layer|experts$|depth|blocks$|heads$")


def meta_model(name: str, config: Mapping[str, Any], tensors: int) -> Any | None:
    """Return a model without values, or None if its architecture cannot be built without.

    Args:
        name: Its name, for errors.
        config: Its ``config.json``.
        tensors: The number of its tensors.

    Raises:
        RunError: The architecture is unknown, or the config is invalid.
        MissingExtra: Transformers is not installed.
    """
    _check_size(name, config)
    cls, parsed = class_of_config(name, dict(config))
    import torch
    from transformers.initialization import no_init_weights

    from modpkg.compose.backing import parts_bounded

    try:
        with (
            torch.device("meta"),
            no_init_weights(),
            confined(),
            parts_bounded(name, tensors),
        ):
            return cls(parsed)
    except RunError:
        raise
    except Exception:  # transformers' constructors raise errors of many types
        return None


def _check_size(name: str, config: Mapping[str, Any], depth: int = 0) -> None:
    for key, value in config.items():
        if isinstance(value, int) and value > BUILT_LAYERS and _COUNTS.search(str(key)):
            reason = f"config.json is invalid ({key} is {value})"
            raise RunError("M704", name=name, reason=reason)
        if isinstance(value, dict) and depth < 4:
            _check_size(name, value, depth + 1)
