"""A tiny encoder with heads, as modules that tests build, publish and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from modpkg.core.records import IndexLine
from tests.modules import write_module
from tests.runtime.helpers import WORDS, bert, tokenizer
from tests.tiny import publish

LABELS = ["bad", "good"]
NOUNS = WORDS[3:]


def texts(count: int) -> list[str]:
    """Return texts that are all different."""
    size = len(NOUNS)
    return [
        f"{NOUNS[n % size]} {NOUNS[n // size % size]} {NOUNS[n // size // size % size]}"
        for n in range(count)
    ]


def write_encoder(
    folder: Path, version: str = "1.0", *, noise: float = 0.0, more: str = ""
) -> Path:
    """Write an encoder; ``noise`` is what is added to its weights, relative to their spread."""
    model = bert()
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, tensor in model.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        spread = tensor.std() if tensor.numel() > 1 else 0.0
        tensors[name] = (tensor + noise * spread * drawn).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    config = model.config.to_dict() | {"architectures": ["BertModel"], "pad_token_id": 0}
    files = {"model.safetensors": save(tensors), "config.json": json.dumps(config).encode()}
    task = '[task]\nkind = "feature-extraction"\n'
    return write_module(folder, "encoder", version, "base", {}, task + more, files)


def head_weights(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "classifier.weight": torch.randn(2, 32, generator=generator) * scale,
        "classifier.bias": torch.zeros(2),
    }


def write_head(
    folder: Path,
    name: str = "mood",
    version: str = "1.0",
    *,
    seed: int = 0,
    scale: float = 1.0,
    base: str = ">=1",
    more: str = "",
    files: dict[str, bytes] | None = None,
) -> Path:
    """Write a head with two labels."""
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(n): label for n, label in enumerate(LABELS)},
        "label2id": {label: n for n, label in enumerate(LABELS)},
    }
    everything = {
        "model.safetensors": save(head_weights(seed, scale)),
        "config.json": json.dumps(config).encode(),
        **(files or {}),
    }
    return write_module(folder, name, version, "head", {"encoder": base}, more, everything)


def reference(head: Path, encoder: Path, asked: list[str]) -> list[str]:
    """Return the labels that transformers itself gives, without any of our code."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = json.loads((encoder / "config.json").read_text())
    config |= json.loads((head / "config.json").read_text())
    model: Any = BertForSequenceClassification(BertConfig.from_dict(config)).eval()
    state = load((encoder / "model.safetensors").read_bytes())
    state = {f"bert.{key}": value for key, value in state.items()}
    state |= load((head / "model.safetensors").read_bytes())
    model.load_state_dict(state)
    words = AutoTokenizer.from_pretrained(encoder)
    found = []
    with torch.inference_mode():
        for text in asked:
            ids = torch.tensor([words(text)["input_ids"]])
            found.append(LABELS[int(model(ids).logits[0].argmax())])
    return found


def labelled(head: Path, encoder: Path, count: int = 40, wrong: int = 0) -> bytes:
    """Return cases that the head gets right, but for the first ``wrong``."""
    asked = texts(count)
    labels = reference(head, encoder, asked)
    rows = []
    for number, (text, label) in enumerate(zip(asked, labels, strict=True)):
        if number < wrong:
            label = LABELS[1 - LABELS.index(label)]
        rows.append(json.dumps({"text": text, "label": label}))
    return "\n".join(rows).encode() + b"\n"


def table(
    name: str = "moods",
    cases: str = "tests/moods.jsonl",
    metric: str = "accuracy",
    more: str = "at_least = 0.9\n",
) -> str:
    return f'[[tests]]\nname = "{name}"\ncases = "{cases}"\nmetric = "{metric}"\n{more}'


def publish_encoder_and_head(registry: Path, projects: Path) -> tuple[IndexLine, IndexLine]:
    """Publish encoder 1.0, and mood 1.0 with a test that it passes."""
    encoder = write_encoder(projects / "encoder-1.0")
    one = publish(encoder, registry)
    plain = write_head(projects / "plain")
    files = {"tests/moods.jsonl": labelled(plain, encoder)}
    head = write_head(projects / "mood-1.0", more=table(), files=files)
    return one, publish(head, registry)
