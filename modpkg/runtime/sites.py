"""Sites: the modules of a network that adapters change, each computing its own change.

    y = W x + s · B (A x)          LoRA on linear layers, Conv1D and embeddings: W is not touched
    y = l ⊙ (W x),  W (l ⊙ x)      IA3 on linear layers and Conv1D
    y = W' x                       all else: W' = round(W + Σ delta), as composing makes it

W' is made when an adapter is chosen and let go of when another is.
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

_EXPERTS = re.compile(r"(?:^|\.)experts?\.")
_NORM = re.compile(r"Norm(?:Gated)?$")


class AdapterEffect(Struct):
    """What one choice of adapters does at a site."""

    values: dict[str, torch.nn.Parameter]
    """By attribute, parameters in place of the base's."""
    low: list[tuple[torch.Tensor, torch.Tensor, float]]
    """A of (rank, in), B of (out, rank), and what their product is scaled with."""
    outputs: torch.Tensor | None = None
    """What W x is multiplied by, element by element."""
    inputs: torch.Tensor | None = None

    @property
    def additive(self) -> bool:
        """Say whether the change is one that is added to what the base gives."""
        return not self.values and self.outputs is None and self.inputs is None


class RowAdapters:
    """Which adapter each row of a batch has; empty where all have the one that is set."""

    def __init__(self) -> None:
        self.names: Sequence[str] = ()
        self._groups: dict[int, dict[str, torch.Tensor]] = {}

    def set(self, names: Sequence[str]) -> None:
        """Set the names of a batch's rows."""
        self.names = tuple(names)
        self._groups.clear()

    def groups(self, count: int, site: str) -> dict[str, torch.Tensor]:
        """Return, by adapter, its rows of ``count``: beams lie beside each other.

        Raises:
            RunError: the count is no multiple of the rows'.
        """
        each, left = divmod(count, len(self.names))
        if left or not each:
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{site!r} gets {count} rows, and there are {len(self.names)} names",
            )
        if count not in self._groups:
            found: dict[str, list[int]] = {}
            for row in range(count):
                found.setdefault(self.names[row // each], []).append(row)
            self._groups[count] = {name: torch.tensor(rows) for name, rows in found.items()}
        return self._groups[count]


class AdaptedModule:
    """One module of the network, and its parameters that some adapter changes."""

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        rows: RowAdapters,
        effect_of: Callable[[str, AdaptedModule], AdapterEffect],
        inputs_of: Callable[[Term], Mapping[str, torch.Tensor]],
        *,
        reads_tokens: bool,
    ) -> None:
        self.name, self._rows = name, rows
        self._effect_of, self._inputs_of = effect_of, inputs_of
        self.targets: dict[str, str] = {}
        """By attribute, the tensor's name on disk."""
        self.shared: set[str] = set()
        """Attributes whose parameter other modules have too."""
        self._module, self._forward = module, module.forward
        self._reads_tokens = reads_tokens
        self._base: dict[str, torch.nn.Parameter] = {}
        self._effect = AdapterEffect({}, [])
        module.forward = self._run

    # Choosing -----------------------------------------------------------------------------

    def low_rank(self, terms: Sequence[Term]) -> bool:
        """Say whether changes to the weight can stay factors, beside the weight as it lies."""
        kind, (first, *others) = _kind(self._module), terms
        if kind is None or "weight" in self.shared:
            return False
        if first.op == "ia3":
            return kind != "embedding" and not others and first.inputs.keys() == {"l"}
        laid = {} if kind == "linear" else {"transposed": True}
        return all(
            term.op == "lora"
            and {"a", "b"} <= term.inputs.keys() <= {"a", "b", "e"}
            and term.parameters == laid
            for term in terms
        )

    def effect(
        self, changes: Mapping[str, tuple[Term, ...]], whole: Callable[[str], torch.Tensor]
    ) -> AdapterEffect:
        """Return what ``changes`` do here; ``whole`` gives a tensor that is changed as a whole."""
        found = AdapterEffect({}, [])
        for attribute, target in self.targets.items():
            terms = changes.get(target, ())
            if not terms:
                continue
            if attribute != "weight" or not self.low_rank(terms):
                own = self.parameter(attribute)
                value = whole(target).to(own)
                found.values[attribute] = torch.nn.Parameter(value, requires_grad=False)
            elif terms[0].op == "ia3":
                self._scale(found, terms[0])
            else:
                found.low += [self._factors(term) for term in terms]
        return found

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
    def _device(self) -> torch.device:
        return self.parameter("weight" if "weight" in self.targets else min(self.targets)).device

    def parameter(self, attribute: str) -> torch.nn.Parameter:
        """Return the base's own parameter."""
        own = self._base.get(attribute)
        found: torch.nn.Parameter = getattr(self._module, attribute) if own is None else own
        return found

    def use(self, effect: AdapterEffect) -> None:
        """Have all rows changed so, until the next call."""
        for attribute, parameter in self._base.items():
            self._module._parameters[attribute] = parameter
        self._base = {attribute: self.parameter(attribute) for attribute in effect.values}
        self._module._parameters.update(effect.values)
        self._effect = effect

    # Running ------------------------------------------------------------------------------

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not self._rows.names:
            return self._changed(self._effect, args, kwargs)
        effects = {name: self._effect_of(name, self) for name in dict.fromkeys(self._rows.names)}
        if not any(e.values or e.low or not e.additive for e in effects.values()):
            return self._forward(*args, **kwargs)
        self._check_rows(effects, args, kwargs)
        rows = args[0]
        groups = self._rows.groups(len(rows), self.name)
        if all(effect.additive for effect in effects.values()):
            found = self._forward(rows)
            for name, places in groups.items():
                if change := self._low(effects[name], rows[places.to(rows.device)]):
                    found.index_add_(0, places.to(found.device), change[0].to(found.dtype))
            return found
        parts = []
        for name, places in groups.items():
            own = effects[name]
            before = {attribute: self.parameter(attribute) for attribute in own.values}
            self._module._parameters.update(own.values)
            try:
                parts.append(self._changed(own, (rows[places.to(rows.device)],), {}))
            finally:
                self._module._parameters.update(before)
        order = torch.cat(list(groups.values())).argsort().to(parts[0].device)
        return torch.cat(parts)[order]

    def _check_rows(self, effects: Mapping[str, AdapterEffect], args: Any, kwargs: Any) -> None:
        """Refuse rows of their own where the first extent of what goes in may be no batch.

        Raises:
            RunError
        """
        kind = _kind(self._module)
        known = kind in ("linear", "conv1d") or isinstance(
            self._module, torch.nn.Linear | torch.nn.modules.conv._ConvNd
        )
        if kind == "embedding" or isinstance(self._module, torch.nn.Embedding):
            known = self._reads_tokens
        known = known or _NORM.search(type(self._module).__name__) is not None
        if not known or _EXPERTS.search(self.name) or len(args) != 1 or kwargs:
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{', '.join(effects)} differ at {self.name!r}, a "
                f"{type(self._module).__name__}, which may not get the batch row by row",
            )

    def _changed(self, effect: AdapterEffect, args: Any, kwargs: Any) -> Any:
        """Run the module; parameters that are changed as a whole are in their place."""
        if not effect.low and effect.additive:
            return self._forward(*args, **kwargs)
        if effect.outputs is None and effect.inputs is None:
            found = self._forward(*args, **kwargs)
            low = self._low(effect, args[0] if args else next(iter(kwargs.values())))
            return (found + low[0]).to(found.dtype) if low else found
        (rows,) = args or kwargs.values()
        weight: torch.Tensor = self._module.get_parameter("weight")
        bias = self._module._parameters.get("bias")
        scaled = rows if effect.inputs is None else rows * effect.inputs
        if _kind(self._module) == "linear":
            found = functional.linear(scaled, weight)
        else:
            found = scaled @ weight
        if effect.outputs is not None:
            found = found * effect.outputs
        return found if bias is None else found + bias

    def _low(self, effect: AdapterEffect, rows: torch.Tensor) -> list[torch.Tensor]:
        """Return the sum of the low-rank changes for these inputs, in a list; none: empty."""
        total: list[torch.Tensor] = []
        for a, b, scale in effect.low:
            if _kind(self._module) == "embedding":
                inner = functional.embedding(rows, a.t())
            else:
                dtype = torch.promote_types(rows.dtype, a.dtype)
                inner = functional.linear(rows.to(dtype), a.to(dtype))
            change = functional.linear(inner, b.to(inner.dtype)) * scale
            total = [total[0] + change] if total else [change]
        return total


def _kind(module: torch.nn.Module) -> str | None:
    """Return what sort of layer it is; None for any that may use its weight in another way."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return "conv1d"
    return {torch.nn.Linear: "linear", torch.nn.Embedding: "embedding"}.get(type(module))
