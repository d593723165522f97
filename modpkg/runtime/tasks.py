"""Tasks: from text to a result, the way the model's manifest says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from modpkg.compose.tokenizer import open_tokenizer
from modpkg.core.errors import RunError
from modpkg.core.filenames import MODULES
from modpkg.core.installed import read_model
from modpkg.runtime.architecture import transformers_module
from modpkg.runtime.batches import classify, embed_texts, generate
from modpkg.runtime.load import load_model
from modpkg.runtime.pooling import embedder

WRITING = ("text-generation", "summarization")
KNOWN = (*WRITING, "text-classification", "feature-extraction")
Stream = Callable[[str], None]


class TaskResult(Struct, frozen=True, omit_defaults=True):
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
) -> TaskResult:
    """Run an installed model on a text.

    Generation is greedy, so it can be repeated; ``stream`` gets the text piece by piece. A text
    that is longer than the model's context is cut, and ``warn`` is told.

    Raises:
        RunError, and what `load_model` raises.
    """
    record = read_model(folder)
    model = load_model(folder, packs)
    task = record.task or {"kind": inferred_task(record.name, model, folder)}
    kind = str(task["kind"])
    tokenizer = load_tokenizer(record.name, folder)
    with torch.inference_mode():
        if kind in WRITING:
            streamer = _streamer(tokenizer, stream)
            made = generate(model, tokenizer, task, [text], warn=warn, streamer=streamer)
            return TaskResult(kind, text=made[0])
        if kind == "text-classification":
            labels = classify(model, tokenizer, task, [text], warn=warn)[0]
            return TaskResult(kind, labels=sorted(labels.items(), key=lambda pair: -pair[1]))
        if kind == "feature-extraction":
            vectors = embed_texts(
                embedder(record, folder, packs), model, tokenizer, task, [text], warn=warn
            )
            return TaskResult(kind, embedding=vectors[0].tolist())
    raise RunError("M705", name=record.name, task=kind, known=", ".join(KNOWN))


def load_tokenizer(name: str, folder: Path) -> Any:
    """Return a model's tokenizer, from its folder and nowhere else.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    return open_tokenizer(
        transformers_module(),
        folder,
        lambda reason: RunError("M704", name=name, reason=f"no tokenizer ({reason})"),
    )


def inferred_task(name: str, model: Any, folder: Path) -> str:
    """Return the task that an architecture is made for."""
    architecture = type(model).__name__
    if architecture.endswith("ForSequenceClassification"):
        return "text-classification"
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return "text-generation"
    if architecture.endswith("Model") or (folder / MODULES).exists():
        return "feature-extraction"
    raise RunError("M705", name=name, task=f"of {architecture}", known=", ".join(KNOWN))


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
