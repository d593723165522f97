"""Live models: one base, mapped once, with adapters that can be switched without composing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modpkg.compose.composition import ComputedTensor, Term
from modpkg.compose.in_memory import tensor_in_memory
from modpkg.compose.mapping import map_tensors
from modpkg.core.errors import RunError
from modpkg.core.installed import TensorRef
from modpkg.runtime.adapted_module import (
    NO_EFFECT,
    AdaptedModule,
    AdapterEffect,
    RowAdapters,
    Runs,
    Switch,
    is_fused,
)
from modpkg.runtime.adapter_choice import (
    AdapterChoice,
    list_of_names,
    weighted_names,
    weights_of,
)
from modpkg.runtime.generation_config import returns_ids
from modpkg.runtime.live_parts import LiveParts, TermsByTensor, combined
from modpkg.runtime.load import build_model
from modpkg.runtime.low_rank import STACKED, Run
from modpkg.runtime.placement import Placement, StoredTensors
from modpkg.runtime.row_layouts import RowLayouts
from modpkg.runtime.sentence_modules import split_tensors
from modpkg.runtime.shared_parameters import SHARED
from modpkg.runtime.siblings import Siblings, find_siblings

BASE = "__base__"
"""The name for no adapter, as in PEFT."""
_NOT_TEXT = ("pixel_", "image_", "video_")
"""Prefixes of inputs that have no row per text."""


class Setting:
    """A choice of adapters, prepared: its effect on each module that it changes."""

    def __init__(
        self,
        effects: Mapping[AdaptedModule, AdapterEffect],
        siblings: Mapping[AdaptedModule, Siblings],
    ) -> None:
        self.effects, self._siblings = effects, siblings
        self.replacing = {each: effect.values for each, effect in effects.items() if effect.values}
        """The modules in which it replaces parameters, with these."""
        self.runs = Runs(self._run_of)
        self.held = 0
        """Bytes of the factors that siblings join, until `let_go`."""

    def let_go(self) -> None:
        """Free what siblings hold; it is made again when they run."""
        self.runs.clear()
        self.held = 0

    def _run_of(self, module: AdaptedModule) -> Run:
        together = self._siblings.get(module)
        if together is not None:
            effects = [self.effects.get(each, NO_EFFECT) for each in together.modules]
            if all(each.additive for each in effects) and any(each.low_rank for each in effects):
                runs, held = together.runs(effects)
                self.held += held
                self.runs.update(zip(together.modules, runs, strict=True))
                return self.runs[module]
        return module.run_of(self.effects.get(module, NO_EFFECT))


class LiveModel(torch.nn.Module):
    """A base model with switchable adapters; the base's weights are never changed.

    An adapter is named after a loaded model (everything that its recipe adds) or after one of its
    modules (at scale 1). Other attributes are those of the inner ``model``.
    """

    def __init__(
        self,
        name: str,
        parts: LiveParts,
        *,
        attention: str | None = None,
        device: torch.device | None = None,
        share: bool = False,
    ) -> None:
        """Load a base with its adapters, set to the first one.

        Args:
            name: Its name, for errors.
            parts: The base and its adapters.
            attention: The attention to use, as transformers names it; None for its choice.
            device: Where to put it; None for the CPU, where the base stays mapped.
            share: Whether the base shares parameters with other models; see `load_model`.

        Raises:
            RunError: It cannot be loaded, or the adapters cannot be live.
        """
        super().__init__()
        own, _ = split_tensors(name, parts.folder, parts.table)
        tensors = map_tensors(own.items(), apart=True)
        self.model = build_model(name, parts.folder, tensors, attention=attention)
        self._table: dict[str, TensorRef] = parts.table
        self._changes: dict[str, TermsByTensor] = dict(parts.changes)
        self._inputs = map_tensors(_inputs(parts).items())
        self._switch, self._base = Switch(), Setting({}, {})
        self._siblings: dict[AdaptedModule, Siblings] = {}
        self._recent: dict[Setting, None] = {}
        """The choices whose siblings hold something, the last one last."""
        self._kept: dict[str, Setting] = {}
        """By adapter; those that replace parameters are not kept."""
        self._of_rows: dict[str, Setting] = {}
        """Those of the last batch with an adapter for each row."""
        self._batch: tuple[tuple[object, ...], Runs] | None = None
        """The last batch's rows, and what its modules run."""
        self._set = self._shown = self._base
        self._adapted = _adapted_modules(
            name, self.model, tensors, parts, self._switch, self._inputs_of
        )
        self._changed: dict[str, list[AdaptedModule]] = {}
        """By target, the modules that use it."""
        for module in self._adapted:
            for target in module.targets.values():
                self._changed.setdefault(target, []).append(module)
        self._layouts = RowLayouts(self.model, {each.name: each.module for each in self._adapted})
        self._active: dict[str, float] = {}
        if share or device is not None:
            place = device or torch.device("cpu")
            stored = StoredTensors(tensors, own, Path())
            with Placement(name, place, stored, shared=SHARED if share else None) as placement:
                placement.place(self.model)
            self.to(place)  # the adapters
        self.set_adapter(next(iter(parts.changes)))

    # Setting adapters ---------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that can be set, besides ``__base__``."""
        return tuple(self._changes)

    @property
    def siblings(self) -> list[Siblings]:
        """The layers that are computed together, on an accelerator."""
        return list(dict.fromkeys(self._siblings.values()))

    @property
    def active(self) -> dict[str, float]:
        """The adapters that are set, with their weights."""
        return dict(self._active)

    def set_adapter(self, adapter: AdapterChoice) -> None:
        """Set the adapters of all rows: one, several, or several with weights.

        Raises:
            RunError: An adapter is unknown, a weight is not finite, or they cannot be summed.
        """
        weights = weights_of(adapter)
        setting = self._setting(weights)
        self._of_rows, self._batch = {}, None
        self._set = setting
        self._show(setting)
        self._active = weights

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str
    ) -> None:
        """Add the exact weighted sum of adapters as a new adapter.

        Raises:
            RunError: The name exists, an adapter is unknown, a weight is not finite, or they cannot
                be summed.
        """
        weighted = weighted_names(adapters, weights, adapter_name)
        if adapter_name in self._changes or adapter_name == BASE:
            raise RunError("M709", choice=repr(adapter_name), reason="the name already exists")
        parts = [(self._named(name), weight) for name, weight in weighted]
        self._changes[adapter_name] = combined(parts)

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Run the base without adapters inside of the block."""
        self._show(self._base)
        try:
            yield
        finally:
            self._show(self._set)

    def _named(self, name: str) -> TermsByTensor:
        if name == BASE:
            return {}
        if name not in self._changes:
            raise RunError(
                "M709",
                choice=repr(name),
                reason=f"there is no such adapter; there are {', '.join([BASE, *self._changes])}",
            )
        return self._changes[name]

    def _setting(self, weights: Mapping[str, float]) -> Setting:
        """Return a choice of adapters, ready to be shown; one adapter is prepared once."""
        names = list(weights)
        if len(names) == 1 and weights[names[0]] == 1.0:
            (name,) = names
            if name in self._kept:
                return self._kept[name]
            setting = self._prepared(self._named(name))
            if not setting.replacing:
                self._kept[name] = setting
            return setting
        parts = [(self._named(name), weight) for name, weight in weights.items()]
        return self._prepared(combined(parts))

    def _prepared(self, changes: TermsByTensor) -> Setting:
        """Return the effect on each module; a tensor that modules share is computed once."""
        composed: dict[str, torch.Tensor] = {}

        def compose(target: str) -> torch.Tensor:
            if target not in composed:
                ref = self._table[target]
                computed = ComputedTensor(source=ref, dtype=ref.dtype, terms=changes[target])
                composed[target] = tensor_in_memory("a live model", target, computed)
            return composed[target]

        touched = dict.fromkeys(each for target in changes for each in self._changed[target])
        effects = {module: module.effect(changes, compose) for module in touched}
        return Setting(effects, self._siblings)

    def _show(self, setting: Setting) -> None:
        """Let all modules use a choice of adapters."""
        for module in self._shown.replacing:
            module.put({})
        for module, values in setting.replacing.items():
            module.put(values)
        self._shown = setting
        self._switch.runs = setting.runs
        if self._siblings:
            self._recent.pop(setting, None)
            while sum(each.held for each in self._recent) > STACKED:
                oldest = next(iter(self._recent))
                del self._recent[oldest]
                oldest.let_go()
            self._recent[setting] = None

    def _inputs_of(self, term: Term) -> dict[str, torch.Tensor]:
        return {role: self._inputs[_place(ref)] for role, ref in term.inputs.items()}

    # Running ------------------------------------------------------------------------------

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Run the model; with ``adapter_names``, each row of the batch with its own adapter.

        Raises:
            RunError: The names do not match the batch, or an adapter changes a module whose input
                may not have the batch as first dimension.
        """
        with self._each(adapter_names, args, kwargs):
            return self.model(*args, **kwargs)

    def generate(
        self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Generate with the inner model; a row's beams use its adapter.

        Raises:
            RunError: As `forward`.
        """
        # Operations start faster in inference mode; what they return may not be trained on.
        plain = returns_ids(self.model, args, kwargs) and not torch.is_inference_mode_enabled()
        mode = torch.inference_mode() if plain else contextlib.nullcontext()
        with self._each(adapter_names, args, kwargs, expanded=True), mode:
            out = self.model.generate(*args, **kwargs)  # type: ignore[operator]
        return out.clone() if plain else out

    @contextlib.contextmanager
    def _each(
        self,
        names: Sequence[str] | None,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        expanded: bool = False,
    ) -> Iterator[None]:
        if names is None:
            yield
            return
        not_text = next((key for key in kwargs if key.startswith(_NOT_TEXT)), None)
        if not_text is not None:
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{not_text} is not a batch of texts",
            )
        names = list_of_names("adapter_names", names)
        for name in names:
            self._named(name)
        given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds"), kwargs.get("inputs")]
        batch = next((value for value in given if value is not None), None)
        if batch is None or len(batch) != len(names):
            found = "there is no batch" if batch is None else f"rows of the batch: {len(batch)}"
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{found}, names of adapters: {len(names)}",
            )
        length = int(batch.shape[1]) if batch.ndim > 1 else 1
        with self.disable_adapter():
            if len(set(names)) == 1:  # whatever is a row's, it is the same for all
                self._show(self._setting({names[0]: 1.0}))
            else:
                self._switch.runs = self._row_runs(names, length, expanded)
            yield

    def _row_runs(self, names: Sequence[str], length: int, expanded: bool) -> Runs:
        """Return what the modules run for a batch's rows; that of the last batch is kept."""
        key = (tuple(names), length, expanded)
        if self._batch is None or self._batch[0] != key:
            self._batch = None
            settings = {
                name: self._of_rows.get(name) or self._setting({name: 1.0})
                for name in dict.fromkeys(names)
            }
            self._of_rows = settings
            rows = RowAdapters(names, length, self._layouts.at(length), expanded=expanded)

            def effects(module: AdaptedModule) -> dict[str, AdapterEffect]:
                return {name: s.effects.get(module, NO_EFFECT) for name, s in settings.items()}

            def make(module: AdaptedModule) -> Run:
                together = self._siblings.get(module)
                if together is not None:
                    joint = together.runs_of_rows(rows, list(map(effects, together.modules)))
                    if joint is not None:
                        runs.update(zip(together.modules, joint, strict=True))
                        return runs[module]
                return module.run_of_rows(rows, effects(module))

            runs = Runs(make)
            self._batch = key, runs
        return self._batch[1]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LiveModel:
        """Move or convert the base, and with it the adapters."""
        self._show(self._base)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._inputs = {place: fn(tensor) for place, tensor in self._inputs.items()}
        for kept in (self._kept, self._of_rows, self._base.runs):
            kept.clear()
        self._batch = None
        self._recent.clear()
        self._siblings.clear()
        if any(is_fused(each.parameter(min(each.targets)).device) for each in self._adapted):
            self._join_siblings()
        self._set = self._setting(self._active)
        self._show(self._set)
        return self

    def _join_siblings(self) -> None:
        def show(runs: dict[AdaptedModule, Run]) -> None:
            self._switch.runs = runs

        for found in find_siblings(self.model, self._adapted, show):
            self._siblings.update(dict.fromkeys(found.modules, found))

    def __reduce_ex__(self, _: object) -> Any:
        """Refuse to be copied or pickled: a copy's layers would follow the switch of this one."""
        reason = "load it again; its base is mapped, so all share its memory"
        raise RunError("M709", choice="A copy or pickle of a live model", reason=reason)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


def _same_name(target: str, path: str) -> bool:
    """Return whether a parameter has a tensor's name, ignoring a prefix that either may have."""
    return target == path or target.endswith("." + path) or path.endswith("." + target)


def _inputs(parts: LiveParts) -> dict[str, TensorRef]:
    """Return all inputs of the adapters, so that each of their files is mapped once."""
    terms = (t for changes in parts.changes.values() for each in changes.values() for t in each)
    return {_place(ref): ref for term in terms for ref in term.inputs.values()}


def _place(ref: TensorRef) -> str:
    return f"{ref.offset} {ref.dtype} {ref.file}"


def _adapted_modules(
    name: str,
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    parts: LiveParts,
    switch: Switch,
    inputs_of: Callable[[Term], Mapping[str, torch.Tensor]],
) -> list[AdaptedModule]:
    """Return the modules that some adapter changes, by the address of their parameters' data.

    transformers renames the tensors of some architectures, which does not matter here, and joins or
    rearranges those of others, which is refused.

    Raises:
        RunError: A changed tensor is not a parameter of the model.
    """
    owners: dict[tuple[int, torch.Size], list[tuple[str, torch.nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                place = (parameter.data_ptr(), parameter.shape)
                owners.setdefault(place, []).append((path, module, attribute))
    touched = sorted({target for changes in parts.changes.values() for target in changes})
    adapted: dict[str, AdaptedModule] = {}
    equal: dict[str, list[torch.Tensor]] = {}
    for key, tensor in tensors.items():
        equal.setdefault(_place(parts.table[key]), []).append(tensor)
    for target in touched:
        tensor = tensors[target]
        same = equal[_place(parts.table[target])]
        parameters = [p for each in same for p in owners.get((each.data_ptr(), each.shape), [])]
        if len(same) > 1:  # of tensors that are tied one is used, whose content both have
            parameters = [p for p in parameters if _same_name(target, f"{p[0]}.{p[2]}")]
        if not parameters or not tensor.numel():
            raise RunError(
                "M708",
                name=name,
                reason=f"{target!r}, which an adapter changes, is joined with other tensors or "
                "rearranged when transformers loads it; load it without live=True",
            )
        for path, module, attribute in parameters:
            if path not in adapted:
                adapted[path] = AdaptedModule(path, module, switch, inputs_of)
            adapted[path].targets[attribute] = target
            if len(parameters) > 1:
                adapted[path].shared.add(attribute)
    return list(adapted.values())
