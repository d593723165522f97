"""Models without values: built on torch's meta device from a config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modpkg.compose.confinement import confined
from modpkg.core.errors import RunError
from modpkg.runtime.architecture import class_of_config


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
