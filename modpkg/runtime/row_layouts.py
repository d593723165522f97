"""Which modules of a network get the batch's rows as the first extent of their input.

Some networks get the batch as second extent, or regroup it, and which part of a module's input is
a row's cannot be known by its shape. So it is tried: the network runs on a few rows of tokens, and
again with one of the rows changed. Where only that row's part of the input changes, for each of
the rows, the first extent is the batch's rows in order, or the tokens of each row in order.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import torch

_ROWS = 3
_NOISE = 1e-3
"""Changes of other rows below this part of a row's own are rounding."""


class Layout(enum.Enum):
    """The first extent of a module's input."""

    ROWS = "one entry for each row"
    TOKENS = "one entry for each token of each row"


def usual_tokens(model: Any, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Return rows of tokens, none of them special; other seeds have others in every place."""
    table = model.get_input_embeddings().weight
    special = {value for key, value in model.config.to_dict().items() if key.endswith("token_id")}
    usual = [token for token in range(min(table.shape[0], 4096)) if token not in special]
    place = torch.arange(rows * length) * 7 + seed
    tokens = torch.tensor(usual)[place % len(usual)]
    return tokens.view(rows, length).to(table.device)


def run_on(model: Any, ids: torch.Tensor) -> None:
    """Run a model on rows of tokens."""
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)


class RowLayouts:
    """The layouts of modules' inputs in one network, tried once for each magnitude of lengths."""

    def __init__(self, model: Any, modules: Mapping[str, torch.nn.Module]) -> None:
        self._model, self._modules = model, modules
        self._found: dict[int, dict[str, Layout]] = {}

    def at(self, length: int) -> Mapping[str, Layout]:
        """Return the layouts by name of the module, for rows of ``length`` tokens.

        Modules whose input has no such layout are missing; so are all, if the network does not run
        on tokens alone. No adapter may be set.
        """
        length = max(length, 2)
        if (key := length.bit_length()) not in self._found:
            self._found[key] = self._try(length)
        return self._found[key]

    def _try(self, length: int) -> dict[str, Layout]:
        usual, others = (usual_tokens(self._model, _ROWS, length, seed) for seed in (0, 1))
        try:
            before = self._inputs(usual)
            after = []
            for row in range(_ROWS):
                ids = usual.clone()
                ids[row] = others[row]
                after.append(self._inputs(ids))
        except Exception:  # one that needs other inputs may raise anything
            return {}
        found = {name: self._layout(name, before, after, length) for name in self._modules}
        return {name: layout for name, layout in found.items() if layout is not None}

    def _inputs(self, ids: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
        """Return each call's input by module; None for one that is not a single tensor."""
        seen: dict[str, list[torch.Tensor | None]] = {name: [] for name in self._modules}

        def record(name: str, args: Any, kwargs: Any) -> None:
            single = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor)
            seen[name].append(args[0].detach().clone() if single else None)

        hooks = [
            module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: record(name, args, kwargs), with_kwargs=True
            )
            for name, module in self._modules.items()
        ]
        try:
            run_on(self._model, ids)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    @staticmethod
    def _layout(
        name: str,
        before: Mapping[str, list[torch.Tensor | None]],
        after: list[dict[str, list[torch.Tensor | None]]],
        length: int,
    ) -> Layout | None:
        """Return the layout that all calls of a module have; None if there is none."""
        if not before[name] or any(len(each[name]) != len(before[name]) for each in after):
            return None
        layouts = {
            _layout_of(usual, [each[name][call] for each in after], length)
            for call, usual in enumerate(before[name])
        }
        return layouts.pop() if len(layouts) == 1 else None


def _layout_of(
    usual: torch.Tensor | None, changed: list[torch.Tensor | None], length: int
) -> Layout | None:
    """Return the layout of one input, given what it is with each of the rows changed."""
    if usual is None or not usual.ndim:
        return None
    each = {_ROWS: 1, _ROWS * length: length}.get(usual.shape[0])
    if each is None:
        return None
    for row, other in enumerate(changed):
        if other is None or other.shape != usual.shape:
            return None
        change = (other.double() - usual.double()).abs().reshape(len(usual), -1).amax(1)
        own = change[row * each : (row + 1) * each]
        rest = torch.cat([change[: row * each], change[(row + 1) * each :]])
        if not own.max() > 0 or not own.min() > 0 or rest.max() > _NOISE * own.max():
            return None
    return Layout.ROWS if each == 1 else Layout.TOKENS
