"""LoRA on parameters (``target_parameters``): the weights of all experts of a layer in one tensor.

PEFT wraps a module once for each of its parameters, the first one innermost, under ``base_layer``.
A factor holds all experts: A is (experts · rank, in), B is (out, rank · experts). On disk the
parameter is one tensor, or one tensor for each expert and part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from modpkg.adapters.changes import Adapter, TensorChange
from modpkg.adapters.method import matrix_shape
from modpkg.adapters.methods.lora import lora_scaling
from modpkg.adapters.names import NameMapping
from modpkg.adapters.peft_config import strings

_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Parameters of all experts, in the order that every layer has them, and the matrices that they
consist of where each expert has separate tensors."""
_TRANSPOSED = ("gpt_oss", "llama4", "llama4_text")
"""Architectures that store them as (experts, in, out)."""
_WRAPPERS = re.compile(r"(?:\.base_layer)+$")


def parameters_of(adapter: Adapter, paths: Mapping[str, object]) -> dict[str, str]:
    """Return the parameter that a LoRA acts on, by path of the wrapper.

    Raises:
        ComposeError: Which parameter a wrapper is for is ambiguous, or one has no wrapper.
    """
    keys = [key.rpartition(".") for key in strings(adapter, "target_parameters")]
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(_WRAPPERS.sub("", path), []).append(path)
    parameters: dict[str, str] = {}
    for plain, wrappers in groups.items():
        named = {
            name
            for module, _, name in keys
            if name != "weight"
            and (f".{plain}".endswith(f".{module}") if module else plain.endswith("experts"))
        }
        if not named:
            continue
        if len(named) != len(wrappers) or (len(named) > 1 and not named <= _PARTS.keys()):
            raise adapter.refuse(
                f"{plain!r} has {len(wrappers)} pair(s) for the parameters "
                f"{', '.join(sorted(named))}, and which is for which is ambiguous"
            )
        order = [name for name in _PARTS if name in named] or sorted(named)
        for wrapper, name in zip(sorted(wrappers, key=len, reverse=True), order, strict=True):
            parameters[wrapper] = f"{plain}.{name}"
    if missing := sorted(
        name for _, _, name in keys if name != "weight" and not _has(name, parameters.values())
    ):
        raise adapter.refuse(f"it has no pair for {missing[0]!r} of its target_parameters")
    return parameters


def _has(name: str, parameters: Iterable[str]) -> bool:
    return any(parameter.rpartition(".")[2] == name for parameter in parameters)


def example_name(adapter: Adapter, parameter: str) -> str:
    """Return the name in the model of a parameter, or of its first part where it is stored so."""
    path, _, name = parameter.rpartition(".")
    tail = f".{parameter.partition('.')[2]}"
    if name in _PARTS and not any(f".{other}".endswith(tail) for other in adapter.base):
        return f"{path}.0.{_PARTS[name][0]}.weight"
    return parameter


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
    a, b = roles["a"], roles["b"]
    rank, scale = lora_scaling(adapter).at(parameter)
    (total, inner), (out, columns) = matrix_shape(adapter, a), matrix_shape(adapter, b)
    if total % rank or total != columns:
        raise adapter.misfit(a, f"rank {rank} of adapter_config.json", [rank, inner])
    experts = total // rank
    inputs = {"a": a, "b": b}
    whole = mapping.find(parameter)
    if whole is not None:
        shape = adapter.target_shape(whole)
        ways = [shape == (experts, out, inner), shape == (experts, inner, out)]
        if experts == 1 and len(shape) == 2:
            ways = [shape == (out, inner), False]
        if not any(ways):
            raise adapter.misfit(b, whole, shape, [experts, out, inner])
        way = ways[1] and (not ways[0] or adapter.architecture in _TRANSPOSED)
        parameters = {"experts": experts, **({"transposed": True} if way else {})}
        return [
            TensorChange(
                target=whole, op="lora", inputs=inputs, weight=scale, parameters=parameters
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
