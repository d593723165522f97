"""LoRA on parameters (``target_parameters``): the weights of all experts of a layer in one tensor.

PEFT wraps a module once for each of its parameters, the first one innermost, under ``base_layer``.
A factor holds all experts: A is (experts · rank, in), B is (out, rank · experts). On disk the
parameter is one tensor, or one tensor for each expert and part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from modpkg.adapters.changes import Adapter, TensorChange
from modpkg.adapters.expert_layouts import stored_in_out
from modpkg.adapters.lora_variants import refuse_variants
from modpkg.adapters.method import matrix_shape
from modpkg.adapters.methods.lora import lora_scaling
from modpkg.adapters.names import NameMapping
from modpkg.adapters.peft_config import strings
from modpkg.core.bounds import EXPERT_WRAPPERS
from modpkg.core.name_ends import NamesByEnd, ends_of

_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Parameters of all experts, in the order that every layer has them, and the matrices that they
consist of where each expert has separate tensors."""
_WRAPPERS = re.compile(r"(?:\.base_layer)+$")


def parameters_of(adapter: Adapter, paths: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the parameter that a LoRA acts on, by path of the wrapper.

    Args:
        adapter: The adapter, with its base.
        paths: Its tensors by role, by path of the wrapper.

    Raises:
        ComposeError: Which parameter a wrapper is for is ambiguous, or one has no wrapper.
    """
    keys = frozenset(strings(adapter, "target_parameters"))
    names = dict.fromkeys(key.rpartition(".")[2] for key in keys)
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(_WRAPPERS.sub("", path), []).append(path)
    parameters: dict[str, str] = {}
    for plain, wrappers in groups.items():
        wrappers.sort(key=len, reverse=True)
        named = [
            name
            for name in names
            if not keys.isdisjoint(ends_of(f"{plain}.{name}")) and _exists(adapter, plain, name)
        ]
        if not named:
            continue
        order = _in_order(adapter, plain, named, [paths[wrapper] for wrapper in wrappers])
        for wrapper, name in zip(wrappers, order, strict=True):
            parameters[wrapper] = f"{plain}.{name}"
    found = NamesByEnd(parameters.values())
    for key in sorted(keys):
        if not found.ending(key):
            raise adapter.refuse(f"it has no pair for {key!r} of its target_parameters")
    return parameters


def _exists(adapter: Adapter, plain: str, name: str) -> bool:
    """Return whether the base may have a parameter of this name at a module's path."""
    if name == "weight" or _shape_of(adapter, f"{plain}.{name}") is not None:
        return True
    return name in _PARTS and plain.rpartition(".")[2] == "experts"


def _in_order(
    adapter: Adapter, plain: str, named: Sequence[str], wrappers: Sequence[Mapping[str, str]]
) -> Sequence[str]:
    """Return the parameters of a module's wrappers, the innermost first.

    PEFT wraps a module's parameters in the order that its class creates them, which is known for
    experts; for others, their shapes have to tell.

    Raises:
        ComposeError: They do not.
    """
    ambiguous = adapter.refuse(
        f"{plain!r} has {len(wrappers)} pair(s) for the parameters "
        f"{', '.join(sorted(named))}, and which is for which is ambiguous"
    )
    if len(named) != len(wrappers) or len(named) > EXPERT_WRAPPERS:
        raise ambiguous
    if len(named) == 1:
        return named
    if set(named) <= _PARTS.keys():
        return [name for name in _PARTS if name in named]
    orders = [
        order
        for order in permutations(sorted(named))
        if all(
            _fits(adapter, roles, _shape_of(adapter, f"{plain}.{name}"))
            for roles, name in zip(wrappers, order, strict=True)
        )
    ]
    if len(orders) != 1:
        raise ambiguous
    return orders[0]


def _fits(adapter: Adapter, roles: Mapping[str, str], shape: tuple[int, ...] | None) -> bool:
    """Return whether a pair may be for a parameter of this shape."""
    if not {"a", "b"} <= roles.keys() or shape is None or len(shape) < 2:
        return False
    ends = {adapter.shape(roles["a"])[-1], adapter.shape(roles["b"])[0]}
    return ends == set(shape[-2:])


def _shape_of(adapter: Adapter, parameter: str) -> tuple[int, ...] | None:
    """Return the shape of a parameter in the base, whatever leading part its name has there."""
    parameter = adapter.own_name(parameter)
    if parameter in adapter.base:
        return adapter.target_shape(parameter)
    found = adapter.base_by_end.ending(parameter.partition(".")[2])
    return adapter.target_shape(found[0]) if found else None


def without_wrappers(path: str) -> str:
    """Return the path of a module, from that of a wrapper that PEFT puts around its parameters."""
    return _WRAPPERS.sub("", path)


def example_name(adapter: Adapter, parameter: str) -> str:
    """Return the name in the model of a parameter, or of its first part where it is stored so."""
    path, _, name = parameter.rpartition(".")
    if name in _PARTS and _shape_of(adapter, parameter) is None:
        return f"{path}.0.{_PARTS[name][0]}.weight"
    return parameter


def _layout(
    adapter: Adapter, target: str, tensor: str, change: tuple[int, int, int]
) -> dict[str, Any]:
    """Return the parameters of LoRA's formula for a change of (experts, out, in).

    A matrix is never turned, whatever its layer does with it: for PEFT, its rows are the outputs.

    Raises:
        ComposeError: The change does not fit, or how its experts are stored is unknown.
    """
    experts, out, inner = change
    shape = adapter.target_shape(target)
    if experts == 1 and shape == (out, inner):
        return {} if target.endswith(".weight") else {"experts": 1}
    stored, turned = shape == (experts, out, inner), shape == (experts, inner, out)
    if not (stored or turned) or (experts == 1 and not stored):
        raise adapter.misfit(tensor, target, shape, change)
    if experts == 1:
        return {"experts": 1, "stacked": True}
    if stored and turned:
        known = stored_in_out(adapter.architecture, adapter.model_config)
        if known is None:
            raise adapter.refuse(
                f"{target!r} has shape {list(shape)}, which fits both ways, and whether "
                f"{adapter.architecture!r} stores inputs or outputs first is not known"
            )
        turned = known
    return {"experts": experts, **({"transposed": True} if turned else {})}


def bind(
    adapter: Adapter,
    parameter: str,
    roles: Mapping[str, str],
    mapping: NameMapping,
) -> list[TensorChange]:
    """Return the changes to one parameter.

    Raises:
        ComposeError: The change cannot be applied exactly, or its shapes do not fit.
        ReleaseError: The base does not have the parameter.
    """
    if roles.keys() != {"a", "b"}:
        other = next((roles[r] for r in roles if r not in ("a", "b")), min(roles.values()))
        raise adapter.refuse(
            f"the parameter {parameter!r} needs lora_A and lora_B, and it has {other!r}"
        )
    for key in ("lora_bias", "use_dora"):
        if adapter.config.get(key):
            raise adapter.refuse(f"it has {key}, which PEFT has not for parameters: {parameter!r}")
    refuse_variants(adapter, "parameters")
    a, b = roles["a"], roles["b"]
    rank, scale = lora_scaling(adapter).at(parameter)
    (total, inner), (out, columns) = matrix_shape(adapter, a), matrix_shape(adapter, b)
    if total % rank or total != columns:
        raise adapter.other_rank(a, rank)
    experts = total // rank
    inputs = {"a": a, "b": b}
    whole = mapping.find(parameter)
    if whole is not None:
        return [
            TensorChange(
                target=whole,
                op="lora",
                inputs=inputs,
                weight=scale,
                parameters=_layout(adapter, whole, b, (experts, out, inner)),
            )
        ]
    changes = []
    path, _, name = parameter.rpartition(".")
    for expert in range(experts):
        begin = 0
        for part in _PARTS.get(name, ()):
            weight = f"{path}.{expert}.{part}.weight"
            target = mapping.find(weight)
            if target is None:
                raise adapter.unbound(a, f"the base has no {mapping.expected(weight)!r}")
            shape = adapter.target_shape(target)
            if len(shape) != 2 or shape[1] != inner or begin + shape[0] > out:
                raise adapter.misfit(b, target, shape, [out - begin, inner])
            parameters = {"experts": experts, "expert": expert, "begin": begin}
            changes.append(
                TensorChange(
                    target=target, op="lora", inputs=inputs, weight=scale, parameters=parameters
                )
            )
            begin += shape[0]
        if begin != out:
            raise adapter.misfit(b, parameter, [begin, total])
    last = mapping.find(f"{path}.{experts}.{_PARTS.get(name, ('',))[0]}.weight")
    if last is not None:
        raise adapter.refuse(
            f"{a!r} is for {experts} experts, but {adapter.base_name} also has {last!r}"
        )
    return changes
