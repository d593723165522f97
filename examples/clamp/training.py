"""Fine-tuning clamp on a CPU: what the groups' scripts share.

Layers below those that are trained do not change, so each text goes through them once; what they
give is kept, and training begins there. A group trains in half a minute.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from texts import Text
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

# It reports each newly initialised head, which is intended here.
logging.set_verbosity_error()
logging.disable_progress_bar()

LENGTH = 64
"""Longest text in training, in tokens."""
BATCH = 32


def load(folder: Path, labels: Sequence[str] | None = None) -> Any:
    """Return the classifier in a folder, in float32; with ``labels``, for a new head's."""
    torch.manual_seed(0)
    config: dict[str, Any] = {}
    if labels is not None:
        config = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": "single_label_classification",
            "ignore_mismatched_sizes": True,
        }
    found = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, **config
    )
    return found.eval()


def save(model: Any, source: Path, folder: Path) -> None:
    """Write a classifier with the tokenizer in ``source``, as transformers saves it."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)


def save_head(model: Any, folder: Path) -> None:
    """Write pooler and classifier alone, and the labels: a module of kind head."""
    tensors = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(("bert.pooler.", "classifier."))
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    labels = {key: getattr(model.config, key) for key in ("id2label", "label2id", "problem_type")}
    config = json.dumps({**labels, "num_labels": len(labels["id2label"])}, indent=2)
    (folder / "config.json").write_text(config + "\n", "utf-8")


def layers_of(model: Any) -> nn.ModuleList:
    """Return the layers of a classifier's encoder."""
    found: nn.ModuleList = model.bert.encoder.layer
    return found


def head_of(model: Any) -> list[nn.Parameter]:
    """Return the parameters of pooler and classifier."""
    return [*model.bert.pooler.parameters(), *model.classifier.parameters()]


def lower(model: Any, folder: Path, texts: Iterable[Text], layers: int) -> list[Tensor]:
    """Return what the embeddings and the lowest layers give for each text, [tokens, width]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer([t.text for t in texts], truncation=True, max_length=LENGTH)["input_ids"]
    return through(model, 0, layers, [torch.tensor(one) for one in found])


def through(model: Any, first: int, last: int, items: Sequence[Tensor]) -> list[Tensor]:
    """Return what layers from ``first`` to before ``last`` make of token ids or states."""
    states = [torch.empty(0)] * len(items)
    with torch.no_grad():
        for places in batches(items, range(len(items))):
            given, mask = padded([items[place] for place in places])
            if given.ndim == 2:
                given = model.bert.embeddings(given)
            for layer in layers_of(model)[first:last]:
                given = layer(given, mask)
            for place, row in zip(places, given, strict=True):
                states[place] = row[: len(items[place])].clone()
    return states


def batches(items: Sequence[Tensor], places: Iterable[int]) -> Iterator[list[int]]:
    """Yield places of items of about the same length."""
    order = sorted(places, key=lambda place: len(items[place]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return items of one length, and what is added to attention: too little for padding."""
    lengths = torch.tensor([len(item) for item in items])
    padding = torch.arange(int(lengths.max())) >= lengths[:, None]
    return nn.utils.rnn.pad_sequence(list(items), True), padding[:, None, None, :] * -1e9


def logits(model: Any, first: int, items: Sequence[Tensor]) -> Tensor:
    """Return the logits for some texts, from the states that enter the layer ``first``."""
    given, mask = padded(items)
    for layer in layers_of(model)[first:]:
        given = layer(given, mask)
    found: Tensor = model.classifier(model.dropout(model.bert.pooler(given)))
    return found


def fit(
    model: Any,
    first: int,
    trained: Iterable[nn.Parameter],
    states: Sequence[Tensor],
    labels: Sequence[int],
    *,
    rate: float,
    epochs: int,
) -> None:
    """Train some parameters on the states that enter the layer ``first``; others stay."""
    torch.manual_seed(0)
    parameters = list(trained)
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    model.dropout.train(model.classifier.weight.requires_grad)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    steps = epochs * (len(states) // BATCH + len(states) // (16 * BATCH) + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    answers = torch.tensor(labels)
    for _ in range(epochs):
        for chunk in torch.randperm(len(states)).split(16 * BATCH):
            for places in batches(states, chunk.tolist()):
                guess = logits(model, first, [states[place] for place in places])
                optimizer.zero_grad()
                nn.functional.cross_entropy(guess, answers[places]).backward()
                optimizer.step()
                schedule.step()
    model.eval()


def accuracy(model: Any, first: int, states: Sequence[Tensor], labels: Sequence[int]) -> float:
    """Return the share of texts that are labelled right."""
    right = 0
    with torch.no_grad():
        for places in batches(states, range(len(states))):
            guesses = logits(model, first, [states[p] for p in places]).argmax(-1).tolist()
            right += sum(g == labels[p] for g, p in zip(guesses, places, strict=True))
    return right / len(states)
