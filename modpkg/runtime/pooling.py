"""Sentence embeddings: the modules of a sentence-transformers model after its transformer."""

from __future__ import annotations

from pathlib import Path

import torch

from modpkg.errors import WeightsDoNotFit
from modpkg.release.data import read_json
from modpkg.runtime.sentence import modules_of


def embed(name: str, folder: Path, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return embeddings of shape [batch, width] from states [batch, length, width].

    ``modules.json`` says what follows the transformer: Pooling, then Normalize. Without it the
    states are averaged (Reimers & Gurevych 2019, arXiv 1908.10084) and not normalised.

    Raises:
        WeightsDoNotFit: a module there is not known.
    """
    result: torch.Tensor | None = None
    for kind, path in modules_of(name, folder):
        if kind == "Transformer":
            continue
        if kind == "Pooling":
            config = read_json(folder / path / "config.json")
            result = _pool(name, config, states, mask)
        elif kind == "Normalize" and result is not None:
            result = torch.nn.functional.normalize(result, dim=-1)
        else:
            raise WeightsDoNotFit(name=name, reason=f"modules.json names {kind}, not known here")
    return _mean(states, mask) if result is None else result


def _pool(
    name: str, config: dict[str, object], states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    modes = [
        key.removeprefix("pooling_mode_")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    if isinstance(mode := config.get("pooling_mode"), str):
        modes = [mode]
    parts = []
    for mode in modes:
        if mode in ("mean_tokens", "mean"):
            parts.append(_mean(states, mask))
        elif mode in ("cls_token", "cls"):
            parts.append(states[:, 0])
        elif mode in ("max_tokens", "max"):
            hidden = states.masked_fill(mask[..., None] == 0, float("-inf"))
            parts.append(hidden.max(dim=1).values)
        else:
            raise WeightsDoNotFit(name=name, reason=f"pooling mode {mode!r} is not known here")
    if not parts:
        raise WeightsDoNotFit(name=name, reason="the pooling's config.json names no mode")
    return torch.cat(parts, dim=-1)


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
