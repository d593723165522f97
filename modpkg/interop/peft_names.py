"""An adapter with the names that its base's layers have in today's transformers.

Adapters of older versions name layers as they were in memory then, which for many architectures is
as they are on disk, and a trainer may have wrapped the model. PEFT wraps the modules that are in
memory now, so an adapter is exported with their paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modpkg.adapters import bind_adapter
from modpkg.adapters.changes import Adapter
from modpkg.adapters.expert_parameters import without_wrappers
from modpkg.adapters.methods.ia3 import is_feedforward
from modpkg.adapters.names import (
    AdapterTensors,
    group_tensors,
    name_among_adapters,
    path_in_model,
    spellings,
    without_own_name,
)
from modpkg.adapters.patterns import Work
from modpkg.adapters.peft_config import pattern_table, strings
from modpkg.adapters.reader import method_of
from modpkg.adapters.wrappers import unwrapped
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import read_json
from modpkg.core.records import ReleaseRecord
from modpkg.core.tensors import types_of
from modpkg.runtime.memory_layout import MemoryLayout

_SELECTING = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Keys that select among ``target_modules``; a list of all paths selects by itself."""
_PATTERNS = (
    "alpha_pattern",
    "block_size_pattern",
    "lambda_pattern",
    "n_frequency_pattern",
    "rank_pattern",
)


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
    adapter = spellings(
        Adapter(
            module=module.name,
            names=types,
            config=config,
            base={},
            base_name="the base",
            architecture=None,
            model_config={},
            digests={name: ref.digest for name, ref in module.tensors.items()},
        )
    )[0]
    try:
        tensors = group_tensors(adapter, method_of(adapter).keys)
    except ModpkgError:
        return {}, dict(config)
    paths = {
        path: rename(adapter.own_name(f"{path}.weight")).removesuffix(".weight")
        for path in (*tensors.sites, *tensors.tokens)
    }
    plain = {name: rename(adapter.own_name(name)) for name in tensors.plain}
    keys = method_of(adapter).keys
    own = name_among_adapters(adapter, keys)

    def cleaned(name: str) -> str:
        return unwrapped(without_own_name(name, own, keys), own=False)

    if all(old == new for old, new in (*paths.items(), *plain.items())) and not any(
        cleaned(name) != name for name in types
    ):
        return {}, dict(config)
    renamed = _tensor_names(adapter, tensors, paths, plain, cleaned)
    return renamed, _config(adapter, tensors, paths, plain, rename)


def names_of_layers(
    module: InstalledModule,
    base: ReleaseRecord,
    config: Mapping[str, Any],
    layout: MemoryLayout,
) -> Callable[[str], str]:
    """Return what gives the name in memory of a base's tensor, by the name an adapter has for it.

    An adapter of one model within the base, such as the language model of one for pictures, lacks
    the beginning of names, or has another.

    Args:
        module: The adapter.
        base: The release record of its base.
        config: The base's ``config.json``.
        layout: The base in memory.
    """
    places: dict[str, str] | None = None

    def rename(name: str) -> str:
        nonlocal places
        new = layout.rename(name)
        if new in layout.shapes or new.rpartition(".")[0] in layout.modules:
            return new
        if places is None:
            places = _places(module, base, config)
        for begins, place in places.items():
            own = layout.rename(place + name.removeprefix(begins))
            if name.startswith(begins) and own in layout.shapes:
                return own
        return new

    return rename


def _places(
    module: InstalledModule, base: ReleaseRecord, config: Mapping[str, Any]
) -> dict[str, str]:
    """Return what the base's names begin with, by what an adapter's do; one pair at most."""
    settings = read_json(module.files[ADAPTER_CONFIG])
    try:
        bound = bind_adapter(
            module.name,
            types_of(module.tensors),
            settings,
            base.tensors,
            architecture=str(config.get("model_type")),
            base_name=base.name,
            model_config=config,
            digests={name: ref.digest for name, ref in module.tensors.items()},
        )
    except ModpkgError:
        return {}
    for change in bound.changes:
        own = path_in_model(min(change.inputs.values()), own=False)
        parts, target = own.split("."), change.target.split(".")
        for start in (0, 1):
            for length in range(len(parts) - 1, start + 2, -1):
                place = target[: -1 - (length - start)]
                if target[:-1] == [*place, *parts[start:length]] and place != parts[:start]:
                    return {"".join(f"{part}." for part in parts[:start]): ".".join([*place, ""])}
    return {}


