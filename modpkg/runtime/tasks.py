"""Tasks: from text to a result, the way the model's manifest says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from modpkg.compose.mapping import map_tensors
from modpkg.errors import TaskUnknown, WeightsDoNotFit
from modpkg.installed import InstalledModel, read_model
from modpkg.runtime.architecture import transformers_module
from modpkg.runtime.load import load_model
from modpkg.runtime.pooling import embed
from modpkg.runtime.prompt import token_ids
from modpkg.runtime.sentence import apart

KNOWN = ("text-generation", "summarization", "text-classification", "feature-extraction")
Stream = Callable[[str], None]


class Result(Struct, frozen=True, omit_defaults=True):
    """What a task gave; one of the three is set."""

    task: str
    text: str | None = None
    """Generated text."""
    labels: list[tuple[str, float]] | None = None
    """Labels with their probabilities, likeliest first."""
    embedding: list[float] | None = None


def run_task(
    folder: Path,
    packs: Path,
    text: str,
    *,
    stream: Stream | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> Result:
    """Run an installed model on a text.

    Generation is greedy, so it can be repeated; ``stream`` gets the text piece by piece. A text
    that is longer than the model's context is cut, and ``warn`` is told.

    Raises:
        TaskUnknown, and what `load_model` raises.
    """
    record = read_model(folder)
    model = load_model(folder, packs)
    task = record.task or {"kind": _inferred(record.name, model, folder)}
    kind = str(task["kind"])
    tokenizer = load_tokenizer(record.name, folder)
    with torch.inference_mode():
        if kind in ("text-generation", "summarization"):
            return Result(kind, text=_generate(model, tokenizer, task, text, stream, warn))
        if kind == "text-classification":
            return Result(kind, labels=_classify(model, tokenizer, task, text, warn))
        if kind == "feature-extraction":
            vector = _embed(record, folder, packs, model, tokenizer, task, text, warn)
            return Result(kind, embedding=vector)
    raise TaskUnknown(name=record.name, task=kind, known=", ".join(KNOWN))


def load_tokenizer(name: str, folder: Path) -> Any:
    """Return a model's tokenizer, from its folder and nowhere else.

    Raises:
        WeightsDoNotFit: there is none, or it cannot be read.
    """
    transformers = transformers_module()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsDoNotFit(name=name, reason=f"no tokenizer ({reason})") from None
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        # Without its files transformers makes an empty one, to which every word is unknown.
        raise WeightsDoNotFit(name=name, reason="no tokenizer (its files are missing)")
    return tokenizer


def _inferred(name: str, model: Any, folder: Path) -> str:
    """Return the task that an architecture is made for."""
    architecture = type(model).__name__
    if architecture.endswith("ForSequenceClassification"):
        return "text-classification"
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return "text-generation"
    if architecture.endswith("Model") or (folder / "modules.json").exists():
        return "feature-extraction"
    raise TaskUnknown(name=name, task=f"of {architecture}", known=", ".join(KNOWN))


def _context(model: Any, tokenizer: Any) -> int:
    limits = [getattr(model.config, "max_position_embeddings", None)]
    limits.append(getattr(tokenizer, "model_max_length", None))
    return int(min((n for n in limits if isinstance(n, int) and n > 0), default=1 << 30))


def _ids(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str,
    limit: int,
    warn: Callable[[str], None],
) -> Any:
    ids, cut = token_ids(tokenizer, task, text, limit)
    if cut:
        warn(f"the text is longer than the model's {_context(model, tokenizer)} tokens; it was cut")
    return torch.tensor([ids])


def _generate(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str,
    stream: Stream | None,
    warn: Callable[[str], None],
) -> str:
    new = int(task.get("max_new_tokens") or 256)
    ids = _ids(model, tokenizer, task, text, max(1, _context(model, tokenizer) - new), warn)
    streamer = _streamer(tokenizer, stream)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": new, "streamer": streamer}
    for name in ("temperature", "top_p", "top_k"):  # sampling has no place in greedy decoding
        setattr(model.generation_config, name, None)
    if model.generation_config.pad_token_id is None:
        options["pad_token_id"] = model.config.pad_token_id or tokenizer.eos_token_id
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    made = output[0] if model.config.is_encoder_decoder else output[0, ids.shape[1] :]
    return str(tokenizer.decode(made, skip_special_tokens=True)).strip()


def _streamer(tokenizer: Any, stream: Stream | None) -> Any:
    if stream is None:
        return None
    from transformers import TextStreamer

    begun = False

    def put(piece: str, stream_end: bool = False) -> None:
        nonlocal begun
        piece = piece if begun else piece.lstrip()
        begun = begun or bool(piece)
        if piece:
            stream(piece)

    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer.on_finalized_text = put
    return streamer


def _classify(
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str,
    warn: Callable[[str], None],
) -> list[tuple[str, float]]:
    ids = _ids(model, tokenizer, {**task, "chat": False}, text, _context(model, tokenizer), warn)
    logits = model(ids, attention_mask=torch.ones_like(ids)).logits[0].float()
    several = getattr(model.config, "problem_type", None) == "multi_label_classification"
    scores = logits.sigmoid() if several else logits.softmax(-1)
    labels = [str(model.config.id2label[number]) for number in range(len(scores))]
    return sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1])


def _embed(
    record: InstalledModel,
    folder: Path,
    packs: Path,
    model: Any,
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str,
    warn: Callable[[str], None],
) -> list[float]:
    ids = _ids(model, tokenizer, {**task, "chat": False}, text, _context(model, tokenizer), warn)
    mask = torch.ones_like(ids)
    states = model(ids, attention_mask=mask).last_hidden_state
    _, after = apart(record.name, folder, record.tensors)
    weights = {path: map_tensors(own.items(), packs) for path, own in after.items()}
    vector: list[float] = embed(record.name, folder, states, mask, weights)[0].float().tolist()
    return vector
