"""Running a model on many texts, in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from modpkg.core.errors import RunError
from modpkg.core.printable import error_text
from modpkg.runtime.pooling import Embedder
from modpkg.runtime.prompt import Conversation, check_ids, rows_of, token_ids
from modpkg.runtime.sampling import MAX_NEW_TOKENS, TextGeneration, cut
from modpkg.runtime.sentence_texts import SentenceTexts
from modpkg.runtime.virtual_tokens import VIRTUAL

MOST_TEXTS = 32
MOST_TOKENS = 8192
"""Maximum tokens per batch, padding included."""

Warn = Callable[[str], None]
Tick = Callable[[int], None]
"""Called after each batch with its number of texts."""


_OF_CONFIGS = (TypeError, ValueError, IndexError, AttributeError, KeyError, ImportError, OSError)
"""What transformers raises for a setting that it cannot follow, or for want of a package."""


def context_of(model: Any, tokenizer: Any) -> int:
    """Return the maximum number of text tokens that the model takes."""
    limits = [getattr(model.config, "max_position_embeddings", None)]
    limits.append(getattr(tokenizer, "model_max_length", None))
    most = min((n for n in limits if isinstance(n, int) and n > 0), default=1 << 30)
    return max(1, most - getattr(model, VIRTUAL, 0))


def encode(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str | Conversation,
    limit: int,
    warn: Warn,
    *,
    whole: int = 0,
) -> list[int]:
    """Return a text's token ids; call ``warn`` if the text was truncated.

    There are at most ``limit``, or ``whole`` if the text has no more than these.
    """
    ids, cut = token_ids(tokenizer, task, text, limit, whole=whole)
    if cut:
        context = context_of(model, tokenizer)
        warn(f"the text is longer than the model's {context} tokens; it was truncated")
    check_ids(model, ids)
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
    """Return the probability of each label for each text, as transformers' pipeline gives it.

    A model with one label has a probability of its own for it, and one that was trained as a
    regression has its value.
    """
    limit = context_of(model, tokenizer)
    encoded = [encode(model, tokenizer, {**task, "chat": False}, t, limit, warn) for t in texts]
    # Decoders classify at the last non-padding token; without a padding id, texts run one by one.
    rows, pad = rows_of(model), getattr(model.config, "pad_token_id", None)
    one_by_one = pad is None or (rows is not None and pad >= rows)
    problem = getattr(model.config, "problem_type", None)
    results: list[dict[str, float]] = [{}] * len(texts)
    for places in _batches(encoded, most=1 if one_by_one else MOST_TEXTS):
        ids, mask = _padded(
            [encoded[place] for place in places], _pad_id(model, tokenizer), model.device
        )
        logits = model(ids, attention_mask=mask).logits.float()
        if problem == "multi_label_classification" or logits.shape[-1] == 1:
            values = logits if problem == "regression" else logits.sigmoid()
        else:
            values = logits if problem == "regression" else logits.softmax(-1)
        for place, row in zip(places, values.tolist(), strict=True):
            labels = [str(model.config.id2label[number]) for number in range(len(row))]
            results[place] = dict(zip(labels, row, strict=True))
        tick(len(places))
    return results


def embed_texts(
    embed: Embedder,
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    texts: Sequence[str],
    *,
    prompt_name: str | None = None,
    warn: Warn,
    tick: Tick = lambda count: None,
) -> list[torch.Tensor]:
    """Return the embedding of each text: float32, [width].

    Before each text comes the model's prompt of the name ``prompt_name``, by default the one that
    the model itself names; a task's own prompt takes its place.

    Raises:
        RunError: The model has no prompt of this name, or its tokenizer fails.
    """
    prepared = SentenceTexts(embed.settings, model, tokenizer, context_of(model, tokenizer))
    own = task.get("prompt") if prompt_name is None else None
    if own:
        limit = prepared.limit
        encoded = [encode(model, tokenizer, {**task, "chat": False}, t, limit, warn) for t in texts]
        prompt_length = 0
    else:
        prompt = embed.settings.prompt(prompt_name)
        encoded = [prepared.encode(prompt + text, warn) for text in texts]
        prompt_length = prepared.prompt_length(prompt)
    results: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for places in _batches(encoded):
        ids, mask = _padded(
            [encoded[place] for place in places], _pad_id(model, tokenizer), model.device
        )
        states = model(ids, attention_mask=mask).last_hidden_state
        vectors = embed(states.cpu(), mask.cpu(), prompt_length).float()
        for place, vector in zip(places, vectors, strict=True):
            results[place] = vector.clone()
        tick(len(places))
    return results


def generate(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    texts: Sequence[str | Conversation],
    *,
    how: TextGeneration,
    warn: Warn,
    tick: Tick = lambda count: None,
    streamer: Any = None,
) -> list[str]:
    """Return the generated text for each text or conversation.

    ``how`` is from `generation_of`; ``streamer`` is a transformers streamer, for a single text.
    Where prompt and new tokens do not fit the model's context together, fewer tokens are generated;
    a prompt is truncated only if it has no place there by itself.

    Raises:
        RunError: The tokenizer or its chat template fails, or the generation config cannot be used.
    """
    config = model.generation_config
    context = context_of(model, tokenizer)
    new = how.max_new_tokens or min(MAX_NEW_TOKENS, max(1, context // 2))
    encoder_decoder = bool(model.config.is_encoder_decoder)
    if encoder_decoder:  # the answer has positions of its own
        limit = whole = context
        most = getattr(model.config, "max_position_embeddings", None) or new
        room = [min(new, most)] * len(texts)
    else:
        whole, limit = context - 1, max(1, context - min(new, max(1, context // 2)))
    encoded = [encode(model, tokenizer, task, text, limit, warn, whole=whole) for text in texts]
    if not encoder_decoder:
        room = [max(1, min(new, context - len(ids))) for ids in encoded]
    options = {"streamer": streamer, **how.options}
    if how.seed is None:  # transformers warns of values that greedy decoding does not use
        for name in ("temperature", "top_p", "top_k"):
            setattr(config, name, options.pop(name))
    if config.pad_token_id is None:
        options["pad_token_id"] = model.config.pad_token_id or tokenizer.eos_token_id
    results = [""] * len(texts)
    for places in _batches(encoded, extra=room):
        options["max_new_tokens"] = room[places[0]]
        batch = [encoded[place] for place in places]
        pad, left = _pad_id(model, tokenizer), not encoder_decoder
        ids, mask = _padded(batch, pad, model.device, left=left)
        if how.stop:
            start = 0 if encoder_decoder else ids.shape[1]
            options["stopping_criteria"] = [_stops_at(how.stop, tokenizer, start)]
        try:
            with _seeded(how.seed, model.device):
                output = model.generate(
                    ids, attention_mask=mask, trust_remote_code=False, **options
                )
        except _OF_CONFIGS as error:
            text = error_text(error).rstrip(".")
            what = "Generating text with the model's generation_config.json"
            raise RunError("M726", what=what, reason=text) from None
        for place, row in zip(places, output, strict=True):
            new_ids = row if encoder_decoder else row[ids.shape[1] :]
            text = str(tokenizer.decode(new_ids, skip_special_tokens=True))
            results[place] = cut(text, how.stop).strip()
        tick(len(places))
    return results


def _stops_at(stop: Sequence[str], tokenizer: Any, start: int) -> Callable[..., torch.Tensor]:
    """Return a criterion of transformers for rows whose tokens from ``start`` on have a stop.

    The one of transformers itself does not know every kind of tokenizer.
    """
    tail = max(map(len, stop)) + 8  # tokens; each of a text's characters is in one at least

    def is_done(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        ends = [tokenizer.decode(row) for row in ids[:, max(start, ids.shape[1] - tail) :]]
        return torch.tensor([any(s in end for s in stop) for end in ends], device=ids.device)

    return is_done


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers inside of the block; None: leave them alone."""
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def likelihoods(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    warn: Warn,
    tick: Tick = lambda count: None,
) -> list[tuple[float, int]]:
    """Return each text's log-likelihood in nats and the number of tokens scored.

    The text is used without the task's prompt; its first token is not scored.
    """
    limit = context_of(model, tokenizer)
    encoded = [encode(model, tokenizer, {"chat": False}, text, limit, warn) for text in texts]
    results = [(0.0, 0)] * len(texts)
    for places in _batches(encoded):
        ids, mask = _padded(
            [encoded[place] for place in places], _pad_id(model, tokenizer), model.device
        )
        # Virtual tokens have logits too, before the text's.
        logits = model(ids, attention_mask=mask).logits[:, -ids.shape[1] : -1].float()
        wanted = ids[:, 1:, None]
        log_probabilities = logits.gather(2, wanted)[..., 0] - logits.logsumexp(-1)
        sums = torch.where(mask[:, 1:] == 1, log_probabilities, 0.0).double().sum(1)
        for place, total in zip(places, sums.tolist(), strict=True):
            results[place] = (total, len(encoded[place]) - 1)
        tick(len(places))
    return results


