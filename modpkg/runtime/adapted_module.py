"""Modules of a network that adapters change, applying the change in their forward pass.

    y = W x + s · B (A x)          LoRA on linear layers, Conv1D and embeddings: W is unchanged
    y = l ⊙ (W x),  W (l ⊙ x)      IA3 on linear layers and Conv1D
    y = W' x                       all others: W' = round(W + Σ delta), as composed

W' is computed when an adapter is set and freed when another is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from msgspec import Struct
from torch.nn import functional

from modpkg.compose.composition import Term
from modpkg.core.errors import RunError
from modpkg.runtime.row_layouts import Layout

_EXPERTS = re.compile(r"(?:^|\.)experts?\.")
_NORM = re.compile(r"Norm(?:Gated)?$")


class AdapterEffect(Struct):
    """The effect of a choice of adapters on one module."""

    values: dict[str, torch.nn.Parameter]
    """By attribute, parameters that replace the base's."""
    low_rank: list[tuple[torch.Tensor, torch.Tensor, float]]
    """A [rank, in], B [out, rank] and the scale of their product."""
    outputs: torch.Tensor | None = None
    """Factors of W x, [out]."""
    inputs: torch.Tensor | None = None
    """Factors of x, [in]."""

    @property
    def additive(self) -> bool:
        """Whether the change is only added to the base's output."""
        return not self.values and self.outputs is None and self.inputs is None


