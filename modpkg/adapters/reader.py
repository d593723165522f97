"""From an adapter as PEFT writes it to changes of a base, for all methods."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs

from modpkg.adapters import expert_parameters
from modpkg.adapters.changes import Adapter, AdapterChanges, Site, TensorChange
from modpkg.adapters.layers import REPLICATION, replicate, replicated_ranges
from modpkg.adapters.memory import disk_name, in_memory, on_disk, ties_in_memory, with_untied
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.methods import METHODS, UNSUPPORTED
from modpkg.adapters.methods.lora import LORA
from modpkg.adapters.names import (
    AdapterTensors,
    NameMapping,
    find_mapping,
    group_tensors,
    name_among_adapters,
    spellings,
    without_own_name,
)
from modpkg.adapters.peft_config import check_counts, strings
from modpkg.adapters.saved_modules import (
    bind_saved,
    drop_tied_copies,
    labels_of,
    refuse_shared_output,
    refuse_tied,
    shares_output,
)
from modpkg.adapters.targets import refuse_partial, refuse_unsaved
from modpkg.adapters.ties import is_saved, refuse_ties
from modpkg.adapters.vocabulary import resized_base, resized_rows
from modpkg.core.bounds import MODELS_WITHIN
from modpkg.core.errors import ModpkgError, ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.records import MemoryRecord
from modpkg.core.tensors import DTypeShape, TypedTensor

_IN_LAYER = re.compile(r"(?:[^\W\d]\w*\.)+\d+\.")
"""A name in a layer, as a whole model has it, beginning with the name of a module."""
_RUNS = 12
"""Ranges of layers that an error writes out."""


def bind_adapter(
    module: str,
    names: Mapping[str, DTypeShape],
    config: Mapping[str, Any],
    base: Mapping[str, TypedTensor],
    *,
    architecture: str | None = None,
    base_name: str = "the base",
    model_config: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    layers: Sequence[tuple[int, int]] | None = None,
    memory: MemoryRecord | None = None,
    inside: bool = True,
) -> AdapterChanges:
    """Return what an adapter changes in a base; every tensor of it is used exactly once.

    A module path matches the base tensor ``<path>.weight``; see `modpkg.adapters.names` for how
    names on disk may differ.

    Args:
        module: The adapter's name, for errors.
        names: Dtype and shape of each tensor in the adapter's file.
        config: Its ``adapter_config.json``, as PEFT writes it.
        base: The base's tensors.
        architecture: The base's ``model_type``.
        base_name: The base's name, for errors.
        model_config: The base's ``config.json``.
        digests: Digests of the adapter's tensors.
        layers: The ranges of layers that ``base`` was assembled from; empty if it has its own.
            Without it, an adapter trained on repeated layers is bound to a base with the same
            layers repeated.
        memory: The base as transformers has it in memory, if the adapter is bound to that.
        inside: Whether an adapter of one model within the base (the language model of one for
            pictures) is bound to that.

    Raises:
        ComposeError: Part of the adapter would not be applied, or its shapes do not fit the base.
        ReleaseError: A tensor has no counterpart in the base.
    """
    untied = None if memory is None else memory.untied
    if untied is not None:
        base = with_untied(untied, base, module, base_name)
    table = base if memory is None else in_memory(memory, base, module, base_name)
    adapter = Adapter(
        module=module,
        names=names,
        config=config,
        base=table,
        base_name=base_name,
        architecture=architecture,
        model_config=model_config or {},
        digests=digests or {},
        renames={} if memory is None else memory.names,
        ties=() if memory is None or untied is None else ties_in_memory(memory, untied, table),
    )
    check_counts(adapter)
    try:
        return _bind_spelled(adapter, base, layers, memory)
    except ReleaseError as error:
        if error.code != "M207" or not inside or memory is not None or layers:
            raise
        return _bind_within(adapter, error)


def _without_base(
    module: str, names: Mapping[str, DTypeShape], config: Mapping[str, Any], base_name: str
) -> Adapter:
    """Return an adapter of which no base is known; ``base_name`` is for errors."""
    return Adapter(
        module=module,
        names=names,
        config=config,
        base={},
        base_name=base_name,
        architecture=None,
        model_config={},
    )


def check_alone(module: str, names: Mapping[str, DTypeShape], config: Mapping[str, Any]) -> None:
    """Check what can be known of an adapter without its base: method, settings and patterns.

    Raises:
        ComposeError: It cannot be composed exactly with any base.
    """
    adapter = _without_base(module, names, config, "its base")
    check_counts(adapter)
    method = method_of(adapter)
    replicated_ranges(adapter)
    try:
        shared = group_tensors(adapter, method.keys).shared
    except ModpkgError:  # which modules names are of may depend on the base
        return
    method.bind(adapter, (), shared)


def _bind_within(adapter: Adapter, refusal: ReleaseError) -> AdapterChanges:
    """Bind an adapter to the one model within the base that it fits.

    Raises:
        ReleaseError: There is none, or several; ``refusal`` if no model has such names.
        ComposeError: It does not fit the only one of such names.
    """
    target = str(refusal.values["target"])
    ends = {target, target.partition(".")[2]}
    places = sorted(
        {
            name.removesuffix(end)
            for name in adapter.base
            for end in ends
            if name.endswith(f".{end}") and _IN_LAYER.match(end)
        }
    )
    if len(places) > MODELS_WITHIN:
        raise refusal
    found: dict[str, AdapterChanges] = {}
    reason: ModpkgError = refusal
    for place in places:
        part = {
            name.removeprefix(place): tensor
            for name, tensor in adapter.base.items()
            if name.startswith(place)
        }
        try:
            changes = _bind_spelled(structs.replace(adapter, base=part), part, None, None)
        except ModpkgError as error:
            reason = error if len(places) == 1 else refusal
            continue
        if not (changes.added or changes.rows or changes.prompt or changes.base_names):
            found[place] = changes
    if len(found) > 1:
        raise adapter.unbound(
            str(refusal.values["example"]),
            f"it could be for {' or '.join(repr(f'{place}{target}') for place in found)}",
        )
    if not found:
        raise reason
    ((place, changes),) = found.items()
    return structs.replace(
        changes,
        changes=tuple(
            structs.replace(
                change,
                target=place + change.target,
                reads={role: place + name for role, name in change.reads.items()},
            )
            for change in changes.changes
        ),
    )


def _bind_spelled(
    adapter: Adapter,
    base: Mapping[str, TypedTensor],
    layers: Sequence[tuple[int, int]] | None,
    memory: MemoryRecord | None,
) -> AdapterChanges:
    """Return what an adapter changes, as both of its spellings do; see `spellings`."""
    first, *others = spellings(adapter)
    try:
        found = _bind(first, base, layers, memory)
    except ModpkgError:
        for other in others:
            with contextlib.suppress(ModpkgError):
                return _bind(other, base, layers, memory)
        raise
    again = found
    for other in others:
        with contextlib.suppress(ModpkgError):
            again = _bind(other, base, layers, memory)
    if again != found:
        raise adapter.refuse(
            "a trainer's wrapper is in the names of its tensors, and with it the patterns in its "
            f"{ADAPTER_CONFIG} match other layers than without. Write patterns that match both, or "
            "that name the wrapper if the model was wrapped before it became PEFT's"
        )
    return found


def _bind(
    adapter: Adapter,
    base: Mapping[str, TypedTensor],
    layers: Sequence[tuple[int, int]] | None,
    memory: MemoryRecord | None,
) -> AdapterChanges:
    """Return what an adapter changes; see `bind_adapter`."""
    method = method_of(adapter)
    _refuse_empty(adapter, method)
    base_names: dict[str, str] = {}
    if ranges := replicated_ranges(adapter):
        if memory is not None and memory.untied is not None:
            raise adapter.refuse("it repeats layers of a base whose tensors are tied")
        if memory is not None:
            raise adapter.refuse("it repeats layers, which transformers renames when it loads them")
        if layers is None:
            replicated, base_names = replicate(adapter, ranges)
            adapter = structs.replace(adapter, base=replicated)
        elif ranges != [tuple(each) for each in layers]:
            raise adapter.refuse(_recipe_hint(adapter, ranges))
    tensors = group_tensors(adapter, method.keys)
    refuse_ties(adapter, tensors)
    drop_tied_copies(adapter, tensors)
    prompt = method.virtual_tokens(adapter, tensors) if method.virtual_tokens else None
    parameters = expert_parameters.parameters_of(adapter, tensors.sites) if method is LORA else {}
    mapping = _mapping(adapter, method, tensors, parameters)
    if rows := resized_rows(adapter, tensors, mapping):
        adapter = structs.replace(adapter, base=resized_base(adapter.base, rows))
    changes = _bind_method(adapter, method, tensors, parameters, mapping)
    changes, added = bind_saved(adapter, tensors, mapping, changes)
    saved = strings(adapter, "modules_to_save")
    of_base = {mapping.find(name) for name in tensors.plain if not is_saved(name, saved)}
    if memory is not None:
        changes = on_disk(adapter, memory, changes, base)
        rows = {disk_name(memory, name): count for name, count in rows.items()}
        of_base = {disk_name(memory, name) for name in of_base if name is not None}
    return AdapterChanges(
        changes=tuple(changes),
        unused=tuple(tensors.unused),
        added=added,
        config=labels_of(adapter, added),
        rows=rows,
        resized=tuple(
            change.target
            for change in changes
            if change.op == "dense" and change.target in rows and change.target in of_base
        ),
        prompt=prompt,
        base_names=base_names,
    )


def _refuse_empty(adapter: Adapter, method: PeftMethod) -> None:
    """Check that every tensor has values, but those that its method may leave empty.

    Raises:
        ReleaseError: One has none: a part of a model whose parameters lie on several devices.
    """
    own = name_among_adapters(adapter, method.keys)
    for name in sorted(adapter.names):
        shape = adapter.shape(name)
        plain = without_own_name(name, own, method.keys)
        empty = [key for key, count in method.empty.items() if count == len(shape)]
        if 0 in shape and not any(f".{key}" in f".{plain}" for key in empty):
            raise ReleaseError("M220", module=adapter.module, tensor=name, shape=list(shape))


def _mapping(
    adapter: Adapter, method: PeftMethod, tensors: AdapterTensors, parameters: Mapping[str, str]
) -> NameMapping:
    """Return how the adapter's names map to the base's."""
    required: dict[str, str] = {}
    for path, roles in tensors.sites.items():
        target = _weight_of(path, tensors)
        if path in parameters:
            target = expert_parameters.example_name(adapter, parameters[path])
        refuse_shared_output(adapter, target, min(roles.values()))
        required[target] = min(roles.values())
    for path, tensor in tensors.tokens.items():
        if not shares_output(adapter, f"{path}.weight"):
            required[f"{path}.weight"] = tensor
    if required:
        return find_mapping(adapter, required)
    if method.virtual_tokens and not any(name in adapter.base for name in tensors.plain):
        return NameMapping(adapter)  # the whole modules beside them, if any, are new
    if tensors.plain:
        return find_mapping(adapter, tensors.plain)
    raise adapter.refuse(method.absent or "it has no tensor for any layer")


def _weight_of(path: str, tensors: AdapterTensors) -> str:
    """Return the name in the model of the weight of a module."""
    return f"{path}.in_proj_weight" if path in tensors.attention else f"{path}.weight"


def _bind_method(
    adapter: Adapter,
    method: PeftMethod,
    tensors: AdapterTensors,
    parameters: Mapping[str, str],
    mapping: NameMapping,
) -> list[TensorChange]:
    """Return the changes of the method itself, at most one per tensor of the base."""
    sites: list[Site] = []
    for path in sorted(tensors.attention):
        if tensors.sites.get(path, {}).keys() != {"a", "b"} or method is not LORA:
            raise adapter.refuse(
                f"{path!r} is an attention of torch's own, which PEFT changes by a plain LoRA only"
            )
    for path, roles in sorted(tensors.sites.items()):
        target = mapping.find(_weight_of(path, tensors))
        if path not in parameters and target is not None:
            bias = mapping.find(f"{path}.bias")
            output = path.removesuffix(".out_proj") in tensors.attention
            times = 2 if output and path not in tensors.attention else 1
            sites.append(Site(path=path, target=target, bias=bias, roles=roles, times=times))
    changes = method.bind(adapter, sites, tensors.shared)
    tensors.unused.extend(
        sorted(
            tensor for site in sites for tensor in site.roles.values() if 0 in adapter.shape(tensor)
        )
    )
    for path, parameter in sorted(parameters.items()):
        changes += expert_parameters.bind(adapter, parameter, tensors.sites[path], mapping)
    first: dict[str, str] = {}
    for change in changes:
        tensor = min(change.inputs.values())
        if (other := first.setdefault(change.target, tensor)) != tensor:
            raise adapter.unbound(tensor, f"{other!r} is for {change.target!r} too")
        refuse_tied(adapter, change)
    refuse_partial(
        adapter,
        {site.path: site.target for site in sites},
        {
            parameter: target
            for parameter in parameters.values()
            if (target := mapping.find(expert_parameters.example_name(adapter, parameter)))
        },
    )
    if method.virtual_tokens is None:
        refuse_unsaved(adapter, tensors.plain, [site.bias for site in sites if site.bias])
    return changes


def _recipe_hint(adapter: Adapter, ranges: Sequence[tuple[int, int]]) -> str:
    name = adapter.base_name.split(" ")[0]
    layers = ", ".join(
        f'{{ module = "{name}", range = [{first}, {stop}] }}' for first, stop in ranges[:_RUNS]
    )
    more = f", and so on for all {len(ranges)} of its {REPLICATION}" if ranges[_RUNS:] else ""
    return (
        f"it was trained on repeated layers; repeat them in the recipe: layers = [{layers}{more}]"
    )


def method_of(adapter: Adapter) -> PeftMethod:
    """Return the method of an adapter.

    Raises:
        ComposeError: The method is unknown or not supported.
    """
    peft_type = adapter.config.get("peft_type")
    method = METHODS.get(peft_type) if isinstance(peft_type, str) else None
    if method is None:
        reason = UNSUPPORTED.get(str(peft_type), f"supported are {', '.join(METHODS)}")
        raise adapter.refuse(f"its peft_type is {peft_type!r}: {reason}")
    return method


def model_names(
    module: str, names: Mapping[str, DTypeShape], config: Mapping[str, Any]
) -> set[str]:
    """Return the names of the tensors in its model that an adapter may be for, as it has them.

    Raises:
        ComposeError: The method is not supported, or a tensor is not one that it writes.
        ReleaseError: Two tensors are for the same module and role.
    """
    adapter = _without_base(module, names, config, "the base")
    tensors = group_tensors(adapter, method_of(adapter).keys)
    found = set(tensors.plain)
    parameters = strings(adapter, "target_parameters")
    for path in (*tensors.sites, *tensors.tokens):
        found |= {f"{path}.weight", f"{path}.bias"}
        plain = expert_parameters.without_wrappers(path)
        found |= {f"{plain}.{name.rpartition('.')[2]}" for name in parameters}
    return found
