"""Fine-tuning the upper layers of clamp on a CPU: what all the groups' scripts share.

The layers below those that are trained do not change, so each text goes through them once; what
they give is kept, and the layers above are trained on that. So a group trains in half a minute.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from texts import LABELS, Text
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

LENGTH = 64
"""Longest text in training, in tokens."""
BATCH = 32
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class Head(nn.Module):
    """A pooler and a classifier, as BertForSequenceClassification applies them."""

    def __init__(self, labels: Sequence[str] = LABELS, width: int = 384) -> None:
        super().__init__()
        self.labels = list(labels)
        self.pooler = nn.Sequential()
        self.pooler.dense = nn.Linear(width, width)
        self.classifier = nn.Linear(width, len(labels))
        self.dropout = nn.Dropout(0.2)

    def forward(self, states: Tensor) -> Tensor:
        """Return logits, [texts, labels], from states, [texts, tokens, width]."""
        scores: Tensor = self.classifier(self.dropout(self.pooler(states[:, 0]).tanh()))
        return scores

    def save(self, folder: Path) -> None:
        """Write the four tensors and the part of config.json that a head brings."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS, {"format": "pt"})
        config = {
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "label2id": {label: number for number, label in enumerate(self.labels)},
            "num_labels": len(self.labels),
            "problem_type": "single_label_classification",
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    @staticmethod
    def load(folder: Path) -> Head:
        """Read a head that was saved."""
        labels = json.loads((folder / CONFIG).read_text("utf-8"))["id2label"].values()
        head = Head(list(labels))
        head.load_state_dict(load_file(folder / WEIGHTS))
        return head


def load_encoder(folder: Path) -> Any:
    """Return the encoder in a Hugging Face folder, in float32, not in training."""
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def save_encoder(encoder: Any, source: Path, folder: Path) -> None:
    """Write an encoder whose tokenizer and other files are those of the folder ``source``."""
    from shutil import copytree, ignore_patterns

    copytree(source, folder, ignore=ignore_patterns(WEIGHTS, "modpkg.toml", "dist", "report.json"))
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    config["num_hidden_layers"] = len(encoder.encoder.layer)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def lower_states(encoder: Any, folder: Path, texts: Iterable[Text], layers: int) -> list[Tensor]:
    """Return what the embeddings and the lowest layers give for each text, [tokens, width]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer([t.text for t in texts], truncation=True, max_length=LENGTH)["input_ids"]
    ids = [torch.tensor(one) for one in found]
    states = [torch.empty(0)] * len(ids)
    with torch.inference_mode():
        for places in batches(ids, range(len(ids))):
            tokens = nn.utils.rnn.pad_sequence([ids[place] for place in places], True)
            given, mask = encoder.embeddings(tokens), hidden([ids[place] for place in places])
            for layer in encoder.encoder.layer[:layers]:
                given = layer(given, mask)
            for place, row in zip(places, given, strict=True):
                states[place] = row[: len(ids[place])].clone()
    return [state.clone() for state in states]


def batches(items: Sequence[Tensor], places: Iterable[int]) -> Iterator[list[int]]:
    """Yield places of items of about the same length."""
    order = sorted(places, key=lambda place: len(items[place]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def hidden(items: Sequence[Tensor]) -> Tensor:
    """Return what is added to attention: nothing for tokens, and too little for padding."""
    lengths = torch.tensor([len(item) for item in items])
    padding = torch.arange(int(lengths.max())) >= lengths[:, None]
    return padding[:, None, None, :] * -1e9


def upper(layers: Iterable[nn.Module], head: Head, states: Sequence[Tensor]) -> Tensor:
    """Return the logits for some texts, from the states that enter ``layers``."""
    given, mask = nn.utils.rnn.pad_sequence(list(states), True), hidden(states)
    for layer in layers:
        given = layer(given, mask)
    logits: Tensor = head(given)
    return logits


def fit(
    layers: nn.ModuleList,
    head: Head,
    trained: Iterable[nn.Parameter],
    states: Sequence[Tensor],
    labels: Sequence[int],
    *,
    rate: float,
    epochs: int,
    seed: int = 0,
) -> None:
    """Train some parameters of layers and head; all others stay as they are."""
    torch.manual_seed(seed)
    parameters = list(trained)
    for parameter in (*layers.parameters(), *head.parameters()):
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    head.train(any(parameter.requires_grad for parameter in head.parameters()))
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    steps = epochs * -(-len(states) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 64)
    answers = torch.tensor(labels)
    for _ in range(epochs):
        for chunk in torch.randperm(len(states)).split(16 * BATCH):
            for places in batches(states, chunk.tolist()):
                logits = upper(layers, head, [states[place] for place in places])
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits, answers[places]).backward()
                optimizer.step()
                schedule.step()
    head.eval()


def accuracy(layers: Iterable[nn.Module], head: Head, states: list[Tensor], labels: Any) -> float:
    """Return the share of texts that are labelled right."""
    layers, right = list(layers), 0
    with torch.inference_mode():
        for places in batches(states, range(len(states))):
            guesses = upper(layers, head, [states[place] for place in places]).argmax(-1)
            right += sum(g == labels[p] for g, p in zip(guesses.tolist(), places, strict=True))
    return right / len(states)
