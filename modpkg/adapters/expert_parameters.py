"""LoRA on parameters (``target_parameters``): the weights of all experts of a layer in one.

PEFT wraps a module once for each of its parameters, so that the first one lies innermost, under
``base_layer``. A factor holds all experts: A is (experts · rank, in), B is (out, rank · experts).
On disk the parameter is one tensor, or one tensor for each expert and part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from modpkg.adapters.changes import Adapter, TensorChange
from modpkg.adapters.method import matrix
from modpkg.adapters.methods.lora import LoraSettings
from modpkg.adapters.names import Names
from modpkg.adapters.peft_config import strings

_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Parameters of all experts, in the order in which every layer has them, and what parts they have
where each expert is a tensor of its own."""
_TRANSPOSED = ("gpt_oss", "llama4", "llama4_text")
"""Architectures that store them as (experts, in, out)."""
_WRAPPERS = re.compile(r"(?:\.base_layer)+$")


def parameters_of(adapter: Adapter, paths: Mapping[str, object]) -> dict[str, str]:
    """Return, by path of the wrapper, the name of the parameter that a LoRA acts on.

    Raises:
        ComposeError: which parameter a wrapper is for cannot be told.
    """
    keys = [key.rpartition(".") for key in strings(adapter, "target_parameters")]
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(_WRAPPERS.sub("", path), []).append(path)
    found: dict[str, str] = {}
    for plain, wrappers in groups.items():
        wanted = {
            name
            for module, _, name in keys
            if name != "weight"
            and (f".{plain}".endswith(f".{module}") if module else plain.endswith("experts"))
        }
        if not wanted:
            continue
        if len(wanted) != len(wrappers) or (len(wanted) > 1 and not wanted <= _PARTS.keys()):
            raise adapter.refuse(
                f"{plain!r} has {len(wrappers)} pair(s) for the parameters "
                f"{', '.join(sorted(wanted))}, and which is for which cannot be told"
            )
        order = [name for name in _PARTS if name in wanted] or sorted(wanted)
        for wrapper, name in zip(sorted(wrappers, key=len, reverse=True), order, strict=True):
            found[wrapper] = f"{plain}.{name}"
    if missing := sorted(
        name for _, _, name in keys if name != "weight" and not _named(name, found.values())
    ):
        raise adapter.refuse(f"it has no pair for {missing[0]!r} of its target_parameters")
    return found


def _named(name: str, parameters: Iterable[str]) -> bool:
    return any(parameter.rpartition(".")[2] == name for parameter in parameters)


def anchor(adapter: Adapter, parameter: str) -> str:
    """Return the name by which the base has a parameter, or the first part of it."""
    path, _, name = parameter.rpartition(".")
    tail = f".{parameter.partition('.')[2]}"
    if name in _PARTS and not any(f".{other}".endswith(tail) for other in adapter.base):
        return f"{path}.0.{_PARTS[name][0]}.weight"
    return parameter


def bind(
    adapter: Adapter,
    parameter: str,
    roles: Mapping[str, str],
    names: Names,
    settings: LoraSettings,
) -> list[TensorChange]:
    """Return the changes to one parameter.

    Raises:
        ComposeError, ReleaseError: it cannot be applied, or not exactly.
    """
    if roles.keys() != {"a", "b"}:
        odd = next((roles[r] for r in roles if r not in ("a", "b")), min(roles.values()))
        raise adapter.refuse(f"tensor {odd!r} beside the parameter {parameter!r} is not known")
    a, b = roles["a"], roles["b"]
    rank, scale = settings.scaling(parameter)
    (total, inner), (out, columns) = matrix(adapter, a), matrix(adapter, b)
    if total % rank or total != columns:
        raise adapter.misfit(a, f"rank {rank} of adapter_config.json", [rank, inner])
    experts = total // rank
    shared = {"a": a, "b": b}
    whole = names.find(parameter)
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
                target=whole, op="lora", inputs=shared, weight=scale, parameters=parameters
            )
        ]
    changes = []
    path, _, name = parameter.rpartition(".")
    for expert in range(experts):
        begin = 0
        for part in _PARTS.get(name, ()):
            wanted = f"{path}.{expert}.{part}.weight"
            target = names.find(wanted)
            if target is None:
                raise adapter.unbound(a, f"there is no {names.expected(wanted)!r} to act on")
            shape = adapter.target_shape(target)
            if len(shape) != 2 or shape[1] != inner or begin + shape[0] > out:
                raise adapter.misfit(b, target, shape, [out - begin, inner])
            parameters = {"experts": experts, "expert": expert, "begin": begin}
            changes.append(
                TensorChange(
                    target=target, op="lora", inputs=shared, weight=scale, parameters=parameters
                )
            )
            begin += shape[0]
        if begin != out:
            raise adapter.misfit(b, parameter, [begin, total])
    last = names.find(f"{path}.{experts}.{_PARTS.get(name, ('',))[0]}.weight")
    if last is not None:
        raise adapter.refuse(
            f"{a!r} is for {experts} experts, but {adapter.base_name} also has {last!r}"
        )
    return changes
