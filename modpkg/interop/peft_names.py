"""An adapter with the names that its base's layers have in today's transformers.

Adapters of older versions name layers as they were in memory then, which for many architectures is
as they are on disk. PEFT wraps the modules that are in memory now, so an adapter is exported with
their paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modpkg.adapters.changes import Adapter
from modpkg.adapters.expert_parameters import without_wrappers
from modpkg.adapters.names import AdapterTensors, group_tensors
from modpkg.adapters.peft_config import Scaling, scaling_of, strings
from modpkg.adapters.reader import method_of
from modpkg.core.errors import ModpkgError
from modpkg.core.installed import InstalledModule
from modpkg.core.tensors import types_of

_SELECTING = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Keys that select among ``target_modules``; a list of all paths selects by itself."""


def names_in_memory(
    module: InstalledModule, config: Mapping[str, Any], rename: Callable[[str], str]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the new names of an adapter's tensors, by the old ones, and its configuration.

    Args:
        module: The adapter.
        config: Its ``adapter_config.json``.
        rename: Returns the name in memory of a tensor of the base.
    """
    types = types_of(module.tensors)
    adapter = Adapter(
        module=module.name,
        names=types,
        config=config,
        base={},
        base_name="the base",
        architecture=None,
        model_config={},
    )
    try:
        tensors = group_tensors(adapter, method_of(adapter).keys)
    except ModpkgError:
        return {}, dict(config)
    paths = {
        path: rename(f"{path}.weight").removesuffix(".weight")
        for path in (*tensors.sites, *tensors.tokens)
    }
    plain = {name: rename(name) for name in tensors.plain}
    if all(old == new for old, new in (*paths.items(), *plain.items())):
        return {}, dict(config)
    renamed = _tensor_names(tensors, paths, plain)
    return renamed, _config(adapter, tensors, paths, plain)


def _tensor_names(
    tensors: AdapterTensors, paths: Mapping[str, str], plain: Mapping[str, str]
) -> dict[str, str]:
    renamed: dict[str, str] = {}
    for path, roles in tensors.sites.items():
        for name in roles.values():
            renamed[name] = _swapped(name, path, paths[path])
    for path, name in tensors.tokens.items():
        renamed[name] = _swapped(name, path, paths[path])
    for old, name in tensors.plain.items():
        renamed[name] = _swapped(name, old, plain[old])
    return {old: new for old, new in renamed.items() if old != new}


def _swapped(name: str, old: str, new: str) -> str:
    """Return a tensor's name with the path in it replaced."""
    if old in name:
        return name.replace(old, new, 1)
    # PEFT's wrapper stands inside of the path: model.embed.modules_to_save.weight
    parent, _, leaf = old.rpartition(".")
    other, _, new_leaf = new.rpartition(".")
    if parent and leaf == new_leaf:
        return name.replace(parent, other, 1)
    return name


def _config(
    adapter: Adapter,
    tensors: AdapterTensors,
    paths: Mapping[str, str],
    plain: Mapping[str, str],
) -> dict[str, Any]:
    """Return the configuration with the paths that it names replaced."""
    config = dict(adapter.config)
    parameters = strings(adapter, "target_parameters")
    sites = [path for path in tensors.sites if not _wraps_parameter(path, parameters)]
    if sites and config.get("target_modules"):
        config["target_modules"] = sorted(paths[path] for path in sites)
        config |= {key: None for key in _SELECTING if key in config}
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            rslora = bool(config.get("use_rslora"))
            scaling = scaling_of(adapter, alpha="lora_alpha", rslora=rslora)
            ranks = {p: scaling.at(p)[0] for p in sites}
            alphas = {p: scaling.at(p)[1] * _root(scaling, ranks[p]) for p in sites}
            own = {paths[p]: rank for p, rank in ranks.items()}
            config["rank_pattern"] = own | (config.get("rank_pattern") or {})
            own_alphas = {paths[p]: alpha for p, alpha in alphas.items()}
            config["alpha_pattern"] = own_alphas | (config.get("alpha_pattern") or {})
    if isinstance(saved := config.get("modules_to_save"), list):
        strings(adapter, "modules_to_save")
        config["modules_to_save"] = sorted(
            {new for entry in saved for new in _modules(entry, plain)}
        )
    if isinstance(table := config.get("trainable_token_indices"), dict):
        config["trainable_token_indices"] = {
            new: rows for entry, rows in table.items() for new in _modules(entry, paths)
        }
    return config


def _root(scaling: Scaling, rank: int) -> float:
    """Return what alpha is divided by."""
    return math.sqrt(rank) if scaling.rslora else rank


def _wraps_parameter(path: str, parameters: Sequence[str]) -> bool:
    """Return whether a path is that of PEFT's wrapper of a module's parameter."""
    plain = without_wrappers(path)
    return any(f".{plain}.{key.rpartition('.')[2]}".endswith(f".{key}") for key in parameters)


def _modules(entry: str, renamed: Mapping[str, str]) -> set[str]:
    """Return the paths in memory of the modules that an entry of the configuration names."""
    found = set()
    for old, new in renamed.items():
        place = f".{old}.".find(f".{entry}.")
        if place < 0:
            continue
        tail = f".{old}."[place + len(entry) + 2 :]
        own = f"{new}."
        if old != new and own.endswith("." + tail if tail else "."):
            found.add(own[: len(own) - len(tail) - 1] if tail else new)
    return found or {entry}
