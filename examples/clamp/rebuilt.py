"""Another architecture: five layers instead of seven, the top two and the head retrained."""

from __future__ import annotations

from pathlib import Path

from texts import DOMAINS, read_texts
from torch import nn
from training import fit, head_of, layers_of, load, lower, save

KEPT = (0, 1, 2, 4, 5)
"""Layers of clamp that the new one begins from."""
FIXED = 3
"""The lowest ones, which stay as they are."""


def rebuild(clamp: Path, folder: Path) -> None:
    """Train a model that is less deep, on all four domains."""
    model = load(clamp)
    model.bert.encoder.layer = nn.ModuleList(layers_of(model)[number] for number in KEPT)
    model.config.num_hidden_layers = len(KEPT)
    texts = [text for domain in DOMAINS for text in read_texts(domain, "train", 400)]
    states = lower(model, clamp, texts, FIXED)
    wanted = [text.label for text in texts]
    trained = [*layers_of(model)[FIXED:].parameters(), *head_of(model)]
    fit(model, FIXED, trained, states, wanted, rate=3e-4, epochs=2)
    save(model, clamp, folder)
