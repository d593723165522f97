"""Live models: one base, mapped once, and adapters beside it that can be switched."""

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
from modpkg.runtime.load import build_model
from modpkg.runtime.parts import LiveParts, TermsByTensor, combined, find_parts
from modpkg.runtime.sentence import apart
from modpkg.runtime.sites import AdaptedModule, AdapterEffect, RowAdapters

BASE = "__base__"
"""The name of no adapter at all, as PEFT has it."""
_BATCH_SECOND = ("fsmt", "xlnet")
"""Architectures whose layers get the batch as second extent."""
_NO_ROWS = ("pixel_", "image_", "video_")


def load_live(names: Sequence[str], *, user: bool = False, start: Path | None = None) -> LiveModel:
    """Return installed models of one base as one live model; the first one's adapters are set.

    Raises:
        RunError: they cannot be live, or not together. What `find_parts` and `load_model` raise.
    """
    return LiveModel(names[0], find_parts(names, user=user, start=start))


class LiveModel(torch.nn.Module):
    """A model whose adapters lie beside its base, which stays as it is.

    Adapters have the names of the models that were loaded, each with all that its recipe adds, and
    those of the modules in them, each at scale 1. All else is the inner model's (``model``).
    """

    def __init__(self, name: str, parts: LiveParts) -> None:
        super().__init__()
        own, _ = apart(name, parts.folder, parts.table)
        tensors = map_tensors(own.items())
        self.model = build_model(name, parts.folder, tensors)
        self._table: dict[str, TensorRef] = parts.table
        self._changes: dict[str, TermsByTensor] = dict(parts.changes)
        self._rows = RowAdapters()
        self._effects: dict[str, dict[AdaptedModule, AdapterEffect]] = {}
        """By adapter, for those that rows have had since the last choice."""
        self._set: dict[AdaptedModule, AdapterEffect] = {}
        """What all rows have."""
        self._inputs = map_tensors(_inputs(parts).items())
        calls = (self._rows, self._effect_of, self._inputs_of)
        self._sites = _sites(name, self.model, tensors, parts, *calls)
        self._active: dict[str, float] = {}
        self.set_adapter(next(iter(parts.changes)))

    # Choosing -----------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names that can be chosen, beside ``__base__``."""
        return tuple(self._changes)

    @property
    def active(self) -> dict[str, float]:
        """The adapters that are set, with their weights."""
        return dict(self._active)

    def set_adapter(self, adapter: str | Sequence[str] | Mapping[str, float]) -> None:
        """Set what all rows are changed by: one adapter, several, or several with weights.

        Raises:
            RunError: there is no such adapter. RunError: they do not add up.
        """
        weights = _weights(adapter)
        self._use(self._sum(weights))
        self._active = weights

    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str
    ) -> None:
        """Name the exact weighted sum of adapters, so that it can be chosen like one.

        Raises:
            RunError: the name is taken, or one of them is unknown. RunError: they do not
                add up.
        """
        if adapter_name in self._changes or adapter_name == BASE:
            raise RunError("M709", choice=repr(adapter_name), reason="the name is taken")
        if len(adapters) != len(weights):
            raise RunError(
                "M709",
                choice=repr(adapter_name),
                reason=f"there are {len(adapters)} adapters and {len(weights)} weights",
            )
        parts = [
            (self._named(name), weight) for name, weight in zip(adapters, weights, strict=True)
        ]
        self._changes[adapter_name] = combined(parts)

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Run the base alone inside of the block."""
        for site in self._sites:
            site.use(AdapterEffect({}, []))
        try:
            yield
        finally:
            for site, effect in self._set.items():
                site.use(effect)

    def _named(self, name: str) -> TermsByTensor:
        if name == BASE:
            return {}
        if name not in self._changes:
            raise RunError(
                "M709", choice=repr(name), reason=f"known are {', '.join([BASE, *self._changes])}"
            )
        return self._changes[name]

    def _sum(self, weights: Mapping[str, float]) -> TermsByTensor:
        return combined([(self._named(name), weight) for name, weight in weights.items()])

    def _use(self, changes: TermsByTensor) -> None:
        self._effects.clear()
        self._set = self._made(changes)
        for site, effect in self._set.items():
            site.use(effect)

    def _made(self, changes: TermsByTensor) -> dict[AdaptedModule, AdapterEffect]:
        """Return what changes do at each site; a tensor that two sites share is made once."""
        whole: dict[str, torch.Tensor] = {}

        def make(target: str) -> torch.Tensor:
            if target not in whole:
                ref = self._table[target]
                made = ComputedTensor(source=ref, dtype=ref.dtype, terms=changes[target])
                whole[target] = tensor_in_memory("a live model", target, made)
            return whole[target]

        return {site: site.effect(changes, make) for site in self._sites}

    def _effect_of(self, name: str, site: AdaptedModule) -> AdapterEffect:
        if name not in self._effects:
            self._effects[name] = self._made(self._named(name))
        return self._effects[name][site]

    def _inputs_of(self, term: Term) -> dict[str, torch.Tensor]:
        return {role: self._inputs[_place(ref)] for role, ref in term.inputs.items()}

    # Running ------------------------------------------------------------------------------

    def forward(self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Run the model; with ``adapter_names``, each row of the batch with its own adapter.

        Raises:
            RunError: the names do not fit the batch, or an adapter changes something that is
                not computed row by row.
        """
        with self._each(adapter_names, args, kwargs):
            return self.model(*args, **kwargs)

    def generate(
        self, *args: Any, adapter_names: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Generate as the inner model does; the beams of a row have its adapter.

        Raises:
            RunError: as `forward`.
        """
        with self._each(adapter_names, args, kwargs):
            return self.model.generate(*args, **kwargs)  # type: ignore[operator]

    @contextlib.contextmanager
    def _each(
        self, names: Sequence[str] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Iterator[None]:
        if names is None:
            yield
            return
        kind = self.model.config.model_type  # type: ignore[union-attr]
        odd = next((key for key in kwargs if key.startswith(_NO_ROWS)), None)
        if odd is not None or kind in _BATCH_SECOND:
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"{odd} is not a batch of texts" if odd else f"{kind} has its batch second",
            )
        for name in names:
            self._named(name)
        given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds"), kwargs.get("inputs")]
        rows = next((len(value) for value in given if value is not None), None)
        if rows != len(names):
            raise RunError(
                "M709",
                choice="One adapter for each row",
                reason=f"the batch has {rows} rows, and there are {len(names)} names",
            )
        for name in self._effects.keys() - set(names):
            del self._effects[name]
        with self.disable_adapter():
            self._rows.set(names)
            try:
                yield
            finally:
                self._rows.set(())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LiveModel:
        """Move or convert the base; what lies beside it follows."""
        self._use({})
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._use(self._sum(self._active))
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


def _is_called(target: str, path: str) -> bool:
    """Say whether a parameter is the one of a name on disk, which may begin at another level."""
    return target == path or target.endswith("." + path) or path.endswith("." + target)


def _weights(adapter: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(adapter, Mapping):
        return dict(adapter)
    return dict.fromkeys([adapter] if isinstance(adapter, str) else adapter, 1.0)


def _inputs(parts: LiveParts) -> dict[str, TensorRef]:
    """Return all that the adapters bring, so that each of their files is mapped once."""
    terms = (t for changes in parts.changes.values() for each in changes.values() for t in each)
    return {_place(ref): ref for term in terms for ref in term.inputs.values()}


def _place(ref: TensorRef) -> str:
    return f"{ref.offset} {ref.dtype} {ref.file}"


def _sites(
    name: str,
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    parts: LiveParts,
    rows: RowAdapters,
    effect_of: Callable[[str, AdaptedModule], AdapterEffect],
    inputs_of: Callable[[Term], Mapping[str, torch.Tensor]],
) -> list[AdaptedModule]:
    """Return the modules that some adapter changes, found by where their parameters' bytes lie.

    transformers renames tensors of some architectures, and joins or reshapes those of others: the
    former are found so, and the latter are not.

    Raises:
        RunError: a changed tensor is no parameter of the model.
    """
    owners: dict[tuple[int, torch.Size], list[tuple[str, torch.nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                place = (parameter.data_ptr(), parameter.shape)
                owners.setdefault(place, []).append((path, module, attribute))
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    touched = sorted({target for changes in parts.changes.values() for target in changes})
    sites: dict[str, AdaptedModule] = {}
    twins: dict[tuple[int, torch.Size], int] = {}
    for tensor in tensors.values():
        place = (tensor.data_ptr(), tensor.shape)
        twins[place] = twins.get(place, 0) + 1
    for target in touched:
        tensor = tensors[target]
        place = (tensor.data_ptr(), tensor.shape)
        found = owners.get(place, [])
        if twins[place] > 1:  # layers that are repeated: only their names tell them apart
            found = [each for each in found if _is_called(target, f"{each[0]}.{each[2]}")]
        if not found or not tensor.numel():
            raise RunError(
                "M708",
                name=name,
                reason=f"{target!r}, which an adapter changes, is joined with other tensors or "
                "rearranged when transformers loads it; without live=True it works",
            )
        for path, module, attribute in found:
            if path not in sites:
                tokens = module is embedding or path.endswith((".embed_tokens", "shared"))
                calls = (rows, effect_of, inputs_of)
                sites[path] = AdaptedModule(path, module, *calls, reads_tokens=tokens)
            sites[path].targets[attribute] = target
            if len(found) > 1:
                sites[path].shared.add(attribute)
    return list(sites.values())