def _batches(
    encoded: Sequence[Sequence[int]], *, most: int = MOST_TEXTS, extra: Sequence[int] = ()
) -> Iterator[list[int]]:
    """Yield the indices of each batch's texts: sorted by length, so there is little padding.

    With ``extra``, the new tokens of each text, the texts of a batch have the same number of them.
    A longer text never has more.
    """
    order = sorted(range(len(encoded)), key=lambda place: (-len(encoded[place]), place))
    start = 0
    while start < len(order):
        first = order[start]
        longest = len(encoded[first]) + (extra[first] if extra else 0)
        count = max(1, min(most, MOST_TOKENS // max(longest, 1)))
        places = order[start : start + count]
        if extra:
            places = [place for place in places if extra[place] == extra[first]]
        yield places
        start += len(places)


def _padded(
    batch: Sequence[list[int]], pad: int, device: torch.device, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask on a device, [texts, longest]."""
    longest = max(map(len, batch))
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        span = slice(longest - len(text), None) if left else slice(None, len(text))
        ids[row, span] = torch.tensor(text, dtype=ids.dtype)
        mask[row, span] = 1
    return ids.to(device), mask.to(device)


def _pad_id(model: Any, tokenizer: Any) -> int:
    """Return a token id to pad with, which the model has an embedding for."""
    rows = rows_of(model) or 1 << 60
    for owner in (model.config, tokenizer):
        value = getattr(owner, "pad_token_id", None)
        if isinstance(value, int) and 0 <= value < rows:
            return value
    return 0