def _tensor_names(
    adapter: Adapter,
    tensors: AdapterTensors,
    paths: Mapping[str, str],
    plain: Mapping[str, str],
    cleaned: Callable[[str], str],
) -> dict[str, str]:
    renamed = {name: cleaned(name) for name in adapter.names}
    for path, roles in tensors.sites.items():
        for name in roles.values():
            renamed[name] = _swapped(cleaned(name), adapter.own_name(path), paths[path])
    for path, name in tensors.tokens.items():
        renamed[name] = _swapped(cleaned(name), adapter.own_name(path), paths[path])
    for old, name in tensors.plain.items():
        renamed[name] = _swapped(cleaned(name), adapter.own_name(old), plain[old])
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
    rename: Callable[[str], str],
) -> dict[str, Any]:
    """Return the configuration with the paths that it names replaced."""
    config = dict(adapter.config)
    keys = strings(adapter, "target_parameters")
    modules = {
        path: paths[path]
        for path in tensors.sites
        if not _parameters_at(path, keys, tensors)
        and path.removesuffix(".out_proj") not in tensors.attention
    }
    parameters = {
        name: rename(adapter.own_name(name))
        for path in tensors.sites
        for name in _parameters_at(path, keys, tensors)
    }
    if config.get("peft_type") == "TRAINABLE_TOKENS":
        modules = {path: paths[path] for path in tensors.tokens}
    if modules and config.get("target_modules"):
        config["target_modules"] = sorted(modules.values())
        config |= {key: None for key in _SELECTING if key in config}
    if any(old != new for old, new in parameters.items()):
        config["target_parameters"] = sorted(parameters.values())
    if config.get("feedforward_modules"):
        work = Work()
        config["feedforward_modules"] = sorted(
            new for old, new in modules.items() if is_feedforward(adapter, old, work)
        )
    config |= _patterns(adapter, modules | parameters)
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


def _patterns(adapter: Adapter, places: Mapping[str, str]) -> dict[str, Any]:
    """Return tables of numbers by pattern as tables by new path, the longest path first.

    No path is then taken for the end of another one.
    """
    if adapter.config.get("peft_type") == "ADALORA":  # what is kept, by name of a tensor
        kept = adapter.config.get("rank_pattern") or {}
        ends = {f"{path}.lora_E{end}": path for path in places for end in ("", ".default")}
        swapped = {
            _swapped(unwrapped(name, own=False), ends[name], places[ends[name]])
            if name in ends
            else name: each
            for name, each in kept.items()
        }
        return {"rank_pattern": swapped} if kept else {}
    ordered = sorted(places.items(), key=lambda place: -len(place[1]))
    tables = {}
    for key in _PATTERNS:
        if adapter.config.get(key):
            table = pattern_table(adapter, key)
            found = {new: table.at(old, None) for old, new in ordered}
            tables[key] = {new: value for new, value in found.items() if value is not None}
    return tables


def _parameters_at(path: str, keys: Sequence[str], tensors: AdapterTensors) -> list[str]:
    """Return the parameters that ``target_parameters`` names in the module of a path.

    A key without a path, like PEFT's own ``gate_up_proj``, could be in any module. Where several
    modules are changed, it is in those that PEFT wrapped more than once, if there are any.
    """
    plain = without_wrappers(path)
    wrapped = {without_wrappers(site) for site in tensors.sites if site.endswith(".base_layer")}
    own = [key for key in keys if "." in key or not wrapped or plain in wrapped]
    names = dict.fromkeys(f"{plain}.{key.rpartition('.')[2]}" for key in own)
    return [name for name in names if any(f".{name}".endswith(f".{key}") for key in own)]


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