class RowAdapters:
    """The adapter of each row of a batch; empty if all rows use the adapters that are set."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self._length, self._expanded = 0, False
        self._layouts: Mapping[str, Layout] = {}
        self._groups: dict[int, dict[str, torch.Tensor]] = {}

    def set(
        self,
        names: Sequence[str],
        length: int = 0,
        layouts: Mapping[str, Layout] | None = None,
        *,
        expanded: bool = False,
    ) -> None:
        """Set the adapter names of a batch's rows.

        Args:
            names: One for each row.
            length: The number of tokens in a row.
            layouts: The layouts of modules' inputs, by name.
            expanded: Whether a row may become several, as beams do, and its length change.
        """
        self.names, self._length, self._expanded = tuple(names), length, expanded
        self._layouts = layouts or {}
        self._groups.clear()

    def groups(self, count: int, module: str) -> dict[str, torch.Tensor]:
        """Return the row indices of each adapter among ``count`` rows; a row's beams are adjacent.

        Raises:
            RunError: It is not known that the module's input has the rows in order, or it has
                another number of them.
        """
        layout = self._layouts.get(module)
        if layout is None:
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"the input of {module!r} may not have the batch as first dimension",
            )
        each, left = divmod(count, len(self.names))
        expected = 1 if layout is Layout.ROWS else self._length
        if left or not each or (each != expected and not self._expanded):
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{module!r} gets {count} rows for {len(self.names)} names",
            )
        if count not in self._groups:
            indices: dict[str, list[int]] = {}
            for row in range(count):
                indices.setdefault(self.names[row // each], []).append(row)
            self._groups[count] = {name: torch.tensor(rows) for name, rows in indices.items()}
        return self._groups[count]


class AdaptedModule:
    """Wraps the forward pass of one module whose parameters some adapter changes."""

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        rows: RowAdapters,
        effect_of: Callable[[str, AdaptedModule], AdapterEffect],
        inputs_of: Callable[[Term], Mapping[str, torch.Tensor]],
    ) -> None:
        self.name, self._rows = name, rows
        self._effect_of, self._inputs_of = effect_of, inputs_of
        self.targets: dict[str, str] = {}
        """By attribute, the name of the tensor in the base."""
        self.shared: set[str] = set()
        """Attributes whose parameter is shared with other modules."""
        self._module, self._forward = module, module.forward
        self._base: dict[str, torch.nn.Parameter] = {}
        self._effect = AdapterEffect({}, [])
        module.forward = self._run

    # Setting adapters ---------------------------------------------------------------------

    def is_factored(self, terms: Sequence[Term]) -> bool:
        """Return whether terms of the weight can be applied as factors, without changing it."""
        kind, (first, *others) = _kind(self._module), terms
        if kind is None or "weight" in self.shared:
            return False
        if first.op == "ia3":
            return kind != "embedding" and not others and first.inputs.keys() == {"l"}
        parameters = {} if kind == "linear" else {"transposed": True}
        return all(
            term.op == "lora"
            and {"a", "b"} <= term.inputs.keys() <= {"a", "b", "e"}
            and term.parameters == parameters
            for term in terms
        )

    def effect(
        self, changes: Mapping[str, tuple[Term, ...]], compose: Callable[[str], torch.Tensor]
    ) -> AdapterEffect:
        """Return the effect of ``changes``; ``compose`` returns a changed tensor by its name."""
        effect = AdapterEffect({}, [])
        for attribute, target in self.targets.items():
            terms = changes.get(target, ())
            if not terms:
                continue
            if attribute != "weight" or not self.is_factored(terms):
                own = self.parameter(attribute)
                value = compose(target).to(own)
                effect.values[attribute] = torch.nn.Parameter(value, requires_grad=False)
            elif terms[0].op == "ia3":
                self._scale(effect, terms[0])
            else:
                effect.low_rank += [self._factors(term) for term in terms]
        return effect

    def _factors(self, term: Term) -> tuple[torch.Tensor, torch.Tensor, float]:
        inputs = self._inputs_of(term)
        a, b = inputs["a"].to(self._device), inputs["b"].to(self._device)
        if "e" in inputs:
            a = a * inputs["e"].to(a)
        return a, b, term.weight

    def _scale(self, effect: AdapterEffect, term: Term) -> None:
        vector = self._inputs_of(term)["l"].flatten().double()
        factor = (1.0 + term.weight * (vector - 1.0)).to(self.parameter("weight"))
        if bool(term.parameters.get("columns")) == (_kind(self._module) == "linear"):
            effect.inputs = factor
        else:
            effect.outputs = factor

    @property
    def module(self) -> torch.nn.Module:
        """The module that is wrapped."""
        return self._module

    @property
    def _device(self) -> torch.device:
        return self.parameter("weight" if "weight" in self.targets else min(self.targets)).device

    def parameter(self, attribute: str) -> torch.nn.Parameter:
        """Return the base's parameter, whatever is set."""
        base = self._base.get(attribute)
        parameter: torch.nn.Parameter = getattr(self._module, attribute) if base is None else base
        return parameter

    def use(self, effect: AdapterEffect) -> None:
        """Apply an effect to all rows, until the next call."""
        for attribute, parameter in self._base.items():
            self._module._parameters[attribute] = parameter
        self._base = {attribute: self.parameter(attribute) for attribute in effect.values}
        self._module._parameters.update(effect.values)
        self._effect = effect

    # Running ------------------------------------------------------------------------------

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not self._rows.names:
            return self._apply(self._effect, args, kwargs)
        effects = {name: self._effect_of(name, self) for name in dict.fromkeys(self._rows.names)}
        if not any(e.values or e.low_rank or not e.additive for e in effects.values()):
            return self._forward(*args, **kwargs)
        self._check_rows(effects, args, kwargs)
        rows = args[0]
        groups = self._rows.groups(len(rows), self.name)
        if all(effect.additive for effect in effects.values()):
            out = self._forward(rows)
            for name, places in groups.items():
                delta = self._low_rank_output(effects[name], rows[places.to(rows.device)])
                if delta is not None:
                    out.index_add_(0, places.to(out.device), delta.to(out.dtype))
            return out
        parts = []
        for name, places in groups.items():
            own = effects[name]
            before = {attribute: self.parameter(attribute) for attribute in own.values}
            self._module._parameters.update(own.values)
            try:
                parts.append(self._apply(own, (rows[places.to(rows.device)],), {}))
            finally:
                self._module._parameters.update(before)
        order = torch.cat(list(groups.values())).argsort().to(parts[0].device)
        return torch.cat(parts)[order]

    def _check_rows(self, effects: Mapping[str, AdapterEffect], args: Any, kwargs: Any) -> None:
        """Check that the module does the same to each row of its input, for per-row adapters.

        Raises:
            RunError: It may not.
        """
        kind = _kind(self._module)
        known = kind in ("linear", "conv1d") or isinstance(
            self._module, torch.nn.Linear | torch.nn.modules.conv._ConvNd
        )
        known = known or kind == "embedding" or isinstance(self._module, torch.nn.Embedding)
        known = known or _NORM.search(type(self._module).__name__) is not None
        if not known or _EXPERTS.search(self.name) or len(args) != 1 or kwargs:
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{', '.join(effects)} differ at {self.name!r}, a "
                f"{type(self._module).__name__}, whose input may not have the batch as first "
                "dimension",
            )

    def _apply(self, effect: AdapterEffect, args: Any, kwargs: Any) -> Any:
        """Run the module with an effect, whose replaced parameters are already set."""
        if not effect.low_rank and effect.additive:
            return self._forward(*args, **kwargs)
        if effect.outputs is None and effect.inputs is None:
            out = self._forward(*args, **kwargs)
            rows = args[0] if args else next(iter(kwargs.values()))
            delta = self._low_rank_output(effect, rows)
            return out if delta is None else (out + delta).to(out.dtype)
        (rows,) = args or kwargs.values()
        weight: torch.Tensor = self._module.get_parameter("weight")
        bias = self._module._parameters.get("bias")
        scaled = rows if effect.inputs is None else rows * effect.inputs
        if _kind(self._module) == "linear":
            out = functional.linear(scaled, weight)
        else:
            out = scaled @ weight
        if effect.outputs is not None:
            out = out * effect.outputs
        return out if bias is None else out + bias

    def _low_rank_output(self, effect: AdapterEffect, rows: torch.Tensor) -> torch.Tensor | None:
        """Return the sum of the low-rank terms for these inputs; None if there are none."""
        total: torch.Tensor | None = None
        for a, b, scale in effect.low_rank:
            if _kind(self._module) == "embedding":
                inner = functional.embedding(rows, a.t())
            else:
                dtype = torch.promote_types(rows.dtype, a.dtype)
                inner = functional.linear(rows.to(dtype), a.to(dtype))
            delta = functional.linear(inner, b.to(inner.dtype)) * scale
            total = delta if total is None else total + delta
        return total


def _kind(module: torch.nn.Module) -> str | None:
    """Return the layer's kind; None if it may use its weight in another way."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return "conv1d"
    return {torch.nn.Linear: "linear", torch.nn.Embedding: "embedding"}.get(type(module))
