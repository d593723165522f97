"""Which modules of a base an adapter's configuration names, and whether its file has just those.

PEFT changes every module that ``target_modules`` names; where the file has nothing for one, PEFT
warns and leaves it as it was initialised. A file that lacks some of them is a part of an adapter,
or was made for another base. Tensors for other modules are left out by PEFT: such a file and its
configuration do not belong together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modpkg.adapters.changes import Adapter
from modpkg.adapters.layers import LayerPath, layer_path
from modpkg.adapters.pattern_list import SavedPatterns
from modpkg.adapters.patterns import Pattern, UnsafePattern, Work, check, matches_whole
from modpkg.adapters.peft_config import strings
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.interface import ports_of
from modpkg.core.name_ends import ends_of

_SHARED_KV = ("gemma3n", "gemma4")
"""Prefixes of architectures whose upper layers do not use the keys and values on disk."""
_SHARED = re.compile(r"\.[kv]_(?:proj|norm)\.")
_EXPERT = re.compile(r"(?<=\.experts)\.\d+\.")
_LAYER = Pattern("", r".*?\.[^.]*\.(?P<idx>\d+)\.", free=2)
"""The number that ``layers_to_transform`` lists: the first one after two parts of a path."""


def refuse_partial(
    adapter: Adapter, modules: Mapping[str, str], parameters: Mapping[str, str]
) -> None:
    """Check that an adapter has tensors for all layers' modules and parameters that it targets.

    It may have none for other modules. Only the stacks of layers are checked that it has tensors
    for: it may have been trained in a class that lacks the others, such as an encoder alone.

    Args:
        adapter: The adapter, with its base.
        modules: By path of a module that it changes, the name of its weight in the base.
        parameters: The same for parameters.

    Raises:
        ComposeError: It lacks some, or has tensors for other modules.
    """
    targeted = _targeted_modules(adapter)
    # The output projection of torch.nn.MultiheadAttention is changed with the module around it.
    around = {path: path.removesuffix(".out_proj") for path in modules}
    if targeted is not None and (
        other := [path for path in modules if not targeted(path) and not targeted(around[path])]
    ):
        raise adapter.refuse(
            f"it has tensors for {min(other)!r}, which its {ADAPTER_CONFIG} does not name "
            f"(target_modules, exclude_modules, layers_to_transform; {len(other)} such modules): "
            "PEFT leaves them out"
        )
    keys = frozenset(strings(adapter, "target_parameters"))
    missing: list[tuple[int, str]] = []
    seen: dict[str, set[int]] = {}
    for targets, named in (
        (modules, targeted),
        (parameters, lambda path: not keys.isdisjoint(ends_of(path))),
    ):
        if named is not None:
            missing += _missing(adapter, targets, named, whole=targets is modules, seen=seen)
    if not missing and targeted is not None:
        missing += [(0, path) for path in _missing_outside(adapter, modules, targeted)]
    if not missing:
        return
    layer, path = min(missing)
    stacks = list(seen.values())
    most = max(map(len, stacks), default=0)
    if most and all(layers == set(range(most)) for layers in stacks) and layer >= most:
        raise adapter.refuse(
            f"it changes {most} layers and {adapter.base_name} has "
            f"{max(number for number, _ in missing) + 1}: it was trained on another base, or is a "
            "part of an adapter"
        )
    raise adapter.refuse(
        f"it has no tensors for {path!r}, which its target_modules name "
        f"(nor for {len(missing) - 1} more); save all of it, or if this is meant, name what it "
        f"leaves out in exclude_modules of its {ADAPTER_CONFIG}"
        if len(missing) > 1
        else f"it has no tensors for {path!r}, which its target_modules name; save all of it, or "
        f"if this is meant, name it in exclude_modules of its {ADAPTER_CONFIG}"
    )


def _missing(
    adapter: Adapter,
    targets: Mapping[str, str],
    named: Callable[[str], bool],
    *,
    whole: bool,
    seen: dict[str, set[int]],
) -> list[tuple[int, str]]:
    """Return the layers and paths that are named and have no tensors.

    Args:
        adapter: The adapter, with its base.
        targets: By path of what it changes, the name in the base.
        named: Whether its configuration names a path.
        whole: Whether kinds of modules are looked for that it changes in no layer.
        seen: The layers that it changes, by stack; is filled.
    """
    kinds: dict[tuple[str, str], tuple[LayerPath, set[int]]] = {}
    same = True
    dimensions = set()
    for path, target in targets.items():
        place, own = layer_path(target), layer_path(path)
        if place is None or own is None or place.layer != own.layer:
            continue
        kinds.setdefault((place.stack, place.rest), (own, set()))[1].add(place.layer)
        seen.setdefault(place.stack, set()).add(place.layer)
        same = same and place.rest == f"{own.rest}.weight"
        dimensions.add(len(adapter.target_shape(target)))
    stacks = {stack: own.stack for (stack, _), (own, _) in kinds.items()}
    experts = {_EXPERT.sub(".", rest) for _, rest in kinds}
    count = _layers_of(adapter)
    ends = {stack: max(seen[stack]) + 1 if count is None else count for stack in stacks}
    missing = []
    for name in adapter.base:
        place = layer_path(name)
        if place is None or place.stack not in stacks or _unused(adapter, name):
            continue
        if place.layer >= ends[place.stack]:
            continue
        kind = kinds.get((place.stack, place.rest))
        if kind is not None:
            path = f"{kind[0].stack}.{place.layer}.{kind[0].rest}"
            if place.layer not in kind[1] and named(path):
                missing.append((place.layer, path))
        elif (
            whole
            and same
            and name.endswith(".weight")
            and (".experts." not in name or _EXPERT.sub(".", place.rest) in experts)
        ):
            path = f"{stacks[place.stack]}.{place.layer}.{place.rest.removesuffix('.weight')}"
            if len(adapter.target_shape(name)) in dimensions and named(path):
                missing.append((place.layer, path))
    return missing


def _missing_outside(
    adapter: Adapter, targets: Mapping[str, str], named: Callable[[str], bool]
) -> list[str]:
    """Return the modules outside of layers that a name in ``target_modules`` is for alone."""
    names = adapter.config.get("target_modules")
    if not targets or not isinstance(names, list):
        return []
    touched = set(targets.values())
    found: dict[str, list[str]] = {name: [] for name in names if isinstance(name, str)}
    for tensor in adapter.base:
        if tensor.endswith(".weight"):
            for end in ends_of(tensor.removesuffix(".weight")):
                if end in found:
                    found[end].append(tensor)
    missing = []
    for own in found.values():
        if own and not touched.intersection(own) and not any(map(layer_path, own)):
            paths = (tensor.removesuffix(".weight") for tensor in own)
            missing += [path for path in paths if named(path)]
    return missing


def _unused(adapter: Adapter, name: str) -> bool:
    """Return whether the model may not have a tensor that its file has."""
    architecture = adapter.architecture or ""
    return architecture.startswith(_SHARED_KV) and _SHARED.search(name) is not None


def _layers_of(adapter: Adapter) -> int | None:
    nested = adapter.model_config.get("text_config")
    model = {**(nested if isinstance(nested, dict) else {}), **adapter.model_config}
    count = ports_of(model, None).get("layers")
    return count if isinstance(count, int) else None


def _targeted_modules(adapter: Adapter) -> Callable[[str], bool] | None:
    """Return whether ``target_modules`` names a path, as PEFT's `check_target_module_exists`.

    None if that is not known: the configuration names none, or with a pattern that is not safe.
    """
    config = adapter.config
    target = _matcher(config.get("target_modules"), unknown=False)
    excluded = _matcher(config.get("exclude_modules") or [], unknown=True)
    saved = _saved(strings(adapter, "modules_to_save"))
    by_layer = _layers_to_transform(config)
    if target is None or excluded is None or saved is None or by_layer is None:
        return None
    return lambda path: not excluded(path) and not saved(path) and target(path) and by_layer(path)


def _saved(names: Sequence[str]) -> Callable[[str], bool] | None:
    """Return whether a path is in a module of ``modules_to_save``; None if that is not known."""
    try:
        patterns = SavedPatterns(names, Work())
    except UnsafePattern:
        return None

    def matched(path: str) -> bool:
        try:
            return patterns.first(path) is not None
        except UnsafePattern:
            return True

    return matched


def _matcher(value: Any, *, unknown: bool) -> Callable[[str], bool] | None:
    """Return whether a path matches a setting, a pattern or a list of names; None if unknown.

    ``unknown`` is what is returned for a path where matching it takes too long.
    """
    if isinstance(value, str):
        if value == "all-linear":
            return None
        work = Work()

        def matched(path: str) -> bool:
            try:
                return matches_whole(value, path, work)
            except UnsafePattern:
                return unknown

        try:
            check(value)
        except UnsafePattern:
            return None
        return matched
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    names = frozenset(value)
    if not names:
        return lambda path: False
    return lambda path: not names.isdisjoint(ends_of(path))


def _layers_to_transform(config: Mapping[str, Any]) -> Callable[[str], bool] | None:
    """Return whether ``layers_to_transform`` and ``layers_pattern`` choose a path.

    None if that is not known: a pattern is not safe to match.
    """
    wanted = config.get("layers_to_transform")
    if isinstance(config.get("target_modules"), str) or wanted is None or wanted == []:
        return lambda path: True
    listed = wanted if isinstance(wanted, list) else [wanted]
    layers = {layer for layer in listed if isinstance(layer, int | float)}
    stacks = config.get("layers_pattern") or []
    names = stacks if isinstance(stacks, list) else [stacks]
    work = Work()
    try:
        patterns = [_stack(name, work) for name in names if isinstance(name, str)] or [_LAYER]
    except UnsafePattern:
        return None

    def chosen(path: str) -> bool:
        try:
            matches = (each.match(path, work) for each in patterns)
            found = next((match for match in matches if match), None)
        except UnsafePattern:
            return False
        return found is not None and len(found["idx"]) < 10 and int(found["idx"]) in layers

    return chosen


def _stack(name: str, work: Work) -> Pattern:
    """Return what matches a path in a stack of layers, as PEFT's `check_target_module_exists`.

    Raises:
        UnsafePattern: It cannot be matched.
    """
    work.read(name)
    pattern = Pattern(name, r"(?:^|.*?\.)", r"\.(?P<idx>\d+)\.", free=2)
    pattern.match("a" * 100, Work())
    return pattern


def refuse_unsaved(adapter: Adapter, plain: Mapping[str, str], biases: Sequence[str]) -> None:
    """Check that an adapter has the modules and the biases that it says were trained too.

    Args:
        adapter: The adapter, with its base.
        plain: Its tensors that replace one of the model's, by name in the model.
        biases: The biases in the base beside what it changes.

    Raises:
        ComposeError: It has none of them.
    """
    modules = strings(adapter, "modules_to_save")
    in_base = [f"{adapter.own_name(module)}." for module in modules]
    own = any(part in name for name in adapter.base for part in in_base)
    if own and not any(f"{module}." in name for name in plain for module in modules):
        raise _unsaved(adapter, f"modules_to_save = {modules!r}", "no tensor for them")
    setting = adapter.config.get("bias", "none")
    trained = any(name.endswith("bias") for name in plain)
    if setting not in (None, False, "none") and biases and not trained:
        raise _unsaved(adapter, f"bias = {setting!r}", f"no bias, such as {min(biases)!r}")


def _unsaved(adapter: Adapter, setting: str, lacks: str) -> ComposeError:
    return adapter.refuse(
        f"its {ADAPTER_CONFIG} sets {setting}, and it has {lacks}; save all of it"
    )
