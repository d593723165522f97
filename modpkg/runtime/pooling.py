"""Sentence embeddings: the modules after the transformer of a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from modpkg.compose.mapping import map_tensors
from modpkg.core.errors import RunError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModel
from modpkg.core.jsonfile import read_json
from modpkg.runtime.dense import normalize_layer, project
from modpkg.runtime.sentence_modules import check_modules, modules_of, split_tensors
from modpkg.runtime.sentence_settings import SentenceSettings, read_settings

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
_KEYS = {*_LEGACY, "pooling_mode", "include_prompt", "embedding_dimension"}
_KEYS |= {"word_embedding_dimension"}


class Embedder:
    """The modules after an installed model's transformer, and the model's settings."""

    def __init__(
        self,
        name: str,
        folder: Path,
        weights: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        self._name, self._folder, self._weights = name, folder, weights

    @cached_property
    def settings(self) -> SentenceSettings:
        """The model's settings.

        Raises:
            RunError: One is not supported, see `read_settings`.
        """
        return read_settings(self._name, self._folder)

    def __call__(
        self, states: torch.Tensor, mask: torch.Tensor, prompt_length: int = 0
    ) -> torch.Tensor:
        """Return embeddings, see `embed`, cut to the width that the settings name."""
        vectors = embed(
            self._name, self._folder, states, mask, self._weights, prompt_length=prompt_length
        )
        return vectors[..., : self.settings.truncate_dim]


def embedder(record: InstalledModel, folder: Path, packs: Path) -> Embedder:
    """Return what computes an installed model's embeddings."""
    _, after = split_tensors(record.name, folder, record.tensors)
    weights = {path: map_tensors(own.items(), packs) for path, own in after.items()}
    return Embedder(record.name, folder, weights)


def embed(
    name: str,
    folder: Path,
    states: torch.Tensor,
    mask: torch.Tensor,
    weights: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    *,
    prompt_length: int = 0,
) -> torch.Tensor:
    """Return embeddings [batch, width] from states [batch, length, hidden].

    ``modules.json`` lists the modules after the transformer: Pooling, then Dense, LayerNorm and
    Normalize in any order; ``weights`` has each module's tensors by its folder. Without that file
    the result is the mean of the states (Reimers & Gurevych 2019, arXiv 1908.10084), not
    normalised. The first ``prompt_length`` tokens are left out by a Pooling that does not include
    the prompt.

    Raises:
        RunError: A module is not supported, or its weights do not match its config.
    """
    modules = modules_of(name, folder)
    if not modules:
        return _mean(states, mask)
    check_modules(name, modules)
    result = states
    left = dict(weights or {})
    for kind, path in modules[1:]:
        file = folder / path / CONFIG
        config = read_json(file) if path and file.exists() else {}
        for key in ("module_input_name", "module_output_name"):
            if kind != "Pooling" and config.get(key) not in (None, SENTENCE):
                reason = f"{path} has {key} {config[key]!r:.100}; only {SENTENCE!r} is supported"
                raise RunError("M704", name=name, reason=reason)
        if kind == "Pooling":
            kept = config.get("include_prompt", True)
            if not isinstance(kept, bool):
                reason = f"{path} has include_prompt {kept!r:.100}, which is not true or false"
                raise RunError("M704", name=name, reason=reason)
            result = _pool(name, config, states, mask, 0 if kept else prompt_length)
        elif kind == "Normalize":
            result = torch.nn.functional.normalize(result, dim=-1)
        elif kind == "LayerNorm":
            result = normalize_layer(name, path, config, left.pop(path, {}), result)
        elif kind == "Dense":
            result = project(name, path, config, left.pop(path, {}), result)
    if left:
        raise RunError("M704", name=name, reason=f"{min(left)} has weights that are not used")
    return result


def _pool(
    name: str,
    config: Mapping[str, Any],
    states: torch.Tensor,
    mask: torch.Tensor,
    skipped: int,
) -> torch.Tensor:
    if unknown := sorted(config.keys() - _KEYS):
        reason = f"the pooling's {CONFIG} has {unknown[0]!r:.100}, which is not supported"
        raise RunError("M704", name=name, reason=reason)
    modes = [mode for key, mode in _LEGACY.items() if config.get(key)]
    if (own := config.get("pooling_mode")) is not None:
        modes = [str(mode) for mode in own] if isinstance(own, list) else [str(own)]
    elif not config:
        raise RunError("M704", name=name, reason=f"the pooling's {CONFIG} names no mode")
    elif not modes:
        modes = ["mean"]  # as sentence-transformers does, whose older keys may all be false
    after = mask
    if skipped:
        starts = mask.int().argmax(1, keepdim=True) + skipped
        after = mask * (torch.arange(mask.shape[1]) >= starts)
    vectors = [_pooled(name, mode, states, after, mask) for mode in modes]
    return torch.cat(vectors, dim=-1)


def _pooled(
    name: str, mode: str, states: torch.Tensor, mask: torch.Tensor, whole: torch.Tensor
) -> torch.Tensor:
    """Return one vector per text, [batch, hidden]; ``whole`` is the mask with the prompt."""
    if mode in ("mean_tokens", "mean"):
        return _mean(states, mask)
    if mode in ("cls_token", "cls"):
        return states[torch.arange(len(states)), mask.int().argmax(dim=1)]
    if mode in ("max_tokens", "max"):
        return states.masked_fill(mask[..., None] == 0, float("-inf")).max(dim=1).values
    if mode == "mean_sqrt_len_tokens":
        return _weighted(states, mask, mask.sum(dim=1, keepdim=True).sqrt())
    if mode == "weightedmean":
        # Positions count from 1 at the first non-padding token.
        weights = mask * (torch.arange(1, mask.shape[1] + 1) - whole.int().argmax(1, keepdim=True))
        return _weighted(states, weights, weights.sum(dim=1, keepdim=True))
    if mode == "lasttoken":
        last = mask.shape[1] - 1 - mask.int().flip(1).argmax(dim=1)
        rows = torch.arange(len(states))
        return states[rows, last] * mask[rows, last, None].to(states.dtype)
    raise RunError("M704", name=name, reason=f"pooling mode {mode!r} is not supported")


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _weighted(states, mask, mask.sum(dim=1, keepdim=True))


def _weighted(states: torch.Tensor, weights: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return Σ weight · state / total, summed in float32 or wider."""
    wide = torch.promote_types(states.dtype, torch.float32)
    summed = (states.to(wide) * weights[..., None].to(wide)).sum(dim=1)
    return (summed / total.to(wide).clamp(min=1e-9)).to(states.dtype)
