"""Sentence embeddings: the modules after the transformer of a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from modpkg.compose.mapping import map_tensors
from modpkg.core.errors import RunError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModel
from modpkg.core.jsonfile import read_json
from modpkg.runtime.dense import project
from modpkg.runtime.sentence_modules import modules_of, split_tensors

SENTENCE = "sentence_embedding"
"""sentence-transformers' name for a text's embedding, the input and output of modules after
Pooling."""
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Older config keys; several modes are concatenated in this order."""

Embedder = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From states [batch, length, hidden] and their mask to embeddings [batch, width]."""


def embedder(record: InstalledModel, folder: Path, packs: Path) -> Embedder:
    """Return a function that computes an installed model's embeddings; see `embed`."""
    _, after = split_tensors(record.name, folder, record.tensors)
    weights = {path: map_tensors(own.items(), packs) for path, own in after.items()}
    return lambda states, mask: embed(record.name, folder, states, mask, weights)


def embed(
    name: str,
    folder: Path,
    states: torch.Tensor,
    mask: torch.Tensor,
    weights: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Return embeddings [batch, width] from states [batch, length, hidden].

    ``modules.json`` lists the modules after the transformer: Pooling, then Dense and Normalize in
    any order; ``weights`` has each module's tensors by its folder. Without modules.json the result
    is the mean of the states (Reimers & Gurevych 2019, arXiv 1908.10084), not normalised.

    Raises:
        RunError: A module is not supported, or its weights do not match its config.
    """
    result: torch.Tensor | None = None
    left = dict(weights or {})
    for kind, path in modules_of(name, folder):
        if kind == "Transformer":
            continue
        file = folder / path / CONFIG
        config = read_json(file) if path and file.exists() else {}
        for key in ("module_input_name", "module_output_name"):
            if kind != "Pooling" and config.get(key) not in (None, SENTENCE):
                reason = f"{path} has {key} {config[key]!r}; only {SENTENCE!r} is supported"
                raise RunError("M704", name=name, reason=reason)
        if kind == "Pooling":
            result = _pool(name, config, states, mask)
        elif kind == "Normalize" and result is not None:
            result = torch.nn.functional.normalize(result, dim=-1)
        elif kind == "Dense" and result is not None:
            result = project(name, path, config, left.pop(path, {}), result)
        else:
            raise RunError(
                "M704", name=name, reason=f"modules.json names {kind}, which is not supported"
            )
    if left:
        raise RunError("M704", name=name, reason=f"{min(left)} has weights that are not used")
    return _mean(states, mask) if result is None else result


def _pool(
    name: str, config: Mapping[str, Any], states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    modes = [mode for key, mode in _LEGACY.items() if config.get(key) is True]
    if (own := config.get("pooling_mode")) is not None:
        modes = [str(mode) for mode in own] if isinstance(own, list) else [str(own)]
    # If all the older keys are false, sentence-transformers uses the mean.
    if not modes and any(key in config for key in _LEGACY):
        modes = ["mean"]
    if not modes:
        raise RunError("M704", name=name, reason="the pooling's config.json names no mode")
    return torch.cat([_pooled(name, mode, states, mask) for mode in modes], dim=-1)


def _pooled(name: str, mode: str, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return one vector per text, [batch, hidden]."""
    if mode in ("mean_tokens", "mean"):
        return _mean(states, mask)
    if mode in ("cls_token", "cls"):
        return states[:, 0]
    if mode in ("max_tokens", "max"):
        return states.masked_fill(mask[..., None] == 0, float("-inf")).max(dim=1).values
    if mode == "mean_sqrt_len_tokens":
        return _weighted(states, mask, mask.sum(dim=1, keepdim=True).sqrt())
    if mode == "weightedmean":
        # Positions count from 1 at the first non-padding token.
        weights = mask * (torch.arange(1, mask.shape[1] + 1) - mask.int().argmax(1, keepdim=True))
        return _weighted(states, weights, weights.sum(dim=1, keepdim=True))
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)
        return states[torch.arange(len(states)), last]
    raise RunError("M704", name=name, reason=f"pooling mode {mode!r} is not supported")


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _weighted(states, mask, mask.sum(dim=1, keepdim=True))


def _weighted(states: torch.Tensor, weights: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return Σ weight · state / total, summed in float32 or wider."""
    wide = torch.promote_types(states.dtype, torch.float32)
    summed = (states.to(wide) * weights[..., None].to(wide)).sum(dim=1)
    return (summed / total.to(wide).clamp(min=1e-9)).to(states.dtype)
