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
from modpkg.runtime.low_rank import Factors, RowStacks, Run, as_peft, changed, fused
from modpkg.runtime.row_layouts import Layout

_EXPERTS = re.compile(r"(?:^|\.)experts?\.")
_NORM = re.compile(r"Norm(?:Gated)?$")


class AdapterEffect(Struct):
    """The effect of a choice of adapters on one module."""

    values: dict[str, torch.nn.Parameter]
    """By attribute, parameters that replace the base's."""
    low_rank: list[Factors]
    """Products that are added to W x."""
    outputs: torch.Tensor | None = None
    """Factors of W x, [out]."""
    inputs: torch.Tensor | None = None
    """Factors of x, [in]."""

    @property
    def additive(self) -> bool:
        """Whether the change is only added to the base's output."""
        return not self.values and self.outputs is None and self.inputs is None


NO_EFFECT = AdapterEffect({}, [])


class Runs(dict["AdaptedModule", Run]):
    """The forward pass of each module for one choice of adapters, made when it first runs."""

    def __init__(self, make: Callable[[AdaptedModule], Run]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, module: AdaptedModule) -> Run:
        with torch.inference_mode(False), torch.no_grad():  # it may run in other modes later
            run = self[module] = self._make(module)
        return run


class Switch:
    """The choice of adapters that all modules of a model use: another one costs an assignment."""

    def __init__(self) -> None:
        self.runs: Mapping[AdaptedModule, Run] = Runs(lambda module: module.forward)


