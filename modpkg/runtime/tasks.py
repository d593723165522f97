"""Running a model's task, as its manifest declares it, on a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct

from modpkg.compose.tokenizer import open_tokenizer
from modpkg.core.errors import RunError
from modpkg.core.installed import read_model
from modpkg.runtime.architecture import transformers_module
from modpkg.runtime.batches import classify, embed_texts, generate
from modpkg.runtime.load import load_model
from modpkg.runtime.pooling import embedder
from modpkg.runtime.sentence_modules import EMBEDS
from modpkg.runtime.task_kinds import CLASSIFIES, KNOWN, WRITING, task_of_architecture

Stream = Callable[[str], None]


class TaskResult(Struct, frozen=True, omit_defaults=True):
    """The result of a task. One of ``text``, ``labels`` and ``embedding`` is set."""

    task: str
    text: str | None = None
    """The generated text."""
    labels: list[tuple[str, float]] | None = None
    """Labels with their probabilities, most probable first."""
    embedding: list[float] | None = None
    """The text's embedding."""


def run_task(
    folder: Path,
    packs: Path,
    text: str,
    *,
    prompt_name: str | None = None,
    stream: Stream | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> TaskResult:
    """Run an installed model on a text.

    Generation is greedy and thus reproducible; ``stream`` is called with the text piece by piece. A
    text longer than the model's context is truncated, and ``warn`` is called. ``prompt_name``
    chooses one of the prompts of a model that embeds text.

    Raises:
        RunError: The model's task is not supported, it has no such prompt, or it cannot be loaded,
            see `load_model`.
    """
    record = read_model(folder)
    model = load_model(folder, packs)
    task = record.task or {"kind": inferred_task(record.name, model, folder)}
    kind = str(task["kind"])
    if prompt_name is not None and kind != EMBEDS:
        raise RunError("M725", name=record.name, task=kind)
    tokenizer = load_tokenizer(record.name, folder)
    with torch.inference_mode():
        if kind in WRITING:
            streamer = _streamer(tokenizer, stream)
            texts = generate(model, tokenizer, task, [text], warn=warn, streamer=streamer)
            return TaskResult(kind, text=texts[0])
        if kind == CLASSIFIES:
            labels = classify(model, tokenizer, task, [text], warn=warn)[0]
            return TaskResult(kind, labels=sorted(labels.items(), key=lambda pair: -pair[1]))
        if kind == EMBEDS:
            vectors = embed_texts(
                embedder(record, folder, packs),
                model,
                tokenizer,
                task,
                [text],
                prompt_name=prompt_name,
                warn=warn,
            )
            return TaskResult(kind, embedding=vectors[0].tolist())
    raise RunError("M705", name=record.name, task=kind, known=", ".join(KNOWN))


def load_tokenizer(name: str, folder: Path) -> Any:
    """Return the tokenizer in a model's folder.

    Raises:
        RunError: The folder has no tokenizer, or it cannot be read.
    """
    return open_tokenizer(
        transformers_module(),
        folder,
        lambda reason: RunError("M704", name=name, reason=f"no tokenizer ({reason})"),
    )


def inferred_task(name: str, model: Any, folder: Path) -> str:
    """Return the task of a model's architecture.

    Raises:
        RunError: The architecture has no supported task.
    """
    architecture = type(model).__name__
    files = [path.name for path in folder.iterdir()]
    if (task := task_of_architecture(architecture, files)) is not None:
        return task
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
