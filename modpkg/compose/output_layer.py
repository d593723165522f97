"""The output layer of a fine-tune, which its base ties to the embedding, or the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modpkg.adapters.layers import layer_path
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.records import UntiedRecord
from modpkg.core.same_values import is_output, ties
from modpkg.core.untied import TIES, untied_config


def config_of(module: InstalledModule) -> dict[str, Any]:
    """Return a module's ``config.json``; an empty one if it has none."""
    return read_json(module.files[CONFIG]) if CONFIG in module.files else {}


def embedding_for(output: TensorRef, tensors: Mapping[str, TensorRef]) -> str | None:
    """Return the name of the embedding that an output layer may be tied to.

    It is the only other matrix of that shape outside of layers; None if there are several, or none.
    """
    found = [
        name
        for name, ref in tensors.items()
        if list(ref.shape) == list(output.shape)
        and len(ref.shape) == 2
        and layer_path(name) is None
        and not is_output(name)
    ]
    return found[0] if len(found) == 1 else None


def with_tied_output(
    tensors: dict[str, TensorRef],
    base: Mapping[str, TensorRef],
    config: Mapping[str, Any],
    base_config: Mapping[str, Any],
) -> dict[str, TensorRef]:
    """Return a tied model's tensors beside those of an untied base: its output layer is there too.

    Args:
        tensors: The model's tensors.
        base: The base's tensors.
        config: The model's ``config.json``.
        base_config: The base's.
    """
    if not ties(config) or ties(base_config) is not False:
        return tensors
    added = {}
    for name in base.keys() - tensors.keys():
        if is_output(name) and (source := embedding_for(base[name], tensors)) is not None:
            added[name] = tensors[source]
    return tensors | added


def untied_by(
    module: InstalledModule, base: InstalledModule, config: Mapping[str, Any]
) -> UntiedRecord | None:
    """Return how a fine-tune with an output layer of its own unties its base.

    None if it has none, or the base is not tied, or is whatever its config says.
    """
    if not ties(config) or ties(config_of(module)) is not False:
        return None
    nested = [[key] for key, value in config.items() if isinstance(value, dict) and value.get(TIES)]
    places = [[], *nested]
    outputs = [name for name in sorted(module.tensors) if is_output(name)]
    if len(outputs) != 1 or ties(untied_config(config, places)) is not False:
        return None
    source = embedding_for(module.tensors[outputs[0]], base.tensors)
    return None if source is None else UntiedRecord(tensors={outputs[0]: source}, config=places)
