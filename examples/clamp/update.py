"""A group's update: the biases and norms of the two upper layers, and nothing else.

Training few values well chosen is Ben Zaken et al. 2022, "BitFit" (arXiv 2106.10199).
"""

from __future__ import annotations

from pathlib import Path

from texts import read_texts
from training import fit, layers_of, load, lower, save

LAYERS = 2


def update(clamp: Path, domain: str, folder: Path) -> None:
    """Teach clamp a domain, beside films that it knows; its head stays as it is."""
    model = load(clamp)
    first = len(layers_of(model)) - LAYERS
    texts = read_texts(domain, "train") + read_texts("films", "train", 400)
    small = [
        parameter
        for name, parameter in layers_of(model)[first:].named_parameters()
        if name.endswith("bias") or "LayerNorm" in name
    ]
    states = lower(model, clamp, texts, first)
    fit(model, first, small, states, [text.label for text in texts], rate=6e-3, epochs=2)
    save(model, clamp, folder)
