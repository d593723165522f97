"""Linear layers that get the same input, one after the other, computed together on an accelerator.

Queries, keys and values are such siblings, and the two projections before a gate. Starting an
operation takes longer there than small products do: so their weights lie one after the other in
memory, and the first of them multiplies its input with all of them, and with the low-rank changes
of all of them. The others only take their part of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from modpkg.runtime.adapted_module import NO_EFFECT, AdaptedModule, AdapterEffect, RowAdapters
from modpkg.runtime.low_rank import Change, Factors, Run, common_scale, fused
from modpkg.runtime.row_layouts import run_on, usual_tokens


class Siblings:
    """Linear layers that get the same input, in the order in which they are called."""

    def __init__(self, modules: Sequence[AdaptedModule]) -> None:
        """Lay out the weights of linear layers of one dtype one after the other."""
        self.modules = tuple(modules)
        weights = [module.parameter("weight") for module in modules]
        self._sizes = [int(weight.shape[0]) for weight in weights]
        self._weight = _laid_out(weights)
        self._bias = None
        if modules[0].module.bias is not None:
            self._bias = _laid_out([module.parameter("bias") for module in modules])

    def runs(self, effects: Sequence[AdapterEffect]) -> tuple[list[Run], int]:
        """Return the forward pass of each layer with its low-rank changes, if any.

        The second result is the number of bytes that they hold.
        """
        dtype = self._weight.dtype
        alone = [
            fused(module.plain, effect.low_rank, dtype) if effect.low_rank else module.plain
            for module, effect in zip(self.modules, effects, strict=True)
        ]
        own = [each for effect in effects for each in effect.low_rank]
        if not own:
            return self._parted(self._multiply, alone), 0
        for each in own:
            dtype = torch.promote_types(dtype, each.a.dtype)
        a = torch.cat([each.a.to(dtype) for each in own])
        b = torch.cat([each.b.to(dtype) for each in self._placed(effects)], 1).t()
        change = Change(a.t(), b, *common_scale(own, dtype, a.device))
        add, multiply = change.adder(self._weight.dtype), self._multiply

        def whole(x: torch.Tensor) -> torch.Tensor:
            flat = x.view(-1, wide) if x.is_contiguous() else x.reshape(-1, wide)
            out = multiply(flat)
            add(out, flat)
            return out if x.dim() == 2 else out.view(*x.shape[:-1], high)

        high, wide = self._weight.shape
        return self._parted(whole, alone), (a.numel() + b.numel()) * dtype.itemsize

    def runs_of_rows(
        self, rows: RowAdapters, effects: Sequence[Mapping[str, AdapterEffect]]
    ) -> list[Run] | None:
        """Return the forward pass of each layer with the effect of each row's adapter, by name.

        It is None where they cannot be computed together, or there is no memory for it.
        """
        by_name = {name: [each[name] for each in effects] for name in rows.names}
        if any(not each.additive for layers in by_name.values() for each in layers):
            return None
        placed = {name: self._placed(layers) for name, layers in by_name.items()}
        if not any(placed.values()):
            return None
        names = [module.name for module in self.modules]
        whole = rows.stacked(self._multiply, placed, self._weight.dtype, names)
        if whole is None:
            return None

        def alone(module: AdaptedModule, own: Mapping[str, AdapterEffect]) -> Run:
            return lambda x: module.run_of_rows(rows, own)(x)

        return self._parted(whole, list(map(alone, self.modules, effects)))

    def _placed(self, effects: Sequence[AdapterEffect]) -> list[Factors]:
        """Return the changes of each layer as changes of what all layers return together."""
        placed, start, high = [], 0, sum(self._sizes)
        for size, effect in zip(self._sizes, effects, strict=True):
            for each in effect.low_rank:
                b = each.b.new_zeros(high, each.rank)
                b[start : start + size] = each.b
                placed.append(Factors(each.a, b, each.scale))
            start += size
        return placed

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layers of the base return together, for inputs [n, in]."""
        return functional.linear(x, self._weight, self._bias)

    def _parted(self, whole: Run, alone: Sequence[Run]) -> list[Run]:
        """Return the forward pass of each layer, given that of all together.

        Args:
            whole: What all return together.
            alone: Each by itself, for inputs of other dtypes and under autocast.
        """
        base, sizes, device = self._weight.dtype, self._sizes, self._weight.device.type
        autocast = torch.is_autocast_enabled
        taken: dict[int, torch.Tensor] = {}
        given: list[tuple[torch.Tensor, int]] = []

        def first(x: torch.Tensor) -> torch.Tensor:
            taken.clear()
            given.clear()
            if x.dtype is not base or autocast(device):
                return alone[0](x)
            parts = whole(x).split_with_sizes(sizes, -1)
            taken.update(enumerate(parts))
            given.append((x, _version(x)))
            return parts[0]

        def other(index: int) -> Run:
            def run(x: torch.Tensor) -> torch.Tensor:
                if given and given[0][0] is x and given[0][1] == _version(x):
                    part = taken.pop(index, None)
                    if index == len(sizes) - 1:
                        taken.clear()
                        given.clear()
                    if part is not None:
                        return part
                return alone[index](x)

            return run

        return [first, *(other(index) for index in range(1, len(sizes)))]