class RowAdapters:
    """The adapter of each row of a batch."""

    def __init__(
        self,
        names: Sequence[str],
        length: int,
        layouts: Mapping[str, Layout],
        *,
        expanded: bool = False,
    ) -> None:
        """Take the adapter names of a batch's rows.

        Args:
            names: One for each row.
            length: The number of tokens in a row.
            layouts: The layouts of modules' inputs, by name.
            expanded: Whether a row may become several, as beams do, and its length change.
        """
        self.names, self._length, self._expanded = tuple(names), length, expanded
        self._layouts = layouts
        self._groups: dict[int, dict[str, torch.Tensor]] = {}
        self._stacks = RowStacks()

    def stacked(
        self,
        forward: Run,
        factors: Mapping[str, Sequence[Factors]],
        base: torch.dtype,
        modules: Sequence[str],
    ) -> Run | None:
        """Return the forward pass with each row's changes; None if there is no memory for it.

        Args:
            forward: The base's forward pass, for inputs [n, in].
            factors: The changes of each adapter, some of which may have none.
            base: The dtype of the base's weight.
            modules: The names of the modules whose input it gets.
        """
        checked = set[int]()

        def check(count: int) -> None:
            if count not in checked:
                for module in modules:
                    self.check(count, module)
                checked.add(count)

        return self._stacks.run(forward, [factors[name] for name in self.names], base, check)

    def check(self, count: int, module: str) -> None:
        """Check that a module's input of ``count`` rows has those of the batch in order.

        Raises:
            RunError: It is not known, or the input has another number of them.
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

    def groups(self, count: int) -> dict[str, torch.Tensor]:
        """Return the row indices of each adapter among ``count`` rows; a row's beams are adjacent.

        ``count`` is one that `check` has found to be right.
        """
        if count not in self._groups:
            each = count // len(self.names)
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
        switch: Switch,
        inputs_of: Callable[[Term], Mapping[str, torch.Tensor]],
    ) -> None:
        self.name, self._switch, self._inputs_of = name, switch, inputs_of
        self.targets: dict[str, str] = {}
        """By attribute, the name of the tensor in the base."""
        self.shared: set[str] = set()
        """Attributes whose parameter is shared with other modules."""
        self._module, self.forward = module, module.forward
        self._kind = _kind(module)
        self._base: dict[str, torch.nn.Parameter] = {}
        module.forward = self._entry()

    # Setting adapters ---------------------------------------------------------------------

    def is_factored(self, terms: Sequence[Term]) -> bool:
        """Return whether terms of the weight can be applied as factors, without changing it."""
        kind, (first, *others) = self._kind, terms
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

    def _factors(self, term: Term) -> Factors:
        inputs = self._inputs_of(term)
        a, b = inputs["a"], inputs["b"]
        return Factors(a * inputs["e"].to(a) if "e" in inputs else a, b, term.weight)

    def _scale(self, effect: AdapterEffect, term: Term) -> None:
        vector = self._inputs_of(term)["l"].flatten().double()
        factor = (1.0 + term.weight * (vector - 1.0)).to(self.parameter("weight"))
        if bool(term.parameters.get("columns")) == (self._kind == "linear"):
            effect.inputs = factor
        else:
            effect.outputs = factor

    @property
    def is_plain_linear(self) -> bool:
        """Whether it is a linear layer of ordinary parameters that it alone has."""
        own = self._module._parameters.values()
        return (
            self._kind == "linear"
            and not self.shared
            and getattr(self.forward, "__func__", None) is torch.nn.Linear.forward
            and all(p is None or type(p.data) is torch.Tensor for p in own)
            and self.parameter("weight").is_floating_point()
        )

    @property
    def module(self) -> torch.nn.Module:
        """The module that is wrapped."""
        return self._module

    def parameter(self, attribute: str) -> torch.nn.Parameter:
        """Return the base's parameter, whatever is set."""
        base = self._base.get(attribute)
        parameter: torch.nn.Parameter = getattr(self._module, attribute) if base is None else base
        return parameter

    def put(self, values: Mapping[str, torch.nn.Parameter]) -> None:
        """Put parameters in place of the base's, until the next call."""
        self._module._parameters.update(self._base)
        self._base = {attribute: self.parameter(attribute) for attribute in values}
        self._module._parameters.update(values)

    # Running ------------------------------------------------------------------------------

    def _entry(self) -> Run:
        """Return what the module calls as its forward pass, whatever is set.

        It has the parameter of the module's own, for a call costs less than one of any arguments.
        """
        switch = self._switch

        def of_input(input: torch.Tensor) -> torch.Tensor:
            return switch.runs[self](input)

        def of_x(x: torch.Tensor) -> torch.Tensor:
            return switch.runs[self](x)

        def of_any(*args: Any, **kwargs: Any) -> torch.Tensor:
            return switch.runs[self](*args, **kwargs)

        return {None: of_any, "conv1d": of_x}.get(self._kind, of_input)

    @property
    def plain(self) -> Run:
        """The base's forward pass; that of a linear layer with its own parameters is shorter."""
        if not self.is_plain_linear:
            return self.forward
        linear, parameters = functional.linear, self._module._parameters

        def run(x: torch.Tensor) -> torch.Tensor:
            return linear(x, parameters["weight"], parameters["bias"])  # type: ignore[arg-type]

        return run

    def run_of(self, effect: AdapterEffect) -> Run:
        """Return the forward pass with an effect, whose parameters are in place when it runs."""
        if effect.additive and not effect.low_rank:
            return self.forward
        if not effect.additive or self._kind == "embedding":
            return lambda *args, **kwargs: self._apply(effect, args, kwargs)
        weight = self.parameter("weight")
        if is_fused(weight.device):
            return fused(self.plain, effect.low_rank, weight.dtype)
        return as_peft(self.forward, effect.low_rank)

    def run_of_rows(self, rows: RowAdapters, effects: Mapping[str, AdapterEffect]) -> Run:
        """Return the forward pass with the effect of each row's adapter, by name.

        It raises a RunError for an input that may not have the rows in order.
        """
        if all(effect.additive and not effect.low_rank for effect in effects.values()):
            return self.forward
        run = None
        stacked = self._kind in ("linear", "conv1d") and not _EXPERTS.search(self.name)
        if stacked and all(effect.additive for effect in effects.values()):
            factors = {name: effect.low_rank for name, effect in effects.items()}
            run = rows.stacked(self.plain, factors, self.parameter("weight").dtype, [self.name])
        return run or (lambda *args, **kwargs: self._by_adapter(rows, effects, args, kwargs))

    def _by_adapter(
        self, adapters: RowAdapters, effects: Mapping[str, AdapterEffect], args: Any, kwargs: Any
    ) -> torch.Tensor:
        """Run the module for the rows of one adapter after the other."""
        self._check_rows(effects, args, kwargs)
        rows: torch.Tensor
        (rows,) = args
        adapters.check(len(rows), self.name)
        groups = adapters.groups(len(rows))
        if all(effect.additive for effect in effects.values()):
            out: torch.Tensor = self.forward(rows)
            for name, places in groups.items():
                if effects[name].low_rank:
                    delta = self._added(effects[name], rows[places.to(rows.device)])
                    out.index_add_(0, places.to(out.device), delta.to(out.dtype))
            return out
        parts: list[torch.Tensor] = []
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
        kind = self._kind
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
            return self.forward(*args, **kwargs)
        if effect.outputs is None and effect.inputs is None:
            out = self.forward(*args, **kwargs)
            rows = args[0] if args else next(iter(kwargs.values()))
            return out.add_(self._added(effect, rows)) if effect.low_rank else out
        (rows,) = args or kwargs.values()
        weight: torch.Tensor = self._module.get_parameter("weight")
        bias = self._module._parameters.get("bias")
        scaled = rows if effect.inputs is None else rows * effect.inputs
        out = functional.linear(scaled, weight) if self._kind == "linear" else scaled @ weight
        if effect.outputs is not None:
            out = out * effect.outputs
        return out if bias is None else out + bias

    def _added(self, effect: AdapterEffect, rows: torch.Tensor) -> torch.Tensor:
        """Return the sum of the low-rank changes for these inputs, of which there are some."""
        return changed(rows, effect.low_rank, embedding=self._kind == "embedding")


def is_fused(device: torch.device) -> bool:
    """Return whether changes are computed in few operations here, and not bit for bit as PEFT's."""
    return device.type != "cpu"


def _kind(module: torch.nn.Module) -> str | None:
    """Return the layer's kind; None if it may use its weight in another way."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return "conv1d"
    return {torch.nn.Linear: "linear", torch.nn.Embedding: "embedding"}.get(type(module))
