"""Fine-tuning clamp on a CPU: what the groups' scripts share.

Layers below those that are trained do not change, so each text goes through them once; what they
give is kept, for later groups too that have the same layers, and training begins there. Pooler and
classifier read the first token alone, so the top layer is computed for no other. A group trains in
a few seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence, Sized
from hashlib import sha256
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
KEPT = (3, 4, 6)
"""Numbers of layers whose states are kept for later groups: those above which groups train."""
_kept: dict[tuple[bytes, tuple[int, ...]], Tensor] = {}
"""States by the weights that they went through, and by token ids."""


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
    """Return what the embeddings and the lowest layers give for each text, [tokens, width].

    Above all layers these are the states of the first token alone, [1, width].
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer([t.text for t in texts], truncation=True, max_length=LENGTH)["input_ids"]
    with torch.no_grad():
        return states_above(model, layers, [tuple(ids) for ids in found])


def states_above(model: Any, layers: int, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the states above some layers of texts as token ids; each is computed at most once."""
    weights = digest(model, layers) if layers in KEPT else b""
    new = [ids for ids in dict.fromkeys(texts) if (weights, ids) not in _kept]
    below = states_above(model, layers - 1, new) if layers and new else []
    found: dict[tuple[int, ...], Tensor] = {}
    for places in batches(new, range(len(new))):
        if layers:
            given, mask = padded([below[place] for place in places])
            states = raised(model, layers - 1, given, mask)
        else:
            given, _ = padded([torch.tensor(new[place]) for place in places])
            states = model.bert.embeddings(given)
        for place, row in zip(places, states, strict=True):
            found[new[place]] = row[: len(new[place])].clone()
    if layers in KEPT:
        _kept.update({(weights, ids): states for ids, states in found.items()})
    return [found[ids] if ids in found else _kept[weights, ids] for ids in texts]


def digest(model: Any, layers: int) -> bytes:
    """Return a digest of the weights up to the given number of layers, and of the number left."""
    found = sha256(bytes([layers, len(layers_of(model)) == layers]))
    for module in (model.bert.embeddings, *layers_of(model)[:layers]):
        for tensor in module.state_dict().values():
            found.update(tensor.numpy().data)
    return found.digest()


def batches(items: Sequence[Sized], places: Iterable[int]) -> Iterator[list[int]]:
    """Yield places of items of about the same length."""
    order = sorted(places, key=lambda place: len(items[place]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return items of one length, and what is added to attention: too little for padding."""
    lengths = torch.tensor([len(item) for item in items])
    padding = torch.arange(int(lengths.max())) >= lengths[:, None]
    return nn.utils.rnn.pad_sequence(list(items), True), padding[:, None, None, :] * -1e9


def raised(model: Any, number: int, states: Tensor, mask: Tensor) -> Tensor:
    """Return what a layer makes of states; the top one, of each text's first token alone.

    That is all that pooler and classifier read, a row in twenty; the others only give it keys and
    values.
    """
    layer = layers_of(model)[number]
    found: Tensor
    if number + 1 < len(layers_of(model)):
        found = layer(states, mask)
    else:
        own, first = layer.attention.self, states[:, :1]
        query, key, value = (
            dense(given).unflatten(-1, (own.num_attention_heads, -1)).transpose(1, 2)
            for dense, given in ((own.query, first), (own.key, states), (own.value, states))
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value, mask)
        attended = layer.attention.output(seen.transpose(1, 2).flatten(2), first)
        found = layer.output(layer.intermediate(attended), attended)
    return found


def logits(model: Any, first: int, items: Sequence[Tensor]) -> Tensor:
    """Return the logits for some texts, from the states that enter the layer ``first``."""
    states, mask = padded(items)
    for number in range(first, len(layers_of(model))):
        states = raised(model, number, states, mask)
    found: Tensor = model.classifier(model.dropout(model.bert.pooler(states)))
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