def _laid_out(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Return parameters one after the other; each becomes a view of its part."""
    whole = torch.cat([parameter.detach() for parameter in parameters])
    parts = torch.split(whole, [len(parameter) for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part
    return whole


def _version(x: torch.Tensor) -> int:
    """Return how often a tensor was written to; 0 where torch does not count."""
    return 0 if x.is_inference() else int(x._version)


def find_siblings(
    model: Any, adapted: Sequence[AdaptedModule], show: Callable[[dict[AdaptedModule, Run]], None]
) -> list[Siblings]:
    """Return the siblings among adapted modules: the model runs on some tokens, and they are seen.

    None are returned for a model that does not run on tokens alone, or does not take views.

    Args:
        model: The model.
        adapted: Its adapted modules.
        show: Lets the modules run something; what they run now has no adapters.
    """
    calls: list[tuple[AdaptedModule, torch.Tensor | None]] = []

    def watch(module: AdaptedModule) -> Run:
        def run(*args: Any, **kwargs: Any) -> torch.Tensor:
            calls.append((module, args[0] if len(args) == 1 and not kwargs else None))
            out: torch.Tensor = module.forward(*args, **kwargs)
            return out

        return run

    plain = {module: module.forward for module in adapted}
    try:
        ids = usual_tokens(model, 2, 4)
        show({module: watch(module) for module in adapted})
        run_on(model, ids)
        found = [Siblings(group) for group in _groups(calls)]
        joint = {
            module: run
            for group in found
            for module, run in zip(
                group.modules, group.runs([NO_EFFECT] * len(group.modules))[0], strict=True
            )
        }
        show({**plain, **joint})
        run_on(model, ids)
    except Exception:  # one that needs other inputs may raise anything
        return []
    finally:
        show(plain)
    return found


def _groups(
    calls: Sequence[tuple[AdaptedModule, torch.Tensor | None]],
) -> list[list[AdaptedModule]]:
    """Return runs of layers that can be joined, of those that were called."""
    times: dict[AdaptedModule, int] = {}
    for module, _ in calls:
        times[module] = times.get(module, 0) + 1
    groups: list[list[AdaptedModule]] = []
    before: torch.Tensor | None = None
    for module, x in calls:
        fits = times[module] == 1 and module.is_plain_linear and x is not None
        if fits and x is before and _alike(groups[-1][0], module):
            groups[-1].append(module)
        elif fits:
            groups.append([module])
        before = x if fits else None
    return [group for group in groups if len(group) > 1]


def _alike(one: AdaptedModule, other: AdaptedModule) -> bool:
    """Return whether the parameters of two layers can lie one after the other."""
    kinds = [
        {name: value.dtype for name, value in each.module._parameters.items() if value is not None}
        for each in (one, other)
    ]
    return kinds[0] == kinds[1]
