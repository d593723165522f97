"""Batches: what a model gives for many texts, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from modpkg.runtime.pooling import Embedder
from modpkg.runtime.prompt import token_ids
from modpkg.runtime.virtual import VIRTUAL

MOST_TEXTS = 32
MOST_TOKENS = 8192
"""Of a batch, padding included."""

Warn = Callable[[str], None]
Tick = Callable[[int], None]
"""Called after each batch with how many texts were in it."""


def context_of(model: Any, tokenizer: Any) -> int:
    """Return how many tokens a model takes."""
    limits = [getattr(model.config, "max_position_embeddings", None)]
    limits.append(getattr(tokenizer, "model_max_length", None))
    most = min((n for n in limits if isinstance(n, int) and n > 0), default=1 << 30)
    return max(1, most - getattr(model, VIRTUAL, 0))


def encode(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str,
    limit: int,
    warn: Warn,
) -> list[int]:
    """Return a text's token ids, no more than ``limit``; ``warn`` is told when it was cut."""
    ids, cut = token_ids(tokenizer, task, text, limit)
    if cut:
        context = context_of(model, tokenizer)
        warn(f"the text is longer than the model's {context} tokens; it was cut")
    return ids


def classify(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    texts: Sequence[str],
    *,
    warn: Warn,
    tick: Tick = lambda count: None,
) -> list[dict[str, float]]:
    """Return the probability of each label for each text; not finite where the model's are not."""
    limit = context_of(model, tokenizer)
    encoded = [encode(model, tokenizer, {**task, "chat": False}, t, limit, warn) for t in texts]
    # Decoders read their answer at the last token that is no padding: without an id for it, alone.
    alone = getattr(model.config, "pad_token_id", None) is None
    several = getattr(model.config, "problem_type", None) == "multi_label_classification"
    found: list[dict[str, float]] = [{}] * len(texts)
    for places in _batches(encoded, most=1 if alone else MOST_TEXTS):
        ids, mask = _padded([encoded[place] for place in places], _pad_id(model, tokenizer))
        logits = model(ids, attention_mask=mask).logits.float()
        probabilities = logits.sigmoid() if several else logits.softmax(-1)
        for place, row in zip(places, probabilities.tolist(), strict=True):
            labels = [str(model.config.id2label[number]) for number in range(len(row))]
            found[place] = dict(zip(labels, row, strict=True))
        tick(len(places))
    return found


def embed_texts(
    embed: Embedder,
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    texts: Sequence[str],
    *,
    warn: Warn,
    tick: Tick = lambda count: None,
) -> list[torch.Tensor]:
    """Return the embedding of each text: float32, [width]."""
    limit = context_of(model, tokenizer)
    encoded = [encode(model, tokenizer, {**task, "chat": False}, t, limit, warn) for t in texts]
    found: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for places in _batches(encoded):
        ids, mask = _padded([encoded[place] for place in places], _pad_id(model, tokenizer))
        states = model(ids, attention_mask=mask).last_hidden_state
        vectors = embed(states, mask).float()
        for place, vector in zip(places, vectors, strict=True):
            found[place] = vector.clone()
        tick(len(places))
    return found


def generate(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    texts: Sequence[str],
    *,
    warn: Warn,
    tick: Tick = lambda count: None,
    streamer: Any = None,
) -> list[str]:
    """Return what the model writes for each text, greedily: it can be repeated.

    ``streamer`` is one of transformers', for a single text.
    """
    new = int(task.get("max_new_tokens") or 256)
    limit = max(1, context_of(model, tokenizer) - new)
    encoded = [encode(model, tokenizer, task, text, limit, warn) for text in texts]
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": new, "streamer": streamer}
    for name in ("temperature", "top_p", "top_k"):  # sampling has no place in greedy decoding
        setattr(model.generation_config, name, None)
    if model.generation_config.pad_token_id is None:
        options["pad_token_id"] = model.config.pad_token_id or tokenizer.eos_token_id
    both = bool(model.config.is_encoder_decoder)
    found = [""] * len(texts)
    for places in _batches(encoded, extra=new):
        batch = [encoded[place] for place in places]
        ids, mask = _padded(batch, _pad_id(model, tokenizer), left=not both)
        output = model.generate(ids, attention_mask=mask, **options)
        for place, row in zip(places, output, strict=True):
            made = row if both else row[ids.shape[1] :]
            found[place] = str(tokenizer.decode(made, skip_special_tokens=True)).strip()
        tick(len(places))
    return found


def likelihoods(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    warn: Warn,
    tick: Tick = lambda count: None,
) -> list[tuple[float, int]]:
    """Return each text's log-likelihood in nats, and how many of its tokens that is of.

    The text is taken as it is, without the task's prompt; its first token has no likelihood.
    """
    limit = context_of(model, tokenizer)
    encoded = [encode(model, tokenizer, {"chat": False}, text, limit, warn) for text in texts]
    found = [(0.0, 0)] * len(texts)
    for places in _batches(encoded):
        ids, mask = _padded([encoded[place] for place in places], _pad_id(model, tokenizer))
        # Virtual tokens have logits too, before those of the text.
        logits = model(ids, attention_mask=mask).logits[:, -ids.shape[1] : -1].float()
        wanted = ids[:, 1:, None]
        told = logits.gather(2, wanted)[..., 0] - logits.logsumexp(-1)
        sums = torch.where(mask[:, 1:] == 1, told, 0.0).double().sum(1)
        for place, total in zip(places, sums.tolist(), strict=True):
            found[place] = (total, len(encoded[place]) - 1)
        tick(len(places))
    return found


def _batches(
    encoded: Sequence[Sequence[int]], *, most: int = MOST_TEXTS, extra: int = 0
) -> Iterator[list[int]]:
    """Yield places of texts that go together: the longest first, so that little is padded."""
    order = sorted(range(len(encoded)), key=lambda place: (-len(encoded[place]), place))
    start = 0
    while start < len(order):
        longest = len(encoded[order[start]]) + extra
        count = max(1, min(most, MOST_TOKENS // max(longest, 1)))
        yield order[start : start + count]
        start += count


def _padded(
    batch: Sequence[list[int]], pad: int, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, [texts, longest]."""
    longest = max(map(len, batch))
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        span = slice(longest - len(text), None) if left else slice(None, len(text))
        ids[row, span] = torch.tensor(text, dtype=ids.dtype)
        mask[row, span] = 1
    return ids, mask


def _pad_id(model: Any, tokenizer: Any) -> int:
    for owner in (model.config, tokenizer):
        value = getattr(owner, "pad_token_id", None)
        if isinstance(value, int) and value >= 0:
            return value
    return 0
